"""
Requests over HTTP: made, read, listed and cancelled.
"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from api import create_app
from tests.http.teller import Client

if TYPE_CHECKING:
    from tests.http.teller import Teller

REDEMPTION = {"resource": "sneaker", "account": "u_42"}


def test_an_accepted_request_is_processing_and_has_a_location(teller: Teller) -> None:
    """
    The answer is 202 with exactly the documented fields, Location, Retry-After and an ETag.
    """
    answer = teller.client.post("/v1/redemptions", {**REDEMPTION, "metadata": {"order": "A-17"}})

    assert answer.status_code == 202
    document = answer.json
    created_at = document.pop("created_at")
    assert created_at.endswith("Z")
    assert document == {
        "id": str(uuid.UUID(document["id"])),
        "kind": "redemption",
        "status": "processing",
        "stage": "queued",
        "resource": "sneaker",
        "account": "u_42",
        "amount": 1,
        "error": None,
        "result": None,
        "refunded": 0,
        "version": 1,
        "sequence": None,
        "metadata": {"order": "A-17"},
        "decided_at": None,
        "finished_at": None,
    }
    assert answer.headers["Location"] == f"/v1/requests/{document['id']}"
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Idempotency-Replayed" not in answer.headers
    assert "Preference-Applied" not in answer.headers


def test_a_request_goes_from_queued_to_completed(teller: Teller) -> None:
    """
    Request, entries and events agree. Only a queued request has a position.
    """
    teller.open("sneaker")
    named = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]

    queued = teller.client.get(f"/v1/requests/{named}").json
    teller.drain()
    done = teller.client.get(f"/v1/requests/{named}").json

    assert queued["status"] == "processing"
    assert queued["position"] == 0
    assert done["status"] == "completed"
    assert "position" not in done
    assert done["finished_at"] == done["decided_at"]
    entries = teller.client.get(f"/v1/requests/{named}/entries").json
    assert entries["next_cursor"] is None
    assert [(entry["kind"], entry["amount"], entry["available"]) for entry in entries["data"]] == [
        ("debit", 1, 9)
    ]
    events = teller.client.get(f"/v1/requests/{named}/events").json
    assert list(events) == ["data"]
    assert [(event["status"], event["stage"]) for event in events["data"]] == [
        ("processing", "queued"),
        ("completed", None),
    ]
    assert all(set(event) == {"at", "status", "stage", "actor", "detail"} for event in events["data"])


def test_the_position_counts_requests_ahead_in_the_partition_up_to_a_thousand(
    teller: Teller,
) -> None:
    """
    The third of three requests has the position 2. Beyond a thousand, the position is always 1,000.
    """
    items = [{"kind": "redemption", "idempotency_key": f"k{i}", **REDEMPTION} for i in range(1_000)]
    results = teller.client.post("/v1/batches", {"requests": items}).json["results"]
    last = [teller.client.post("/v1/redemptions", REDEMPTION).json["id"] for _ in range(2)]

    def position(named: str) -> int:
        number: int = teller.client.get(f"/v1/requests/{named}").json["position"]
        return number

    assert position(results[2]["request"]["id"]) == 2
    assert position(results[999]["request"]["id"]) == 999
    assert [position(named) for named in last] == [1_000, 1_000]


def test_an_unchanged_request_is_not_sent_again(teller: Teller) -> None:
    """
    If-None-Match returns 304 until the request, or its position, changes.
    """
    teller.open("sneaker")
    teller.client.post("/v1/redemptions", REDEMPTION)
    named = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]
    path = f"/v1/requests/{named}"

    first = teller.client.get(path).headers["ETag"]
    assert teller.client.get(path, If_None_Match=first).status_code == 304
    assert teller.client.get(path, If_None_Match=f'W/{first}, "other"').status_code == 304
    assert teller.client.get(path, If_None_Match='"other"').status_code == 200
    teller.drain(limit=1)
    moved = teller.client.get(path, If_None_Match=first)
    assert (moved.status_code, moved.json["version"], moved.json["position"]) == (200, 1, 0)
    teller.drain()

    changed = teller.client.get(path, If_None_Match=first)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != first
    unchanged = teller.client.get(path, If_None_Match=changed.headers["ETag"])
    assert unchanged.status_code == 304
    assert unchanged.data == b""
    assert unchanged.headers["ETag"] == changed.headers["ETag"]


def test_fifty_simultaneous_calls_with_one_key_make_one_request(teller: Teller) -> None:
    """
    All 50 calls return the same request, and 49 of them are marked as replays.
    """
    together = threading.Barrier(50)

    def send(_: int) -> tuple[int, str, str | None]:
        together.wait()
        answer = teller.client.post("/v1/redemptions", REDEMPTION, key="the-one")
        return answer.status_code, answer.json["id"], answer.headers.get("Idempotency-Replayed")

    with ThreadPoolExecutor(50) as callers:
        answers = list(callers.map(send, range(50)))

    assert {status for status, _, _ in answers} == {202}
    assert len({named for _, named, _ in answers}) == 1
    assert sorted(replayed or "" for _, _, replayed in answers) == [""] + ["true"] * 49
    assert len(teller.client.get("/v1/requests").json["data"]) == 1


def test_a_replay_returns_the_present_state(teller: Teller) -> None:
    """
    A replay returns 202 while the request is processing and 200 when it is final. It takes nothing again.
    """
    teller.open("sneaker")
    first = teller.client.post("/v1/redemptions", REDEMPTION, key="k")
    again = teller.client.post("/v1/redemptions", REDEMPTION, key="k")
    teller.drain()
    final = teller.client.post("/v1/redemptions", REDEMPTION, key="k")
    teller.drain()

    assert [a.status_code for a in (first, again, final)] == [202, 202, 200]
    assert final.json["status"] == "completed"
    assert final.headers["Idempotency-Replayed"] == "true"
    assert "Retry-After" not in final.headers
    assert teller.client.get("/v1/resources/sneaker").json["available"] == 9


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("abc", '"abc"', True),
        ('"a\\"b"', 'a"b', True),
        ("abc", "abd", False),
        (" abc ", "abc", True),
        ("a b", '"a b"', True),
    ],
)
def test_a_key_may_be_quoted(teller: Teller, first: str, second: str, same: bool) -> None:
    """
    Quotes are part of the header's syntax, not of the key.
    """
    one = teller.client.post("/v1/redemptions", REDEMPTION, key=first)
    two = teller.client.post("/v1/redemptions", REDEMPTION, key=second)

    assert (one.json["id"] == two.json["id"]) is same


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("", 400, "idempotency_key_missing"),
        ('""', 422, "invalid"),
        ("x" * 255, 202, None),
        ("x" * 256, 422, "invalid"),
        ('"unfinished', 422, "invalid"),
        ("t\tab", 422, "invalid"),
        ("schl\xfcssel", 422, "invalid"),
    ],
)
def test_a_key_is_1_to_255_printable_characters(
    teller: Teller, key: str, status: int, code: str | None
) -> None:
    """
    Any other key is refused, and no request is stored.
    """
    answer = teller.client.post("/v1/redemptions", REDEMPTION, key=key)

    assert (answer.status_code, answer.json.get("code")) == (status, code)
    assert len(teller.client.get("/v1/requests").json["data"]) == (1 if status == 202 else 0)


def test_a_key_belongs_to_its_body_and_its_client(teller: Teller) -> None:
    """
    Another body, kind or resource with the same key is refused. Another client may use the same key.
    """
    body = {**REDEMPTION, "amount": 2}
    first = teller.client.post("/v1/redemptions", body, key="k")
    reordered = teller.client.post("/v1/redemptions", dict(reversed(body.items())), key="k")
    other_body = teller.client.post("/v1/redemptions", {**REDEMPTION, "amount": 3}, key="k")
    other_kind = teller.client.post("/v1/withdrawals", body, key="k")
    others = teller.other.post("/v1/redemptions", {**REDEMPTION, "amount": 3}, key="k")

    assert reordered.json["id"] == first.json["id"]
    for refused in (other_body, other_kind):
        assert (refused.status_code, refused.json["code"]) == (422, "idempotency_key_reused")
    assert others.status_code == 202

    closing = teller.admin.post("/v1/resources/a/close", key="c")
    assert teller.admin.post("/v1/resources/a/close", {}, key="c").json["id"] == closing.json["id"]
    assert teller.admin.post("/v1/resources/b/close", key="c").json["code"] == "idempotency_key_reused"


def test_an_explicit_default_is_another_body(teller: Teller) -> None:
    """
    The fingerprint is computed from the body as it was sent, without defaults.
    """
    teller.client.post("/v1/redemptions", REDEMPTION, key="k")
    answer = teller.client.post("/v1/redemptions", {**REDEMPTION, "amount": 1}, key="k")

    assert answer.json["code"] == "idempotency_key_reused"


def test_lists_are_newest_first_with_stable_pages(teller: Teller) -> None:
    """
    Pages of two contain five requests without gaps or repetitions, although new requests arrive meanwhile.
    """
    made = [teller.client.post("/v1/redemptions", REDEMPTION).json["id"] for _ in range(5)]

    found: list[str] = []
    cursor = None
    sizes = []
    while True:
        page = teller.client.get("/v1/requests?limit=2" + (f"&cursor={cursor}" if cursor else "")).json
        teller.client.post("/v1/redemptions", REDEMPTION)
        found += [one["id"] for one in page["data"]]
        sizes.append(len(page["data"]))
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert found == made[::-1]
    assert sizes == [2, 2, 1]


def test_requests_are_filtered_by_status_kind_resource_and_account(teller: Teller) -> None:
    """
    Filters work alone and together.
    """
    teller.open("coin", "balance", 5)
    taken = teller.client.post("/v1/withdrawals", {"resource": "coin", "account": "ada", "amount": 5}).json[
        "id"
    ]
    refused = teller.client.post("/v1/withdrawals", {"resource": "coin", "account": "bob", "amount": 1}).json[
        "id"
    ]
    teller.drain()
    waiting = teller.client.post("/v1/redemptions", {"resource": "seat", "account": "ada"}).json["id"]

    def found(query: str) -> list[str]:
        return [one["id"] for one in teller.client.get(f"/v1/requests?{query}").json["data"]]

    assert found("status=completed") == [taken]
    assert found("status=rejected") == [refused]
    assert found("status=processing") == [waiting]
    assert found("status=failed") == []
    assert found("kind=withdrawal") == [refused, taken]
    assert found("resource=coin&account=ada") == [taken]
    assert found("account=ada&status=processing&kind=redemption&resource=seat") == [waiting]
    assert found("account=nobody") == []


def test_the_request_of_an_idempotency_key_is_found(teller: Teller) -> None:
    """
    By its own client, and by operators, who may name the client. Without it, each client may have one.
    """
    body = REDEMPTION
    mine = teller.client.post("/v1/redemptions", body, key="order/A 17 %").json["id"]
    theirs = teller.other.post("/v1/redemptions", body, key="order/A 17 %").json["id"]
    teller.client.post("/v1/redemptions", body, key="another")
    by_key = "/v1/requests?idempotency_key=order/A%2017%20%25"

    def found(caller: Client, address: str) -> list[str]:
        answer = caller.get(address)
        assert (answer.status_code, answer.json["next_cursor"]) == (200, None)
        return [one["id"] for one in answer.json["data"]]

    assert found(teller.client, by_key) == [mine]
    assert found(teller.other, by_key) == [theirs]
    assert found(teller.operator, by_key) == sorted([mine, theirs], reverse=True)
    assert found(teller.operator, f"{by_key}&client={teller.client.id}") == [mine]
    assert found(teller.operator, f"/v1/requests?client={teller.other.id}") == [theirs]
    assert found(teller.client, f"{by_key}&client={teller.client.id}") == [mine]
    assert found(teller.client, f"{by_key}&client={teller.other.id}") == []
    assert found(teller.client, f"{by_key}&status=completed") == []
    assert found(teller.operator, "/v1/requests?idempotency_key=unused") == []


def test_lists_are_ordered_by_the_time_of_acceptance_whatever_the_number_of_writers(teller: Teller) -> None:
    """
    Two applications accept at once. Each page continues the order of (`created_at`, `id`), newest first.
    """
    second = create_app(teller.settings)
    makers = [teller.client, Client(second, teller.client.key, teller.client.id)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: makers[n % 2].post("/v1/redemptions", REDEMPTION), range(60)))
    second.extensions["teller"].close()

    seen: list[tuple[str, str]] = []
    cursor = ""
    while True:
        page = teller.client.get(f"/v1/requests?limit=7{cursor}").json
        seen += [(one["created_at"], one["id"]) for one in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == sorted(seen, reverse=True)
    assert {one for _, one in seen} == {answer.json["id"] for answer in answers}


def test_a_client_sees_only_its_own_requests(teller: Teller) -> None:
    """
    For another client the request, its entries, its events and its cancel are 404. Operators and admins see all.
    """
    teller.open("sneaker")
    named = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]
    paths = [f"/v1/requests/{named}", f"/v1/requests/{named}/entries", f"/v1/requests/{named}/events"]

    for path in paths:
        assert teller.other.get(path).status_code == 404
        assert teller.operator.get(path).status_code == 200
        assert teller.admin.get(path).status_code == 200
    assert teller.other.post(f"/v1/requests/{named}/cancel").status_code == 404
    assert teller.other.get("/v1/requests").json["data"] == []
    assert len(teller.operator.get("/v1/requests?resource=sneaker").json["data"]) == 2


UNKNOWN_ID = "019aa9c2-f1c4-7d2a-8b3e-5f60718293a4"
INVALID_IDS = ["nothing", "0", UNKNOWN_ID, "a" * 200, "%00", "..", "{" + UNKNOWN_ID + "}"]


@pytest.mark.parametrize("named", INVALID_IDS)
@pytest.mark.changes_nothing
def test_an_unknown_request_is_not_found(teller: Teller, named: str) -> None:
    """
    An unknown id, or text that is no id, returns 404.
    """
    for path in (f"/v1/requests/{named}", f"/v1/requests/{named}/entries", f"/v1/requests/{named}/events"):
        answer = teller.admin.get(path)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def may_cancel(teller: Teller) -> list[Client]:
    """Return the callers that may cancel a request of the client."""
    return [teller.client, teller.operator, teller.admin]


def test_a_queued_request_can_be_cancelled_but_not_a_decided_one(teller: Teller) -> None:
    """
    202 records the command. The batch then cancels the request, and nothing is taken.
    """
    teller.open("sneaker")
    cancelled = [teller.client.post("/v1/redemptions", REDEMPTION).json["id"] for _ in range(3)]
    kept = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]

    for caller, named in zip(may_cancel(teller), cancelled, strict=True):
        answer = caller.call("POST", f"/v1/requests/{named}/cancel")
        assert answer.status_code == 202
        assert answer.json["status"] == "processing"
        assert answer.headers["Location"] == f"/v1/requests/{named}"
        assert caller.call("POST", f"/v1/requests/{named}/cancel").status_code == 202
    teller.drain()

    assert [teller.client.get(f"/v1/requests/{n}").json["status"] for n in cancelled] == ["cancelled"] * 3
    assert teller.client.get("/v1/resources/sneaker").json["available"] == 9
    for named in (kept, cancelled[0]):
        late = teller.client.post(f"/v1/requests/{named}/cancel")
        assert (late.status_code, late.json["code"]) == (409, "not_cancellable")


def test_only_an_operators_cancel_has_a_reason_and_an_audit_line(teller: Teller) -> None:
    """
    The history names the operator. A second cancel of the same request adds no line. A client gives no reason.
    """
    teller.open("sneaker")
    own, operators = [teller.client.post("/v1/redemptions", REDEMPTION).json["id"] for _ in range(2)]

    refused = teller.client.post(f"/v1/requests/{own}/cancel", {"reason": "changed my mind"})
    assert (refused.status_code, refused.json["code"]) == (422, "invalid")
    assert teller.client.post(f"/v1/requests/{own}/cancel", {}).status_code == 202
    for caller in (teller.operator, teller.admin):
        assert caller.post(f"/v1/requests/{operators}/cancel", {"reason": "fraud"}).status_code == 202
    teller.drain()

    [line] = [one for one in teller.admin.get("/v1/admin/audit").json["data"] if one["action"] == "cancel"]
    assert (line["request"], line["reason"]) == (operators, "fraud")
    assert line["actor"] == f"{teller.operator.id} (operator operator)"
    by_client, by_operator = (
        teller.client.get(f"/v1/requests/{one}").json["error"] for one in (own, operators)
    )
    assert by_client == {"code": "cancelled_by_client"}
    assert by_operator == {"code": "cancelled_by_operator", "reason": "fraud"}
    last = teller.client.get(f"/v1/requests/{operators}/events").json["data"][-1]
    assert (last["status"], last["actor"]) == ("cancelled", line["actor"])


def test_apply_before_is_returned_in_utc(teller: Teller) -> None:
    """
    A time in another zone is the same instant. A request after its deadline is rejected.
    """
    teller.open("sneaker")
    body = {**REDEMPTION, "apply_before": "2020-01-01T01:00:00.5+01:00"}
    made = teller.client.post("/v1/redemptions", body).json
    teller.drain()

    assert made["apply_before"] == "2020-01-01T00:00:00.500000Z"
    decided = teller.client.get(f"/v1/requests/{made['id']}").json
    assert (decided["status"], decided["error"]) == ("rejected", {"code": "deadline_passed"})
