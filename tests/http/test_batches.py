"""
`POST /v1/batches`: many requests in one call, each with a result of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.http.teller import Teller


def item(key: str, kind: str = "redemption", **fields: Any) -> dict[str, Any]:
    """Return an item, valid unless `fields` make it otherwise."""
    body = {"kind": kind, "idempotency_key": key, "resource": "sneaker", "account": "u_42"}
    return {name: value for name, value in {**body, **fields}.items() if value is not None}


def send(teller: Teller, *items: Any) -> list[dict[str, Any]]:
    """Send a batch. Returns its results."""
    answer = teller.client.post("/v1/batches", {"requests": list(items)})
    assert answer.status_code == 202, answer.json
    results: list[dict[str, Any]] = answer.json["results"]
    return results


def test_each_item_is_accepted_or_refused_on_its_own(teller: Teller) -> None:
    """
    Valid items are stored and invalid ones refused, in order. Pointers are relative to the item.
    """
    results = send(
        teller,
        item("1"),
        item("2", amount=0),
        "nonsense",
        item("4", kind="refund"),
        item("5", kind="withdrawal", amount=5, destination="IBAN"),
        item("6", kind="deposit", amount=5, account=None),
        {"kind": "redemption", "resource": "sneaker", "account": "u_42"},
        item("8", extra=1),
        item("9"),
    )

    assert [result["status"] for result in results] == [202, 422, 422, 422, 202, 403, 400, 422, 202]
    problems = [result["problem"] for result in results if "problem" in result]
    assert [problem["code"] for problem in problems] == [
        "invalid",
        "invalid",
        "invalid",
        "forbidden",
        "idempotency_key_missing",
        "invalid",
    ]
    pointers = [error["pointer"] for problem in problems for error in problem.get("errors", [])]
    assert pointers == ["/amount", "", "/kind", "/extra"]
    stored = [one["id"] for one in teller.client.get("/v1/requests").json["data"]]
    assert stored[::-1] == [result["request"]["id"] for result in results if "request" in result]


def test_a_key_means_the_same_in_a_batch_and_alone(teller: Teller) -> None:
    """
    An idempotency key works across batches and single requests, and within one batch.
    """
    body = {"resource": "sneaker", "account": "u_42"}
    alone = teller.client.post("/v1/redemptions", body, key="alone").json["id"]

    replayed, first, second, other = send(
        teller, item("alone"), item("twice"), item("twice"), item("twice", amount=2)
    )

    assert (replayed["status"], replayed["request"]["id"], replayed["replayed"]) == (202, alone, True)
    assert "replayed" not in first
    assert second["replayed"] is True
    assert second["request"]["id"] == first["request"]["id"]
    assert (other["status"], other["problem"]["code"]) == (422, "idempotency_key_reused")
    again = teller.client.post("/v1/redemptions", body, key="twice")
    assert again.json["id"] == first["request"]["id"]


def test_an_admin_opens_many_resources_at_once(teller: Teller) -> None:
    """
    An item of the kind `opening` has the fields of `POST /v1/resources`. Its `kind` is named `resource_kind`, because
    `kind` is that of the request. All are decided in one batch, and the same opening alone is the same request.
    """

    def opening(number: int, **fields: Any) -> dict[str, Any]:
        body = {"id": f"seat-{number}", "resource_kind": "seat", "available": number % 2}
        return {"kind": "opening", "idempotency_key": f"open-{number}", **body, **fields}

    rules = {
        "unit": "EUR",
        "decimals": 2,
        "overdraft": 7,
        "per_account_limit": 1,
        "ends_at": "2027-01-01T00:00:00Z",
        "gateway": "sandbox",
        "client": teller.client.id,
        "metadata": {"row": "é"},
    }
    items = [opening(1, **rules), *(opening(number) for number in range(2, 300))]
    answer = teller.admin.post("/v1/batches", {"requests": items})
    assert {result["status"] for result in answer.json["results"]} == {202}
    teller.drain()

    found = teller.client.get("/v1/resources/seat-1").json
    assert {name: found[name] for name in rules} == rules | {"ends_at": "2027-01-01T00:00:00.000000Z"}
    assert (found["kind"], found["available"], found["version"]) == ("seat", 1, 1)
    assert teller.client.get("/v1/resources/seat-298").json["version"] == 0
    alone = {"id": "seat-2", "kind": "seat", "available": 0}
    again = teller.admin.post("/v1/resources", alone, key="open-2")
    assert (again.status_code, again.json["id"]) == (200, answer.json["results"][1]["request"]["id"])

    wrong = [
        opening(301, gateway="nowhere"),
        opening(302, resource_kind="chair"),
        {**opening(303), "resource_kind": None},
        opening(304, per_account_limit=0),
        opening(305, starts_at="2027-01-01T00:00:00Z", ends_at="2027-01-01T00:00:00Z"),
    ]
    refused = teller.admin.post("/v1/batches", {"requests": wrong}).json["results"]
    pointers = [result["problem"]["errors"][0]["pointer"] for result in refused]
    assert pointers == ["/gateway", "/resource_kind", "/resource_kind", "/per_account_limit", ""]
    [forbidden] = send(teller, opening(306))
    assert forbidden["problem"]["code"] == "forbidden"


def test_a_replayed_item_that_is_final_is_200(teller: Teller) -> None:
    """
    A replayed item has the status that it would have alone.
    """
    teller.open("sneaker")
    send(teller, item("1"))
    teller.drain()

    [again] = send(teller, item("1"))

    assert (again["status"], again["request"]["status"]) == (200, "completed")


def test_a_batch_of_a_thousand_is_decided_in_its_order(teller: Teller) -> None:
    """
    The first ten of a thousand items complete if there are ten pieces.
    """
    teller.open("sneaker", available=10)
    results = send(teller, *(item(f"k{i}", account=f"u{i}") for i in range(1_000)))
    teller.drain()

    completed = teller.client.get("/v1/requests?status=completed&kind=redemption").json["data"]
    assert [one["id"] for one in completed[::-1]] == [result["request"]["id"] for result in results[:10]]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"requests": []},
        {"requests": {}},
        {"requests": [item("1")], "extra": 1},
        {"requests": [item(f"k{i}") for i in range(1_001)]},
        [],
    ],
    ids=["nothing", "empty", "object", "extra", "too many", "list"],
)
@pytest.mark.changes_nothing
def test_an_envelope_of_the_wrong_shape_refuses_all(teller: Teller, body: Any) -> None:
    """
    An invalid envelope returns 422 for the whole batch, and no item is stored.
    """
    answer = teller.client.post("/v1/batches", body)

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert teller.client.get("/v1/requests").json["data"] == []
