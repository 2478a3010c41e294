"""
Scenarios 1 to 8: many want the same limited thing at the same instant.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.scenarios.assertions import WAIT, Sale, check_acceptance, mode_of, outcomes, submit, until_over

if TYPE_CHECKING:
    from typing import Any

    from tests.scenarios.scenario_stack import ScenarioStack
    from tests.stack import Document


def redemption(resource: str, account: str, **more: Any) -> Document:
    """
    Return the body of a request for one.
    """
    return {"resource": resource, "account": account, **more}


def rush(
    stack: ScenarioStack, opening: Document, path: str, bodies: list[Document], round_number: int
) -> Sale:
    """
    Send these requests at the same instant. Returns when all are decided.
    """
    mode = mode_of(round_number)
    with stack.crowd(len(bodies), mode.apis) as crowd:
        documents = submit(crowd, stack.client, path, bodies, mode)
    return Sale(stack, opening, documents)


def test_1_a_coupon_that_can_be_used_once(stack: ScenarioStack, round_number: int) -> None:
    """
    Fifty accounts redeem it at once. One of them gets it, and 49 are refused because it is used up.
    """
    coupon = stack.name("coupon")
    opening = stack.open(coupon, "coupon", 1)

    sale = rush(
        stack, opening, "/v1/redemptions", [redemption(coupon, f"u{i}") for i in range(50)], round_number
    )

    sale.check(completed=1, refusal="fully_redeemed", left=0)


def test_2_a_coupon_once_for_each_account(stack: ScenarioStack, round_number: int) -> None:
    """
    One account sends fifty requests with different keys and gets one coupon. Another client's account of the same
    name is another account.
    """
    coupon = stack.name("for-everyone")
    opening = stack.open(coupon, "coupon", 1_000, per_account_limit=1)

    sale = rush(stack, opening, "/v1/redemptions", [redemption(coupon, "greedy")] * 50, round_number)

    sale.check(completed=1, refusal="limit_reached", left=999)
    [other] = [
        stack.ask(stack.other.post("/v1/redemptions", redemption(coupon, "greedy"), Prefer=WAIT)).document
    ]
    assert (other["status"], stack.resource(coupon)["available"]) == ("completed", 998)


def test_3_ten_items_in_stock(stack: ScenarioStack, round_number: int) -> None:
    """
    500 accounts want one at once. Ten get it, 490 are refused, and nothing is left.
    """
    sneaker = stack.name("sneaker")
    opening = stack.open(sneaker, "stock", 10)

    sale = rush(
        stack, opening, "/v1/redemptions", [redemption(sneaker, f"u{i}") for i in range(500)], round_number
    )

    sale.check(completed=10, refusal="out_of_stock", left=0)


def test_4_points_in_two_tabs(stack: ScenarioStack, round_number: int) -> None:
    """
    100 points are available, and both tabs want 100. One gets them.
    """
    points = stack.name("points")
    opening = stack.open(points, "points", 100)

    sale = rush(stack, opening, "/v1/redemptions", [redemption(points, "ada", amount=100)] * 2, round_number)

    sale.check(completed=1, refusal="insufficient_points", left=0)


def test_5_two_cash_machines(stack: ScenarioStack, round_number: int) -> None:
    """
    Two withdrawals of 100 from a balance of 100: one is paid, and the balance is zero.
    """
    balance = stack.name("balance")
    opening = stack.open(balance, "balance", 100, unit="EUR")

    sale = rush(stack, opening, "/v1/withdrawals", [redemption(balance, "ada", amount=100)] * 2, round_number)

    sale.check(completed=1, refusal="insufficient_funds", left=0)


def test_6_a_shared_pool(stack: ScenarioStack, round_number: int) -> None:
    """
    300 accounts withdraw 7 each from 1,000. 142 get it, 158 are refused, and 6 are left.
    """
    pool = stack.name("pool")
    opening = stack.open(pool, "pool", 1_000)
    bodies = [redemption(pool, f"u{i}", amount=7) for i in range(300)]

    sale = rush(stack, opening, "/v1/withdrawals", bodies, round_number)

    sale.check(completed=142, refusal="insufficient_funds", left=6)


def test_7_one_seat(stack: ScenarioStack, round_number: int) -> None:
    """
    Twenty accounts want seat 12A. One gets it.
    """
    seat = stack.name("seat-12A")
    opening = stack.open(seat, "seat", 1)

    sale = rush(
        stack, opening, "/v1/redemptions", [redemption(seat, f"u{i}") for i in range(20)], round_number
    )

    sale.check(completed=1, refusal="out_of_stock", left=0)


def test_8_the_same_request_fifty_times(stack: ScenarioStack, round_number: int) -> None:
    """
    One key and one body make one request, one debit, and 49 replays of the same answer. The key is refused with
    another body, and is free for another client.
    """
    mode = mode_of(round_number)
    stock = stack.name("once")
    opening = stack.open(stock, "stock", 10)
    body = redemption(stock, "ada", metadata={"basket": round_number})
    same = stack.client.post("/v1/redemptions", body, key=stock, **mode.headers)
    reused = stack.client.post("/v1/redemptions", body | {"amount": 2}, key=stock, **mode.headers)

    with stack.crowd(51, mode.apis) as crowd:
        replies = crowd.ask([same] * 50)
        [first] = [reply for reply in replies if "idempotency-replayed" not in reply.headers]
        check_acceptance(first, mode)
        documents = until_over(crowd, stack.client, [first.document])
        late = crowd.ask([same, reused])

    assert [reply.headers.get("idempotency-replayed") for reply in replies].count("true") == 49
    assert {reply.document["id"] for reply in replies} == {first.document["id"]}
    for reply in replies:
        final = reply.document["status"] == "completed"
        assert reply.status == (200 if final else 202)
        assert reply.document == (documents[0] if final else first.document)
        assert final or not mode.waits
    assert (late[0].status, late[0].document) == (200, documents[0])
    assert (late[1].status, late[1].document["code"]) == (422, "idempotency_key_reused")
    Sale(stack, opening, documents).check(completed=1, refusal="out_of_stock", left=9)
    others = stack.ask(stack.other.post("/v1/redemptions", body, key=stock, Prefer=WAIT))
    assert "idempotency-replayed" not in others.headers
    assert stack.resource(stock)["available"] == 8


def test_8_the_same_requests_in_many_orders(stack: ScenarioStack, round_number: int) -> None:
    """
    Sixteen batches of the same 100 requests, each in another order, reach two APIs at the same instant. Each request
    is made once, and there is no deadlock.
    """
    stock = stack.name("shuffled")
    opening = stack.open(stock, "stock", 50)
    items = [
        redemption(stock, f"u{i}", kind="redemption", idempotency_key=f"{stock}-{i}") for i in range(100)
    ]
    chance = random.Random(round_number)
    batches = [stack.client.post("/v1/batches", {"requests": chance.sample(items, 100)}) for _ in range(16)]

    with stack.crowd(16) as crowd:
        replies = crowd.ask(batches)
        results = [one for reply in replies for one in reply.document["results"]]
        made = [one["request"] for one in results if "replayed" not in one]
        documents = until_over(crowd, stack.client, made)

    assert {reply.status for reply in replies} == {202}
    assert len(results) == 1_600
    assert {one["request"]["id"] for one in results} == {one["id"] for one in made}
    assert sorted(one["account"] for one in made) == sorted(item["account"] for item in items)
    assert outcomes(documents) == {"completed": 50, "out_of_stock": 50}
    Sale(stack, opening, documents).check(completed=50, refusal="out_of_stock", left=0)
