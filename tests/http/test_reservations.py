"""
Reservations over HTTP. The test runs the batches, and expires what is over as a worker does.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from processor.gateways.protocol import Answer
from processor.storage import connections
from processor.verify.checks import verify
from tests.http.holds import capture, expire, read, release
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.teller import Teller


@pytest.fixture
def shop(teller: Teller) -> Iterator[Teller]:
    """
    A stock of 10, of which an account may take or hold 5. At the end `verify` must find no discrepancy.
    """
    teller.open("sneaker", per_account_limit=5)
    yield teller
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        assert [str(found) for found in verify(connection)] == []


def reserve(teller: Teller, resource: str = "sneaker", amount: int = 3, **more: Any) -> str:
    """Submit a reservation and decide it. Returns its id."""
    body = {"resource": resource, "account": "u", "amount": amount, **more}
    answer = teller.client.post("/v1/reservations", body)
    assert answer.status_code == 202, answer.json
    teller.drain()
    return str(answer.json["id"])


def test_a_reservation_is_held_and_captured(shop: Teller) -> None:
    """
    It is held with `expires_at` ten minutes later by default. The capture is accepted with 202, and completes it.
    """
    asked = reserve(shop)
    held = read(shop, asked)
    assert (held["kind"], held["status"], held["stage"]) == ("reservation", "processing", "held")
    assert held["decided_at"] is not None
    assert held["finished_at"] is None
    expires = held["expires_at"].replace("T", " ").removesuffix("Z")
    with connections.connect(shop.settings.database_url, application_name="test") as connection:
        [(seconds,)] = connection.execute(
            "SELECT extract(epoch FROM %s::timestamptz - at)::float8 FROM decisions WHERE request_id = %s",
            (f"{expires}+00", asked),
        ).fetchall()
    assert seconds == pytest.approx(600)
    assert shop.quantities("sneaker") == (7, 3)

    accepted = capture(shop, asked)

    assert (accepted.status_code, accepted.json["stage"]) == (202, "held")
    assert accepted.headers["Location"] == f"/v1/requests/{asked}"
    done = read(shop, asked)
    assert (done["status"], done["result"], done["amount"]) == ("completed", {"captured": 3}, 3)
    assert "expires_at" not in done
    assert shop.quantities("sneaker") == (7, 0)
    entries = shop.client.get(f"/v1/requests/{asked}/entries").json["data"]
    assert [(entry["kind"], entry["amount"]) for entry in entries] == [("capture", 3), ("hold", 3)]


def test_a_release_gives_everything_back(shop: Teller) -> None:
    """
    The request is cancelled with `released`, and the account may take all of its limit again.
    """
    asked = reserve(shop, amount=5)
    assert shop.status(reserve(shop, amount=1)) == "limit_reached"

    assert release(shop, asked).status_code == 202

    done = read(shop, asked)
    assert (done["status"], done["error"], done["result"]) == ("cancelled", {"code": "released"}, None)
    assert done["finished_at"] is not None
    assert shop.quantities("sneaker") == (10, 0)
    assert read(shop, reserve(shop, amount=5))["stage"] == "held"


def test_only_what_is_held_is_captured_or_released_and_once(shop: Teller) -> None:
    """
    A second capture or release is refused with `not_held`, also before the first one is decided. So is one of a
    request that is queued, or of another kind. A cancel of a held reservation is refused: it is decided already.
    """
    queued = shop.client.post("/v1/reservations", {"resource": "sneaker", "account": "u"}).json["id"]
    assert capture(shop, queued).json["code"] == "not_held"
    assert shop.client.post(f"/v1/requests/{queued}/cancel").json["code"] == "not_cancellable"
    first = shop.client.post(f"/v1/requests/{queued}/capture")
    assert first.status_code == 202
    for verb in ("capture", "release"):
        second = shop.client.post(f"/v1/requests/{queued}/{verb}")
        assert (second.status_code, second.json["code"]) == (409, "not_held")
    shop.drain()
    assert capture(shop, queued).json["code"] == "not_held"
    taken = shop.client.post("/v1/redemptions", {"resource": "sneaker", "account": "u"}).json["id"]
    assert capture(shop, taken).status_code == 409
    assert release(shop, taken).status_code == 409
    assert shop.quantities("sneaker") == (8, 0)


def test_a_cancel_before_the_turn_of_a_reservation_counts(shop: Teller) -> None:
    """
    A reservation that is still queued is cancelled like any other request.
    """
    queued = shop.client.post("/v1/reservations", {"resource": "sneaker", "account": "u"}).json["id"]
    assert shop.client.post(f"/v1/requests/{queued}/cancel").status_code == 202
    shop.drain()

    assert shop.status(queued) == "cancelled_by_client"
    assert shop.quantities("sneaker") == (10, 0)


def test_a_reservation_that_is_not_captured_in_time_is_cancelled(shop: Teller) -> None:
    """
    After `ttl_seconds` a capture is refused, and everything is back. The account is within its limit again.
    """
    asked = reserve(shop, ttl_seconds=1)
    eventually(lambda: expire(shop) == 1)

    late = shop.client.post(f"/v1/requests/{asked}/capture")
    assert (late.status_code, late.json["code"]) == (409, "not_held")
    done = read(shop, asked)
    assert (done["status"], done["error"]["code"]) == ("cancelled", "reservation_expired")
    assert shop.quantities("sneaker") == (10, 0)
    assert expire(shop) == 0


def test_a_capture_of_a_paused_partition_counts_after_the_expiry(shop: Teller) -> None:
    """
    The capture is accepted before the expiry, while the partition is paused until after it: it is carried out.
    """
    asked = reserve(shop, ttl_seconds=2)
    partition = shop.admin.get("/v1/resources/sneaker").json["partition"]
    assert shop.operator.post(f"/v1/admin/partitions/{partition}/pause").status_code == 200
    assert capture(shop, asked).status_code == 202
    assert read(shop, asked)["stage"] == "held"
    time.sleep(2.1)  # the time of the hold is over now
    assert expire(shop) == 0

    assert shop.operator.post(f"/v1/admin/partitions/{partition}/resume").status_code == 200
    assert expire(shop) == 0
    shop.drain()

    assert read(shop, asked)["result"] == {"captured": 3}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"ttl_seconds": 0}, "/ttl_seconds"),
        ({"ttl_seconds": 2_592_001}, "/ttl_seconds"),
        ({"ttl_seconds": "60"}, "/ttl_seconds"),
        ({"amount": 0}, "/amount"),
        ({"apply_before": "2026-11-21T23:15:00Z"}, "/apply_before"),
    ],
)
@pytest.mark.changes_nothing
def test_a_reservation_outside_the_limits_is_invalid(teller: Teller, body: Any, pointer: str) -> None:
    """
    The time is 1 s to 30 days, and there are no other fields.
    """
    answer = teller.client.post("/v1/reservations", {"resource": "r", "account": "u", **body})

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]


def test_a_wait_ends_when_the_reservation_is_held(shop: Teller) -> None:
    """
    `Prefer: wait` answers 202 as soon as it is held, or 200 if it was refused. Once a capture is accepted, a GET
    waits for the end.
    """
    with ThreadPoolExecutor(1) as pool:
        body = {"resource": "sneaker", "account": "u", "amount": 3}
        waiting = pool.submit(shop.client.post, "/v1/reservations", body, Prefer="wait=20")
        eventually(lambda: shop.drain() != [])
        held = waiting.result()
        assert (held.status_code, held.json["stage"]) == (202, "held")
        assert held.headers["Preference-Applied"] == "wait=20"
        path = f"/v1/requests/{held.json['id']}"
        assert shop.client.get(path, Prefer="wait=20").json["stage"] == "held"

        waiting = pool.submit(shop.client.post, "/v1/reservations", body, Prefer="wait=20")
        eventually(lambda: shop.drain() != [])
        assert (waiting.result().status_code, waiting.result().json["status"]) == (200, "rejected")

        assert shop.client.post(f"{path}/capture").status_code == 202
        waiting = pool.submit(shop.client.get, path, Prefer="wait=20")
        eventually(lambda: shop.services.waiters.count() == 1)
        shop.drain()
        assert waiting.result().json["status"] == "completed"


def test_a_large_reservation_waits_before_it_holds_anything(teller: Teller) -> None:
    """
    Above a threshold nothing is held before the approval. The time of the hold begins with it, and its capture waits
    no longer.
    """
    teller.open("vault", "balance", 1_000, approve_above=100, per_account_daily_limit=300)
    asked = reserve(teller, "vault", 200)
    assert read(teller, asked)["stage"] == "awaiting_approval"
    assert teller.quantities("vault") == (1_000, 0)
    assert teller.operator.post(f"/v1/admin/requests/{asked}/approve", {"reason": "known"}).status_code == 202
    teller.drain()
    assert read(teller, asked)["stage"] == "held"
    assert teller.status(reserve(teller, "vault", 101)) == "daily_limit_reached"

    assert capture(teller, asked).status_code == 202

    assert read(teller, asked)["status"] == "completed"
    assert teller.quantities("vault") == (800, 0)


@pytest.mark.parametrize(
    ("outcome", "end", "left"),
    [("done", "completed", (90, 0)), ("declined", "gateway_declined", (100, 0))],
)
def test_a_gateway_is_called_with_the_capture(
    teller: Teller, outcome: Any, end: str, left: tuple[int, int]
) -> None:
    """
    The amount stays held until the gateway answers. After a no, everything is back.
    """
    teller.open("bank", "balance", 100, gateway="sandbox")
    asked = reserve(teller, "bank", 10)
    assert read(teller, asked)["stage"] == "held"
    capture(teller, asked)
    assert read(teller, asked)["stage"] == "settling"
    assert teller.quantities("bank") == (90, 10)

    teller.call_gateway(Answer(outcome, 200, reference="p-1" if outcome == "done" else None))

    assert teller.status(asked) == end
    assert teller.quantities("bank") == left
    if outcome == "done":
        assert read(teller, asked)["result"] == {"reference": "p-1", "captured": 10}
    assert capture(teller, asked).status_code == 409


@pytest.mark.parametrize("gateway", [None, "sandbox"])
def test_a_part_is_captured_and_the_rest_released(teller: Teller, gateway: str | None) -> None:
    """
    4 of 10 are captured, and a gateway is asked for 4. The account may take the other 6 again. A refund gives back 4.
    """
    rules = {} if gateway is None else {"gateway": gateway}
    teller.open("bank", "balance", 100, per_account_limit=10, **rules)
    asked = reserve(teller, "bank", 10)
    for amount, pointer in ((11, "/amount"), (0, "/amount")):
        refused = teller.client.post(f"/v1/requests/{asked}/capture", {"amount": amount})
        assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, pointer)
    assert capture(teller, asked, {"amount": 4}).status_code == 202
    if gateway is not None:
        assert [order.amount for order in teller.call_gateway(Answer("done", 200))] == [4]

    done = read(teller, asked)
    assert (done["status"], done["amount"], done["result"]) == ("completed", 10, {"captured": 4})
    entries = teller.client.get(f"/v1/requests/{asked}/entries").json["data"]
    assert [(one["kind"], one["amount"]) for one in entries] == [("release", 6), ("capture", 4), ("hold", 10)]
    assert teller.quantities("bank") == (96, 0)
    assert read(teller, reserve(teller, "bank", 7))["error"]["code"] == "limit_reached"
    rest = reserve(teller, "bank", 6)
    assert release(teller, rest).status_code == 202

    path = f"/v1/admin/requests/{asked}/refund"
    for part, end in (({"amount": 5}, "refund_too_large"), ({"amount": 1}, "completed"), ({}, "completed")):
        refund = teller.admin.post(path, {"reason": "returned", **part}).json["id"]
        teller.drain()
        assert teller.status(refund) == end
    done = read(teller, asked)
    assert (done["status"], done["refunded"], done["result"]) == ("refunded", 4, {"captured": 4})
    assert teller.quantities("bank") == (100, 0)
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        assert [str(found) for found in verify(connection)] == []


def test_an_unknown_outcome_of_a_capture_fails_and_is_replayed(teller: Teller) -> None:
    """
    The hold stays. The replay calls the gateway again, and its time does not run out meanwhile.
    """
    teller.open("bank", "balance", 100, gateway="sandbox")
    asked = reserve(teller, "bank", 10, ttl_seconds=1)
    capture(teller, asked)
    teller.call_gateway(Answer("unknown", 503, reason="answered 503"))
    assert teller.status(asked) == "gateway_unreachable"
    assert teller.quantities("bank") == (90, 10)
    time.sleep(1.1)  # the time of the hold is over now
    assert expire(teller) == 0

    assert (
        teller.operator.post(f"/v1/admin/requests/{asked}/replay", {"reason": "it is back"}).status_code
        == 202
    )
    teller.drain()
    teller.call_gateway(Answer("done", 200))

    assert read(teller, asked)["result"] == {"captured": 10}


def test_a_captured_reservation_is_refunded(shop: Teller) -> None:
    """
    An admin gives back a part, and then the rest of what was captured.
    """
    asked = reserve(shop)
    capture(shop, asked)
    path = f"/v1/admin/requests/{asked}/refund"
    for amount, refunded, status in ((1, 1, "completed"), (None, 3, "refunded")):
        body = {"reason": "returned"} | ({} if amount is None else {"amount": amount})
        assert shop.admin.post(path, body).status_code == 202
        shop.drain()
        done = read(shop, asked)
        assert (done["status"], done["refunded"], done["result"]) == (status, refunded, {"captured": 3})
    assert shop.quantities("sneaker") == (10, 0)


def test_an_operator_releases_and_an_admin_captures_with_a_line_in_the_audit(shop: Teller) -> None:
    """
    Operators release and give a reason. Admins also capture. Clients give no reason, and no operator captures.
    """
    first, second = reserve(shop, amount=1), reserve(shop, amount=2)
    path = f"/v1/requests/{first}/release"
    assert shop.client.post(path, {"reason": "x"}).json["errors"][0]["pointer"] == "/reason"
    assert shop.operator.post(f"/v1/requests/{second}/capture").status_code == 403

    assert shop.operator.post(path, {"reason": "double"}).status_code == 202
    assert shop.admin.post(f"/v1/requests/{second}/capture").status_code == 202
    shop.drain()

    lines = shop.admin.get("/v1/admin/audit").json["data"]
    found = {(line["action"], line["request"], line["reason"]) for line in lines}
    assert {("release", first, "double"), ("capture", second, None)} <= found
    assert [shop.status(first), shop.status(second)] == ["released", "completed"]


def test_a_webhook_is_notified_of_the_end_of_a_hold(shop: Teller) -> None:
    """
    The end of a hold is an event of the status that it leads to; the hold itself is none.
    """
    webhook = shop.client.post("/v1/webhooks", {"url": "https://8.8.8.8/hook"}).json["id"]
    captured, released = reserve(shop, amount=1), reserve(shop, amount=1)
    capture(shop, captured)
    release(shop, released)
    shop.call_gateway()

    deliveries = shop.client.get(f"/v1/webhooks/{webhook}/deliveries").json["data"]
    assert {one["type"] for one in deliveries} == {"request.completed", "request.cancelled"}
