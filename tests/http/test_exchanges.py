"""
Exchanges over HTTP: their bodies, their answers, and their refunds. The test runs the batches.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from processor.outbox import deliveries
from processor.storage import connections
from processor.verify.checks import verify
from workers.courier.request_mails import mail_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.teller import Reply, Teller

TRADE = [{"resource": "points", "take": 3}, {"resource": "mug", "take": 1}, {"resource": "till", "give": 3}]


@pytest.fixture
def shop(teller: Teller) -> Iterator[Teller]:
    """
    Points, one mug and a till. At the end `verify` must find no discrepancy.
    """
    teller.open("points", "points", 10)
    teller.open("mug", "stock", 1)
    teller.open("till", "points", 0)
    yield teller
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        assert [str(found) for found in verify(connection)] == []


def exchange(teller: Teller, legs: Any, **more: Any) -> Reply:
    """Submit an exchange, and run the batches."""
    answer = teller.client.post("/v1/exchanges", {"account": "u", "legs": legs, **more})
    teller.drain()
    return answer


def quantities(teller: Teller, *resources: str) -> list[int]:
    """Return what is available of each resource."""
    return [teller.quantities(resource)[0] for resource in resources]


def test_all_legs_of_an_exchange_move_at_once(shop: Teller) -> None:
    """
    The request shows its legs in place of a resource and an amount. Its entries are those of all legs.
    """
    answer = exchange(shop, TRADE, metadata={"order": "A-17"})
    assert answer.status_code == 202
    assert answer.json["legs"] == TRADE
    assert {"resource", "amount"}.isdisjoint(answer.json)

    done = shop.client.get(f"/v1/requests/{answer.json['id']}").json
    assert (done["kind"], done["status"], done["metadata"]) == ("exchange", "completed", {"order": "A-17"})
    entries = shop.client.get(f"/v1/requests/{answer.json['id']}/entries").json["data"]
    assert sorted((one["resource"], one["kind"], one["amount"]) for one in entries) == [
        ("mug", "debit", 1),
        ("points", "debit", 3),
        ("till", "credit", 3),
    ]
    assert quantities(shop, "points", "mug", "till") == [7, 0, 3]


@pytest.mark.parametrize(
    ("legs", "code", "resource"),
    [
        (
            [
                {"resource": "points", "take": 3},
                {"resource": "mug", "take": 2},
                {"resource": "till", "take": 1},
            ],
            "out_of_stock",
            "mug",
        ),
        (
            [{"resource": "points", "take": 3}, {"resource": "nowhere", "give": 1}],
            "resource_not_found",
            "nowhere",
        ),
        ([{"resource": "bank", "give": 1}, {"resource": "mug", "take": 1}], "not_exchangeable", "bank"),
        (
            [{"resource": "foreign", "give": 1}, {"resource": "mug", "take": 1}],
            "resource_not_found",
            "foreign",
        ),
    ],
)
def test_a_leg_that_is_refused_refuses_all(shop: Teller, legs: Any, code: str, resource: str) -> None:
    """
    Nothing moves. The error has the code of the first leg that a rule refuses, in the order sent, and its resource.
    """
    shop.open("bank", "balance", 10, gateway="sandbox")
    shop.open("foreign", "stock", 10, client="staff")

    asked = exchange(shop, legs).json["id"]

    error = shop.client.get(f"/v1/requests/{asked}").json["error"]
    assert (error["code"], error["resource"]) == (code, resource)
    assert quantities(shop, "points", "mug", "till") == [10, 1, 0]


def test_the_end_of_an_exchange_is_notified_by_webhook_and_mail(shop: Teller) -> None:
    """
    Both have all legs. The mail has the unit of each resource, and the leg that is refused.
    """
    shop.open("cash", "balance", 900, unit="EUR", decimals=2)
    hook = shop.client.post("/v1/webhooks", {"url": "https://8.8.8.8/hook"}).json["id"]
    shop.client.put("/v1/accounts/u", {"email": "ada@example.com"})
    paid = [
        {"resource": "cash", "take": 250},
        {"resource": "mug", "take": 1},
        {"resource": "points", "give": 5},
    ]
    done, refused = (exchange(shop, paid).json["id"] for _ in range(2))

    with connections.connect(shop.settings.courier_database_url, application_name="test courier") as courier:
        deliveries.expand(courier)
        bodies = [json.loads(one.body()) for one in deliveries.claim_webhooks(courier, {UUID(hook): 9}, 1.0)]
        mails = deliveries.claim_mails(courier, shop.client.id, 9, 1.0, 9)
    found = {one["data"]["id"]: (one["type"], one["data"]["legs"], one["data"]["error"]) for one in bodies}
    error = {"code": "out_of_stock", "resource": "mug"}
    assert found == {
        done: ("request.completed", paid, None),
        refused: ("request.rejected", paid, error),
    }
    texts = {str(one.request.id): mail_for(one, "teller@example.com").get_content() for one in mails}
    assert "Your exchange of 3 resources is completed." in texts[done]
    for line in ("Takes:     2.50 EUR, cash", "Takes:     1, mug", "Gives:     5, points"):
        assert line in texts[done]
    assert "Reason:    out_of_stock (mug)" in texts[refused]


def test_a_request_is_found_by_each_of_its_legs(shop: Teller) -> None:
    """
    Once, newest first, with a cursor, beside other filters, and also among failed ones.
    """
    trades = [exchange(shop, TRADE).json["id"] for _ in range(3)]
    plain = shop.client.post("/v1/redemptions", {"resource": "till", "account": "u"}).json["id"]
    shop.drain()
    expected = [plain, *trades[::-1]]

    def found(query: str) -> list[str]:
        ids: list[str] = []
        cursor = ""
        while True:
            page = shop.client.get(f"/v1/requests?resource=till&{query}{cursor}").json
            ids += [one["id"] for one in page["data"]]
            if page["next_cursor"] is None:
                return ids
            cursor = f"&cursor={page['next_cursor']}"

    opening = shop.admin.get("/v1/requests?kind=opening&resource=till").json["data"]
    assert found("limit=100") == expected
    assert found("limit=1") == expected
    assert found("kind=exchange") == expected[1:]
    assert found("status=completed&account=u") == [plain, trades[0]]
    assert found("account=u") == expected
    assert found("status=processing") == []
    for resource in ("points", "mug"):
        assert len(shop.client.get(f"/v1/requests?resource={resource}").json["data"]) == 3
    operator = shop.operator.get("/v1/requests?resource=till").json["data"]
    assert [one["id"] for one in operator] == [*expected, opening[0]["id"]]


def legs(count: int) -> list[dict[str, Any]]:
    """Return this many legs."""
    return [{"resource": f"r{number}", "take": 1} for number in range(count)]


@pytest.mark.parametrize(
    "body",
    [
        {"legs": legs(2)},
        {"account": "u"},
        {"account": "u", "legs": {}},
        {"account": "u", "legs": legs(1)},
        {"account": "u", "legs": legs(11)},
        {"account": "u", "legs": [*legs(2), {"resource": "r1", "give": 1}]},
        {"account": "u", "legs": [*legs(1), {"resource": "r", "take": 1, "give": 1}]},
        {"account": "u", "legs": [*legs(1), {"resource": "r"}]},
        {"account": "u", "legs": [*legs(1), {"take": 1}]},
        {"account": "u", "legs": [*legs(1), {"resource": "r", "take": 0}]},
        {"account": "u", "legs": [*legs(1), {"resource": "r", "give": -1}]},
        {"account": "u", "legs": [*legs(1), {"resource": "r", "take": 2**53}]},
        {"account": "u", "legs": [*legs(1), {"resource": "r", "take": 1.5}]},
        {"account": "u", "legs": [*legs(1), {"resource": "r/s", "take": 1}]},
        {"account": "u", "legs": [*legs(1), {"resource": "r", "take": 1, "more": 1}]},
        {"account": "u", "legs": legs(2), "resource": "r", "amount": 1},
    ],
)
def test_an_invalid_exchange_is_refused_and_stores_nothing(shop: Teller, body: Any) -> None:
    """
    Alone it has 422 `invalid`. An item of a batch has the same, and the other items are accepted.
    """
    alone = shop.client.post("/v1/exchanges", body)
    items = [
        {"kind": "exchange", "idempotency_key": "bad", **body},
        {"kind": "exchange", "idempotency_key": "good", "account": "u", "legs": TRADE},
    ]
    batch = shop.client.post("/v1/batches", {"requests": items}).json["results"]
    shop.drain()

    assert (alone.status_code, alone.json["code"]) == (422, "invalid")
    assert [one["status"] for one in batch] == [422, 202]
    assert shop.status(batch[1]["request"]["id"]) == "completed"
    assert len(shop.client.get("/v1/requests?kind=exchange").json["data"]) == 1


def test_a_refund_of_an_exchange_undoes_every_leg_once(shop: Teller) -> None:
    """
    It has no amount. It is rejected with the code of a leg that cannot be undone, and nothing moves then.
    """
    asked = exchange(shop, TRADE).json["id"]
    path = f"/v1/admin/requests/{asked}/refund"
    part = shop.admin.post(path, {"reason": "returned", "amount": 1})
    assert (part.status_code, part.json["code"]) == (422, "invalid")

    spent = exchange(shop, [{"resource": "till", "take": 3}, {"resource": "points", "give": 1}]).json["id"]
    refused = shop.admin.post(path, {"reason": "returned"}).json["id"]
    shop.drain()
    error = shop.admin.get(f"/v1/requests/{refused}").json["error"]
    assert (error["code"], error["resource"]) == ("insufficient_points", "till")
    assert quantities(shop, "points", "mug", "till") == [8, 0, 0]

    for original, left in ((spent, [7, 0, 3]), (asked, [10, 1, 0])):
        refund = shop.admin.post(f"/v1/admin/requests/{original}/refund", {"reason": "returned"}).json["id"]
        shop.drain()
        assert shop.status(refund) == "completed"
        assert shop.client.get(f"/v1/requests/{original}").json["status"] == "refunded"
        assert quantities(shop, "points", "mug", "till") == left
