"""
Resources over HTTP: opened, amended, closed, and read at present and past times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from processor.domain.model import MAX_QUANTITY
from processor.gateways.protocol import Answer

if TYPE_CHECKING:
    from tests.http.teller import Teller

AMPLE = {
    "unit": "EUR",
    "decimals": 2,
    "overdraft": 50,
    "per_account_limit": 7,
    "per_account_daily_limit": 3,
    "starts_at": "2026-01-01T00:00:00+01:00",
    "ends_at": "2126-01-01T00:00:00Z",
    "gateway": "sandbox",
    "confirm_above": 0,
    "approve_above": 100,
    "metadata": {"colour": "red"},
}


def test_a_resource_comes_back_with_all_its_rules(teller: Teller) -> None:
    """
    The document has the given rules, their defaults and times in UTC.
    """
    teller.open("pool:1", "pool", 1_000, **AMPLE, client=teller.client.id)

    document = teller.admin.get("/v1/resources/pool:1").json

    assert 0 <= document.pop("partition") < teller.settings.partitions
    assert document.pop("created_at").endswith("Z")
    assert document == {
        **AMPLE,
        "id": "pool:1",
        "kind": "pool",
        "client": teller.client.id,
        "available": 1_000,
        "held": 0,
        "version": 1,
        "starts_at": "2025-12-31T23:00:00.000000Z",
        "ends_at": "2126-01-01T00:00:00.000000Z",
        "closed_at": None,
    }


def test_an_opening_is_a_request(teller: Teller) -> None:
    """
    An opening has the initial quantity as its amount. A second opening of the same id is rejected by the batch.
    """
    body = {"id": "a", "kind": "stock", "available": 3}
    first = teller.admin.post("/v1/resources", body)
    second = teller.admin.post("/v1/resources", body)
    assert teller.admin.get("/v1/resources/a").status_code == 404
    teller.drain()

    assert (first.status_code, first.json["kind"], first.json["resource"], first.json["amount"]) == (
        202,
        "opening",
        "a",
        3,
    )
    statuses = [teller.admin.get(f"/v1/requests/{one.json['id']}").json["status"] for one in (first, second)]
    assert statuses == ["completed", "rejected"]


def test_decimals_are_fixed_at_the_opening(teller: Teller) -> None:
    """
    They are 0 by default, and stay in answers about the past. Amounts stay whole numbers.
    """
    teller.open("points", "points", 5)
    teller.open("cash", "balance", 25_000, unit="EUR", decimals=2)
    opened_at = teller.admin.get("/v1/resources/cash").json["created_at"]
    teller.admin.patch("/v1/resources/cash", {"unit": "USD"})
    teller.drain()

    now = teller.admin.get("/v1/resources/cash").json
    past = teller.admin.get(f"/v1/resources/cash?at={opened_at}").json
    assert teller.admin.get("/v1/resources/points").json["decimals"] == 0
    assert (now["unit"], now["decimals"], now["available"]) == ("USD", 2, 25_000)
    assert (past["unit"], past["decimals"], past["available"]) == ("EUR", 2, 25_000)


def test_rules_are_amended_and_removed(teller: Teller) -> None:
    """
    A given field changes its rule, null removes it, and others stay. A PATCH needs no idempotency key.
    """
    teller.open("a", "balance", 5, unit="EUR", per_account_limit=7, ends_at="2126-01-01T00:00:00Z")

    answer = teller.admin.patch(
        "/v1/resources/a", {"per_account_limit": None, "overdraft": 10, "metadata": {"x": 1}}
    )
    teller.drain()

    assert (answer.status_code, answer.json["kind"]) == (202, "amendment")
    document = teller.admin.get("/v1/resources/a").json
    assert document["per_account_limit"] is None
    assert (document["overdraft"], document["metadata"], document["unit"]) == (10, {"x": 1}, "EUR")
    assert document["ends_at"] == "2126-01-01T00:00:00.000000Z"


def test_an_amendment_that_does_not_fit_the_resource_is_rejected_when_it_is_decided(teller: Teller) -> None:
    """
    An empty window and a limit below what an account has used change nothing, as at the opening of a resource.
    """
    teller.open("a", "stock", 10, ends_at="2030-01-01T00:00:00Z")
    teller.client.post("/v1/redemptions", {"resource": "a", "account": "u", "amount": 3})
    before = teller.admin.get("/v1/resources/a").json
    bodies = [
        {"starts_at": "2030-01-01T00:00:00Z"},
        {"starts_at": "2031-01-01T00:00:00Z", "unit": "pairs"},
        {"per_account_limit": 2},
        {"per_account_limit": 3},
        {"starts_at": "2031-01-01T00:00:00Z", "ends_at": None},
        {"ends_at": "2030-12-31T23:59:59Z"},
        {"per_account_limit": 2},
    ]

    asked = [teller.admin.patch("/v1/resources/a", body) for body in bodies]
    for _ in range(3):  # a first limit, and usages that have moved, end a batch
        teller.drain()

    assert [one.status_code for one in asked] == [202] * 7
    assert [teller.status(one.json["id"]) for one in asked] == [
        "invalid_amendment",
        "invalid_amendment",
        "invalid_amendment",
        "completed",
        "completed",
        "invalid_amendment",
        "invalid_amendment",
    ]
    after = teller.admin.get("/v1/resources/a").json
    changed = {name for name, value in after.items() if value != before[name]}
    assert changed == {"starts_at", "ends_at", "per_account_limit", "available", "version"}


#: Rules that no resource can have, whatever its state.
IMPOSSIBLE: Final[list[dict[str, Any]]] = [
    {"unit": ""},
    {"unit": "x" * 1_025},
    {"overdraft": -1},
    {"overdraft": MAX_QUANTITY + 1},
    {"overdraft": None},
    {"per_account_limit": 0},
    {"per_account_limit": MAX_QUANTITY + 1},
    {"per_account_daily_limit": 0},
    {"starts_at": "2030-01-01"},
    {"starts_at": "2030-01-02T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"},
    {"starts_at": "2030-01-01T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"},
    {"gateway": "nowhere"},
    {"gateway": ""},
    {"confirm_above": -1},
    {"confirm_above": "10"},
    {"approve_above": -1},
    {"approve_above": 1.5},
    {"client": "a b"},
    {"metadata": {"x": "y" * 4_096}},
    {"metadata": None},
    {"available": -1},
    {"no such rule": 1},
]
#: Rules that every resource may get, with accounts that have no address yet.
POSSIBLE: Final[list[dict[str, Any]]] = [
    {"unit": "EUR"},
    {"overdraft": MAX_QUANTITY},
    {"per_account_limit": 1},
    {"per_account_daily_limit": 1},
    {"starts_at": "2030-01-01T00:00:00Z", "ends_at": "2030-01-01T00:00:00.000001Z"},
    {"gateway": "sandbox"},
    {"confirm_above": 0},
    {"approve_above": 0, "confirm_above": MAX_QUANTITY},
    {"client": "unheard-of"},
    {"metadata": {"x": 1}},
]


def test_an_opening_and_an_amendment_check_the_same_rules(teller: Teller) -> None:
    """
    Rules that a new resource cannot have are refused in an amendment as well, and all others are taken by both.
    """
    teller.open("plain")
    impossible = [
        (
            teller.admin.post("/v1/resources", {"id": "new", "kind": "stock", "available": 10, **rules}),
            teller.admin.patch("/v1/resources/plain", rules),
        )
        for rules in IMPOSSIBLE
    ]
    for number, rules in enumerate(POSSIBLE):
        teller.open(f"opened-{number}", **rules)
        teller.open(f"amended-{number}")
        assert teller.admin.patch(f"/v1/resources/amended-{number}", rules).status_code == 202
    for _ in range(4):  # a first limit ends a batch
        teller.drain()

    for rules, answers in zip(IMPOSSIBLE, impossible, strict=True):
        assert [one.status_code for one in answers] == [422, 422], rules
    assert teller.admin.get("/v1/resources/new").status_code == 404
    for number, rules in enumerate(POSSIBLE):
        opened, amended = (
            teller.admin.get(f"/v1/resources/{how}-{number}").json for how in ("opened", "amended")
        )
        other = {"id", "partition", "created_at"}
        assert {name: opened[name] for name in opened.keys() - other} == {
            name: amended[name] for name in amended.keys() - other
        }, rules


@pytest.mark.parametrize("is_amended", [False, True], ids=["at its opening", "by an amendment"])
def test_a_threshold_may_be_set_before_an_account_has_an_address(teller: Teller, *, is_amended: bool) -> None:
    """
    The address is looked for when the account takes: without one, the request is rejected with `no_contact`.
    """
    if is_amended:
        teller.open("a", "balance", 100)
        teller.admin.patch("/v1/resources/a", {"confirm_above": 5})
    else:
        teller.open("a", "balance", 100, confirm_above=5)
    without = teller.withdraw("a", 6)
    teller.client.put("/v1/accounts/u", {"email": "u@example.com"})
    with_one = teller.withdraw("a", 6)

    assert teller.status(without) == "no_contact"
    assert teller.client.get(f"/v1/requests/{with_one}").json["stage"] == "awaiting_confirmation"


def test_a_debt_and_a_day_at_the_time_of_an_amendment(teller: Teller) -> None:
    """
    No overdraft is below what is overdrawn. A daily limit may be below what an account took today, and holds at once.
    """
    teller.open("a", "balance", 0, overdraft=20)
    teller.withdraw("a", 10)
    bodies = [{"overdraft": 9}, {"per_account_daily_limit": 4, "overdraft": 10}, {"overdraft": 20}]
    asked = [teller.admin.patch("/v1/resources/a", body).json["id"] for body in bodies]
    teller.drain()
    teller.drain()
    refused = teller.withdraw("a", 1)
    taken = teller.withdraw("a", 4, account="another")

    assert [teller.status(one) for one in asked] == ["invalid_amendment", "completed", "completed"]
    assert teller.status(refused) == "daily_limit_reached"
    assert teller.status(taken) == "completed"


def test_what_would_exceed_the_largest_quantity_is_rejected_before_anything_is_written(
    teller: Teller,
) -> None:
    """
    Deposits, holds and refunds at the ceiling are `too_large`. Releases and captures always fit.
    """
    teller.open("full", "balance", MAX_QUANTITY, overdraft=MAX_QUANTITY)
    teller.open("paid", "balance", MAX_QUANTITY, overdraft=MAX_QUANTITY, gateway="sandbox")
    taken = teller.withdraw("full", 10)
    deposits = [teller.admin.post("/v1/deposits", {"resource": "full", "amount": n}) for n in (11, 10, 1)]
    refund = teller.admin.post(f"/v1/admin/requests/{taken}/refund", {"reason": "sold by mistake"})
    teller.drain()
    held = teller.withdraw("paid", MAX_QUANTITY)
    second = teller.withdraw("paid", 1)
    teller.admin.post("/v1/deposits", {"resource": "paid", "amount": 1})
    teller.drain()
    lower = teller.admin.patch("/v1/resources/paid", {"overdraft": 0})
    teller.drain()

    ids = [*(one.json["id"] for one in (*deposits, refund)), second, lower.json["id"]]
    assert [teller.status(one) for one in ids] == [
        "too_large",
        "completed",
        "too_large",
        "too_large",
        "too_large",
        "completed",
    ]
    assert (teller.quantities("full"), teller.quantities("paid")) == ((MAX_QUANTITY, 0), (0, MAX_QUANTITY))

    teller.call_gateway(Answer("declined", 422))
    assert (teller.status(held), teller.quantities("paid")) == ("gateway_declined", (MAX_QUANTITY, 0))


def test_an_idempotency_key_is_optional_for_a_patch(teller: Teller) -> None:
    """
    Two calls without a key are two requests. Two calls with one key are one request.
    """
    body = {"unit": "EUR"}
    first, second = (teller.admin.patch("/v1/resources/a", body).json["id"] for _ in range(2))
    third, fourth = (
        teller.admin.patch("/v1/resources/a", body, **{"Idempotency-Key": "k"}) for _ in range(2)
    )

    assert first != second
    assert third.json["id"] == fourth.json["id"]
    assert fourth.headers["Idempotency-Replayed"] == "true"


def test_a_closed_resource_rejects_requests_and_can_be_read(teller: Teller) -> None:
    """
    Requests after the closing are rejected.
    """
    teller.open("a")
    closing = teller.admin.post("/v1/resources/a/close")
    late = teller.client.post("/v1/redemptions", {"resource": "a", "account": "u"}).json["id"]
    teller.drain()

    assert (closing.status_code, closing.json["kind"]) == (202, "closing")
    assert teller.client.get(f"/v1/requests/{late}").json["error"] == {"code": "resource_closed"}
    assert teller.client.get("/v1/resources/a").json["closed_at"] is not None


def test_a_resource_can_be_read_at_a_past_time(teller: Teller) -> None:
    """
    `at` returns the quantities and rules of that time. A time before the opening returns 404.
    """
    teller.open("a", "stock", 10, unit="pairs")
    for _ in range(3):
        teller.client.post("/v1/redemptions", {"resource": "a", "account": "u", "amount": 2})
        teller.drain()
    before = teller.admin.get("/v1/resources/a").json
    amended = teller.admin.patch("/v1/resources/a", {"unit": "pieces", "per_account_limit": 9}).json["id"]
    teller.admin.post("/v1/resources/a/close")
    teller.drain()
    entries = teller.admin.get("/v1/resources/a/entries").json["data"]

    for entry in entries:
        then = teller.client.get(f"/v1/resources/a?at={entry['created_at']}").json
        assert {name: then[name] for name in ("available", "held", "version")} == {
            name: entry[name] for name in ("available", "held", "version")
        }
        assert (then["unit"], then["per_account_limit"], then["closed_at"]) == ("pairs", None, None)
    assert [entry["available"] for entry in entries] == [4, 6, 8, 10]
    assert teller.client.get(f"/v1/resources/a?at={entries[0]['created_at']}").json == before

    decided_at = teller.admin.get(f"/v1/requests/{amended}").json["decided_at"]
    after = teller.client.get(f"/v1/resources/a?at={decided_at}").json
    assert (after["unit"], after["per_account_limit"], after["available"]) == ("pieces", 9, 4)
    assert (
        teller.client.get("/v1/resources/a?at=2126-01-01T00:00:00Z").json
        == teller.client.get("/v1/resources/a").json
    )
    assert teller.client.get("/v1/resources/a?at=2020-01-01T00:00:00Z").status_code == 404


def test_a_resource_of_one_client_does_not_exist_for_others(teller: Teller) -> None:
    """
    Other clients get 404 and do not find it in the list. Operators and admins see it.
    """
    teller.open("shared")
    teller.open("own", client=teller.client.id)

    def listed(caller: Any) -> list[str]:
        return [one["id"] for one in caller.get("/v1/resources").json["data"]]

    for path in (
        "/v1/resources/own",
        "/v1/resources/own/entries",
        "/v1/resources/own?at=2126-01-01T00:00:00Z",
    ):
        assert teller.other.get(path).status_code == 404
        for caller in (teller.client, teller.operator, teller.admin):
            assert caller.get(path).status_code == 200
    assert listed(teller.client) == listed(teller.operator) == ["own", "shared"]
    assert listed(teller.other) == ["shared"]


def test_entries_of_a_shared_resource_are_those_of_the_clients_own_requests(teller: Teller) -> None:
    """
    A client sees all entries of a resource of its own, as operators and admins do of every resource.
    """
    teller.open("shared")
    teller.open("own", client=teller.client.id)
    for caller in (teller.client, teller.other, teller.client):
        for resource in ("shared", "own"):
            caller.post("/v1/redemptions", {"resource": resource, "account": "u"})
    teller.drain()

    def versions(caller: Any, resource: str, query: str = "") -> list[int]:
        return [one["version"] for one in caller.get(f"/v1/resources/{resource}/entries{query}").json["data"]]

    assert versions(teller.admin, "shared") == [4, 3, 2, 1]
    assert versions(teller.client, "shared") == [4, 2]
    assert versions(teller.other, "shared") == [3]
    assert versions(teller.client, "own") == [3, 2, 1]
    assert versions(teller.client, "shared", "?limit=1") == [4]
    cursor = teller.client.get("/v1/resources/shared/entries?limit=1").json["next_cursor"]
    assert versions(teller.client, "shared", f"?cursor={cursor}") == [2]


def _give(teller: Teller, resource: str, client: str | None) -> str:
    """Give a resource to a client. Returns the time of the decision."""
    asked = teller.admin.patch(f"/v1/resources/{resource}", {"client": client}).json["id"]
    teller.drain()
    decided = teller.admin.get(f"/v1/requests/{asked}").json
    assert decided["status"] == "completed"
    return str(decided["decided_at"])


def _everything(teller: Teller, caller: Any, resource: str, *times: str) -> str:
    """Return all that a caller can read about a resource, as text."""
    paths = [
        f"/v1/resources/{resource}",
        f"/v1/resources/{resource}/entries?limit=100",
        f"/v1/resources/{resource}/entries?limit=1",
        "/v1/resources",
        f"/v1/requests?resource={resource}",
        "/v1/requests",
        *(f"/v1/resources/{resource}?at={moment}" for moment in times),
    ]
    shown = b"".join(caller.get(path).data for path in paths)
    for one in caller.get("/v1/requests").json["data"]:
        shown += caller.get(f"/v1/requests/{one['id']}/entries").data
        shown += caller.get(f"/v1/requests/{one['id']}/events").data
    return shown.decode()


@pytest.mark.parametrize("shared", [True, False], ids=["shared before", "another client's before"])
def test_the_new_client_of_a_resource_sees_nothing_of_the_clients_before(
    teller: Teller, *, shared: bool
) -> None:
    """
    The ledger is whole for the new client, without accounts and requests of others. Where the resource belonged to
    another client, it did not exist for this one.
    """
    teller.open("a", "balance", 100, **({} if shared else {"client": teller.client.id}))
    old = [
        teller.client.post("/v1/withdrawals", {"resource": "a", "account": "alice", "amount": n}).json["id"]
        for n in (1, 2)
    ]
    teller.admin.post(f"/v1/admin/requests/{old[0]}/refund", {"reason": "a mistake"})
    teller.drain()
    opened_at = teller.admin.get("/v1/resources/a").json["created_at"]
    given_at = _give(teller, "a", teller.other.id)
    mine = teller.other.post("/v1/withdrawals", {"resource": "a", "account": "bob", "amount": 5}).json["id"]
    teller.drain()
    back = teller.admin.post(f"/v1/admin/requests/{mine}/refund", {"reason": "a mistake"}).json["id"]
    teller.admin.post(f"/v1/admin/requests/{old[1]}/refund", {"reason": "a mistake"})
    teller.drain()

    shown = _everything(teller, teller.other, "a", opened_at, given_at)
    hidden = {
        "alice",
        teller.client.id,
        *(one["id"] for one in teller.client.get("/v1/requests").json["data"]),
    }
    assert [word for word in hidden if word in shown] == []
    entries = teller.other.get("/v1/resources/a/entries?limit=100").json["data"]
    assert [one["version"] for one in entries] == [7, 6, 5, 4, 3, 2, 1]
    assert [(one["kind"], one["amount"], one["available"], one["held"]) for one in entries[:3]] == [
        ("credit", 2, 100, 0),
        ("credit", 5, 98, 0),
        ("debit", 5, 93, 0),
    ]
    named = [
        (one["version"], one["request"], one["account"]) for one in entries if one["request"] is not None
    ]
    opening = teller.admin.get("/v1/requests?kind=opening").json["data"][0]["id"]
    assert named == [(6, back, "bob"), (5, mine, "bob"), (1, opening, None)]
    assert all(one["account"] is None for one in entries if one["request"] is None)
    assert teller.other.get(f"/v1/resources/a?at={given_at}").status_code == 200
    then = teller.other.get(f"/v1/resources/a?at={opened_at}")
    assert (then.status_code, (then.json or {}).get("client")) == ((200, None) if shared else (404, None))


def test_the_client_of_a_resource_sees_the_requests_that_put_more_into_it(teller: Teller) -> None:
    """
    Openings and deposits are requests of operators. Their entries name them, as those of the client's own do.
    """
    teller.open("a", "balance", 100, client=teller.client.id)
    deposit = teller.operator.post("/v1/deposits", {"resource": "a", "amount": 5}).json["id"]
    teller.drain()

    entries = teller.client.get("/v1/resources/a/entries").json["data"]

    opening = teller.admin.get("/v1/requests?kind=opening").json["data"][0]["id"]
    assert [(one["kind"], one["request"]) for one in entries] == [("credit", deposit), ("credit", opening)]


def test_the_client_that_had_a_resource_sees_nothing_of_the_client_that_has_it(teller: Teller) -> None:
    """
    Its own requests keep their entries. The quantities after them are the new client's, and are not shown.
    """
    teller.open("a", "balance", 100, client=teller.client.id)
    old = teller.withdraw("a", 10, "alice")
    assert teller.client.get(f"/v1/requests/{old}/entries").json["data"][0]["available"] == 90
    _give(teller, "a", teller.other.id)
    teller.admin.post("/v1/deposits", {"resource": "a", "amount": 777})
    teller.admin.post(f"/v1/admin/requests/{old}/refund", {"reason": "a mistake"})
    teller.drain()

    entries = teller.client.get(f"/v1/requests/{old}/entries").json["data"]
    assert [(one["kind"], one["amount"], one["available"], one["held"]) for one in entries] == [
        ("credit", 10, None, None),
        ("debit", 10, None, None),
    ]
    assert "877" not in _everything(teller, teller.client, "a")
    _give(teller, "a", None)
    assert teller.client.get(f"/v1/requests/{old}/entries").json["data"][0]["available"] == 877


def test_resources_are_listed_newest_first_by_kind(teller: Teller) -> None:
    """
    The filter and the pages keep the order.
    """
    for name, kind in (("a", "stock"), ("b", "seat"), ("c", "stock")):
        teller.open(name, kind)

    first = teller.client.get("/v1/resources?kind=stock&limit=1").json
    second = teller.client.get(f"/v1/resources?kind=stock&limit=1&cursor={first['next_cursor']}").json

    assert [one["id"] for one in first["data"] + second["data"]] == ["c", "a"]
    assert second["next_cursor"] is None


def test_an_unknown_resource_is_not_found(teller: Teller) -> None:
    """
    An unknown or invalid name returns 404. A request for an unknown resource is accepted, and rejected by the batch.
    """
    for name in ("unknown", "a%20b", "%00", "a" * 129):
        for path in (f"/v1/resources/{name}", f"/v1/resources/{name}/entries"):
            assert teller.client.get(path).status_code == 404
    assert teller.admin.post("/v1/resources/a%20b/close").status_code == 404
    assert teller.admin.patch("/v1/resources/a%20b", {"unit": "x"}).status_code == 404
    asked = teller.client.post("/v1/redemptions", {"resource": "unknown", "account": "u"}).json["id"]
    teller.drain()

    assert teller.client.get(f"/v1/requests/{asked}").json["error"] == {"code": "resource_not_found"}
