"""
Scenarios 25, 26 and 32: several resources in one request, also across partitions of two workers.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from processor.domain.partitioning import partition_of
from tests.scenarios.assertions import mode_of, outcomes, submit, until_over
from tests.servers import PARTITIONS
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.scenarios.scenario_stack import ScenarioStack
    from tests.stack import Document

#: Crossing trades that are sent at the same instant.
TRADES = 100


def exchange(account: str, *legs: tuple[str, int]) -> Document:
    """
    Return the body of an exchange. A leg is a resource and its change.
    """
    return {
        "account": account,
        "legs": [
            {"resource": resource, "give" if change > 0 else "take": abs(change)} for resource, change in legs
        ],
    }


def check_entries(stack: ScenarioStack, documents: Sequence[Document]) -> None:
    """
    Check that a completed exchange has one entry for each leg, and a refused one none.
    """
    with stack.crowd(16) as readers:
        replies = readers.ask([stack.client.get(f"/v1/requests/{one['id']}/entries") for one in documents])
    for document, reply in zip(documents, replies, strict=True):
        entries = [(one["resource"], one["kind"], one["amount"]) for one in reply.document["data"]]
        legs = [
            (leg["resource"], "debit" if "take" in leg else "credit", leg.get("take") or leg["give"])
            for leg in document["legs"]
        ]
        assert sorted(entries) == (sorted(legs) if document["status"] == "completed" else [])


def test_25_points_and_stock_in_one_request(stack: ScenarioStack, round_number: int) -> None:
    """
    Thirty accounts pay 100 points each for one of ten items. Ten get one, and the points of the others stay.
    """
    mug = stack.name("mug")
    purses = [stack.name("purse") for _ in range(30)]
    stack.open(mug, "stock", 10)
    for purse in purses:
        stack.open(purse, "points", 150)
    mode = mode_of(round_number)
    bodies = [exchange(purse, (purse, -100), (mug, -1)) for purse in purses]

    with stack.crowd(len(bodies), mode.apis) as crowd:
        documents = submit(crowd, stack.client, "/v1/exchanges", bodies, mode)

    assert outcomes(documents) == {"completed": 10, "out_of_stock": 20}
    for purse, document in zip(purses, documents, strict=True):
        completed = document["status"] == "completed"
        assert stack.resource(purse)["available"] == (50 if completed else 150)
        assert completed or document["error"] == {"code": "out_of_stock", "resource": mug}
    assert stack.resource(mug)["available"] == 0
    check_entries(stack, documents)


def test_26_two_players_trade_items_with_each_other(stack: ScenarioStack, round_number: int) -> None:
    """
    A hundred crossing trades at once: each is whole or not at all, and no item is doubled or lost.
    """
    names = [stack.name("items") for _ in range(4)]
    for name in names:
        stack.open(name, "stock", 20)
    mode = mode_of(round_number)
    chance = random.Random(round_number)
    pairs = [chance.sample(names, 2) for _ in range(TRADES)]
    bodies = [exchange("a", (one, -1), (other, 1)) for one, other in pairs]

    with stack.crowd(len(bodies), mode.apis) as crowd:
        documents = submit(crowd, stack.client, "/v1/exchanges", bodies, mode)

    assert set(outcomes(documents)) <= {"completed", "out_of_stock"}
    assert sum(stack.resource(name)["available"] for name in names) == 20 * len(names)
    check_entries(stack, documents)


def test_32_crossing_exchanges_while_workers_are_killed(stack: ScenarioStack, long_round: int) -> None:
    """
    Exchanges in both directions, beside plain requests, while a worker is killed. Every order holds for every leg.
    """
    names = [stack.name("side") for _ in range(8)]
    openings = {name: stack.open(name, "stock", 100_000) for name in names}
    chance = random.Random(long_round)
    accepted: dict[str, list[str]] = {name: [] for name in names}
    documents: list[Document] = []
    with stack.crowd(1) as crowd:
        for turn in range(60):
            one, other = chance.sample(names, 2)
            plain = chance.choice(names)
            bodies = [
                stack.client.post("/v1/exchanges", exchange("a", (one, -1), (other, 1))),
                stack.client.post("/v1/redemptions", {"resource": plain, "account": "b"}),
            ]
            for body in bodies:  # the next is sent when this one is accepted, so their order is promised
                [reply] = crowd.ask([body])
                assert reply.status == 202, reply.body
                documents.append(reply.document)
            for name in (one, other):
                accepted[name].append(documents[-2]["id"])
            accepted[plain].append(documents[-1]["id"])
            if turn == 20:
                stack.workers[0].kill()
                stack.start_worker()
        found = until_over(crowd, stack.client, documents)

    assert outcomes(found) == {"completed": len(documents)}
    for name in names:
        entries = stack.listed(stack.admin, f"/v1/resources/{name}/entries")[::-1]
        assert [entry["request"] for entry in entries] == [openings[name]["id"], *accepted[name]]
    stack.until_shared()


def test_an_exchange_waits_for_a_paused_partition(stack: ScenarioStack) -> None:
    """
    A reader sees which partition is paused. Requests behind it wait too, and go on when it is resumed.
    """
    one, other = stack.name("here"), stack.name("there")
    partition = partition_of(other, PARTITIONS)
    while partition_of(one, PARTITIONS) == partition:
        one = stack.name("here")
    stack.open(one, "stock", 10)
    stack.open(other, "stock", 10)
    stack.ask(stack.admin.post(f"/v1/admin/partitions/{partition}/pause", {}))

    first = stack.ask(stack.client.post("/v1/exchanges", exchange("a", (one, -1), (other, 1)))).document
    behind = stack.ask(stack.client.post("/v1/redemptions", {"resource": one, "account": "b"})).document

    waiting = stack.ask(stack.client.get(f"/v1/requests/{first['id']}")).document
    assert waiting["waiting_for"] == {"partition": partition, "paused": True}
    assert waiting["stage"] == "queued"
    stack.ask(stack.admin.post(f"/v1/admin/partitions/{partition}/resume", {}))
    eventually(lambda: len(stack.sequences([first["id"], behind["id"]])) == 2)
    assert "waiting_for" not in stack.ask(stack.client.get(f"/v1/requests/{first['id']}")).document
    assert stack.resource(one)["available"] == 8
