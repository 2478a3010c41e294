"""
Reservations with legs over HTTP. The test runs the batches, and expires what is over as a worker does.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from processor.storage import connections
from processor.verify.checks import verify
from tests.http.holds import capture, expire, read, release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.teller import Teller

SEATS: Final = ("12A", "12B", "12C")
ROW: Final = [{"resource": seat, "take": 1} for seat in SEATS]


@pytest.fixture
def shop(teller: Teller) -> Iterator[Teller]:
    """
    Three seats. At the end `verify` must find no discrepancy.
    """
    for seat in SEATS:
        teller.open(seat, "seat", 1)
    yield teller
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        assert [str(found) for found in verify(connection)] == []


def reserve(teller: Teller, legs: Any = None, **more: Any) -> str:
    """Submit a reservation and decide it. Returns its id."""
    answer = teller.client.post("/v1/reservations", {"account": "u", "legs": legs or ROW, **more})
    assert answer.status_code == 202, answer.json
    teller.drain()
    return str(answer.json["id"])


def seats(teller: Teller) -> list[tuple[int, int]]:
    """Return what is available and held of each seat."""
    return [teller.quantities(seat) for seat in SEATS]


def test_three_seats_are_held_and_captured_together(shop: Teller) -> None:
    """
    The request shows its legs and until when they are held. Its entries are those of all legs.
    """
    asked = reserve(shop)
    held = read(shop, asked)
    assert (held["stage"], held["legs"], seats(shop)) == ("held", ROW, [(0, 1)] * 3)
    assert "expires_at" in held
    assert {"resource", "amount"}.isdisjoint(held)
    late = read(shop, reserve(shop, ROW[1:]))
    assert (late["status"], late["error"]) == ("rejected", {"code": "out_of_stock", "resource": "12B"})

    part = capture(shop, asked, {"amount": 1})
    assert (part.status_code, part.json["errors"][0]["pointer"]) == (422, "/amount")
    assert capture(shop, asked).status_code == 202

    done = read(shop, asked)
    assert (done["status"], done["result"], done["refunded"]) == ("completed", None, 0)
    assert seats(shop) == [(0, 0)] * 3
    entries = shop.client.get(f"/v1/requests/{asked}/entries").json["data"]
    assert sorted((one["resource"], one["kind"], one["amount"]) for one in entries) == sorted(
        (seat, kind, 1) for seat in SEATS for kind in ("hold", "capture")
    )
    again = release(shop, asked)
    assert (again.status_code, again.json["code"]) == (409, "not_held")


@pytest.mark.parametrize("end", ["released", "reservation_expired"])
def test_all_legs_are_given_back_together(shop: Teller, end: str) -> None:
    """
    By a release, or when their time is over. Another account holds all of them afterwards.
    """
    asked = reserve(shop, ttl_seconds=1)
    if end == "released":
        assert release(shop, asked).status_code == 202
    else:
        time.sleep(1.1)  # the time of the hold is over now
        assert expire(shop) == 1

    assert (read(shop, asked)["status"], shop.status(asked)) == ("cancelled", end)
    assert seats(shop) == [(1, 0)] * 3
    assert read(shop, reserve(shop))["stage"] == "held"


def test_a_resource_with_a_gateway_is_no_leg(shop: Teller) -> None:
    """
    A gateway is asked about one resource. Nothing is held, and the error names the leg.
    """
    shop.open("bank", "balance", 10, gateway="sandbox")
    asked = reserve(shop, [*ROW, {"resource": "bank", "take": 1}])
    assert read(shop, asked)["error"] == {"code": "not_exchangeable", "resource": "bank"}
    assert seats(shop) == [(1, 0)] * 3


def test_a_refund_gives_back_all_legs_that_were_captured(shop: Teller) -> None:
    """
    It has no amount, and succeeds once.
    """
    asked = reserve(shop)
    capture(shop, asked)
    path = f"/v1/admin/requests/{asked}/refund"
    assert shop.admin.post(path, {"reason": "cancelled", "amount": 1}).status_code == 422
    refunds = [shop.admin.post(path, {"reason": "cancelled"}).json["id"] for _ in range(2)]
    shop.drain()

    assert [shop.status(refund) for refund in refunds] == ["completed", "nothing_to_refund"]
    assert (read(shop, asked)["status"], seats(shop)) == ("refunded", [(1, 0)] * 3)


def test_clients_are_notified_once_of_the_end_of_all_legs(shop: Teller) -> None:
    """
    The delivery has the request with its legs.
    """
    webhook = shop.client.post("/v1/webhooks", {"url": "https://8.8.8.8/hook"}).json["id"]
    release(shop, reserve(shop))
    shop.call_gateway()

    [delivery] = shop.client.get(f"/v1/webhooks/{webhook}/deliveries").json["data"]
    assert delivery["type"] == "request.cancelled"


def legs(count: int) -> list[dict[str, Any]]:
    """Return this many legs."""
    return [{"resource": f"r{number}", "take": 1} for number in range(count)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"legs": legs(1)},
        {"legs": legs(11)},
        {"legs": {}},
        {"legs": None},
        {"legs": [*legs(2), {"resource": "r1", "take": 2}]},
        {"legs": [*legs(1), {"resource": "r", "give": 1}]},
        {"legs": [*legs(1), {"resource": "r", "take": 1, "give": 1}]},
        {"legs": [*legs(1), {"resource": "r"}]},
        {"legs": [*legs(1), {"take": 1}]},
        {"legs": [*legs(1), {"resource": "r", "take": 0}]},
        {"legs": [*legs(1), {"resource": "r", "take": 2**53}]},
        {"legs": [*legs(1), {"resource": "r", "take": True}]},
        {"legs": [*legs(1), {"resource": "r/s", "take": 1}]},
        {"legs": [*legs(1), {"resource": "r", "take": 1, "amount": 1}]},
        {"legs": legs(2), "resource": "r0"},
        {"legs": legs(2), "amount": 1},
        {"legs": legs(2), "ttl_seconds": 0},
        {"legs": legs(2), "destination": "IBAN"},
    ],
)
def test_an_invalid_reservation_is_refused_and_stores_nothing(shop: Teller, body: Any) -> None:
    """
    Alone it has 422 `invalid`. An item of a batch has the same, and the other items are accepted.
    """
    alone = shop.client.post("/v1/reservations", {"account": "u", **body})
    items = [
        {"kind": "reservation", "idempotency_key": "bad", "account": "u", **body},
        {"kind": "reservation", "idempotency_key": "good", "account": "u", "legs": ROW},
    ]
    batch = shop.client.post("/v1/batches", {"requests": items}).json["results"]
    shop.drain()

    assert (alone.status_code, alone.json["code"]) == (422, "invalid")
    assert [one["status"] for one in batch] == [422, 202]
    assert read(shop, batch[1]["request"]["id"])["stage"] == "held"
    assert len(shop.client.get("/v1/requests?kind=reservation").json["data"]) == 1
