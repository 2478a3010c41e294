"""
Scenarios 24 and 29: many requests wait for one resource, and others are not delayed.
"""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING

import psycopg

from processor.domain.partitioning import partition_of
from processor.storage.connections import LOCK_CLASS
from tests.scenarios.assertions import WAIT, until_over
from tests.scenarios.backlog import ITEMS, accept, batch, pause
from tests.servers import PARTITIONS
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.scenarios.crowd import Crowd, Reply
    from tests.scenarios.scenario_stack import ScenarioStack

#: The requests that wait. Everyday tests let a part of the scenario's requests wait.
WAITING = 100_000 if "SCENARIO_ROUNDS" in os.environ else 20_000
#: The partitions that are hot at the same time, and the requests that wait in each.
#: They are more than can be decided while the partitions are resumed.
CROWDED, CROWD = 5, 20_000
#: The limit of the median latency, as a multiple of the idle median, and of each latency, in seconds.
SLOWER_AT_MOST, SECONDS_AT_MOST = 20, 1.0
#: The requests of a median.
SAMPLES = 30
#: The rounds of reads while a batch is stuck.
LOOKS = 3


def redemption_of(stack: ScenarioStack, resource: str) -> bytes:
    """
    Return a redemption that waits for its decision.
    """
    return stack.client.post("/v1/redemptions", {"resource": resource, "account": "ada"}, Prefer=WAIT)


def latency(stack: ScenarioStack, crowd: Crowd, resource: str) -> float:
    """
    Return the seconds from a redemption to its decision.
    """
    [reply] = ask_in_time(crowd, [redemption_of(stack, resource)])
    assert (reply.status, reply.document["status"]) == (200, "completed"), reply.body
    return reply.seconds


def ask_in_time(crowd: Crowd, requests: Sequence[bytes]) -> list[Reply]:
    """
    Send the requests, and fail if an answer takes longer than SECONDS_AT_MOST.
    """
    limit = Deadline(SECONDS_AT_MOST)
    replies = crowd.ask(requests)
    slowest = max(reply.seconds for reply in replies)
    assert limit.is_met(slowest), f"{slowest:.2f} s, and not within {limit}"
    return replies


def test_24_a_hot_resource_with_100000_waiting(stack: ScenarioStack, long_round: int) -> None:
    """
    Another partition's request is decided at once, while the hot partition waits and while it is drained, by the
    same worker and by the other. One in the same partition is decided right after those accepted before it.
    """
    hot = stack.name("hot")
    partition = partition_of(hot, PARTITIONS)
    owners = {one["id"]: one["owner"] for one in stack.partitions() if one["id"] != partition}
    mine = stack.owner_of(partition)
    beside = next(number for number, owner in owners.items() if owner == mine)
    elsewhere = next(number for number, owner in owners.items() if owner != mine)
    same = stack.name("same", partition)
    colds = [stack.name("cold", beside), stack.name("cold", elsewhere)]
    first = stack.open(hot, "stock", WAITING)["sequence"] + 2  # after `same`, which is opened next
    for name in (same, *colds):
        stack.open(name, "stock", 1_000_000)

    with stack.may_stall(), stack.crowd(1) as crowd:
        idle = [latency(stack, crowd, cold) for _ in range(SAMPLES) for cold in colds]
        pause(stack, crowd, partition, "pause")
        batches = [batch(stack, hot, number) for number in range(0, WAITING, ITEMS)]
        middle = len(batches) * 3 // 5
        before = accept(stack, crowd, batches[:middle])
        [reply] = crowd.ask([stack.client.post("/v1/redemptions", {"resource": same, "account": "ada"})])
        between = reply.document["id"]
        after = accept(stack, crowd, batches[middle:])
        waiting = [latency(stack, crowd, cold) for _ in range(SAMPLES) for cold in colds]
        [queued] = crowd.ask([stack.client.get(f"/v1/requests/{between}")])
        assert (queued.document["stage"], queued.document["position"]) == ("queued", 1_000)
        assert stack.partitions()[partition]["backlog"] == WAITING + 1

        pause(stack, crowd, partition, "resume")
        draining: list[float] = []
        while (
            crowd.ask([stack.client.get(f"/v1/requests/{after[-1]}")])[0].document["status"] == "processing"
        ):
            draining += [latency(stack, crowd, cold) for cold in colds]

    expected = [*before, between, *after]
    assert stack.sequences(expected) == list(range(first, first + WAITING + 1))
    [reply] = [stack.ask(stack.client.get(f"/v1/requests/{between}"))]
    assert (reply.document["status"], reply.document["sequence"]) == ("completed", first + len(before))
    state = stack.resource(hot)
    assert (state["available"], state["version"]) == (0, WAITING + 1)
    assert len(draining) > 2 * len(colds)
    for found in (waiting, draining):
        assert statistics.median(found) < SLOWER_AT_MOST * statistics.median(idle)


def test_24_many_hot_resources_of_one_worker(stack: ScenarioStack, long_round: int) -> None:
    """
    More partitions have work than the worker has threads. Another partition of that worker gets its turn after one
    batch of each.
    """
    mine = [one["id"] for one in stack.partitions() if one["owner"] == stack.owner_of(0)]
    crowded, quiet = mine[:CROWDED], mine[-1]
    hots = [stack.name("crowded", partition) for partition in crowded]
    cold = stack.name("quiet", quiet)
    for name in (*hots, cold):
        stack.open(name, "stock", 1_000_000)

    with stack.crowd(1) as crowd:
        for partition in crowded:
            pause(stack, crowd, partition, "pause")
        made = [
            accept(stack, crowd, [batch(stack, hot, number) for number in range(0, CROWD, ITEMS)])
            for hot in hots
        ]
        for partition in crowded:
            pause(stack, crowd, partition, "resume")
        [reply] = crowd.ask([redemption_of(stack, cold)])
        lasts = until_over(crowd, stack.client, [{"id": ids[-1], "status": "processing"} for ids in made])

    assert (reply.status, reply.document["status"]) == (200, "completed")
    assert [last["decided_at"] > reply.document["decided_at"] for last in lasts] == [True] * CROWDED


def test_29_a_balance_is_read_during_a_batch_of_10000(stack: ScenarioStack, round_number: int) -> None:
    """
    Each read is answered at once. The taken and the remaining amount always add up to the whole.
    """
    stock = stack.name("read")
    whole = 20_000
    stack.open(stock, "stock", whole)
    partition = partition_of(stock, PARTITIONS)
    with stack.crowd(10) as crowd, stack.crowd(1) as reader:
        pause(stack, crowd, partition, "pause")
        replies = crowd.ask([batch(stack, stock, number) for number in range(0, 10_000, ITEMS)])
        assert {reply.status for reply in replies} == {202}
        pause(stack, crowd, partition, "resume")
        seen: list[Reply] = []
        while not seen or seen[-1].document["available"] > whole - 10_000:
            seen += ask_in_time(reader, [stack.client.get(f"/v1/resources/{stock}")])

    states = [reply.document for reply in seen]
    assert {(state["available"] + state["version"], state["held"]) for state in states} == {(whole + 1, 0)}
    versions = [state["version"] for state in states]
    assert versions == sorted(versions)
    assert len(set(versions)) > 2, "no read was in the middle of it"


def test_29_a_balance_is_read_while_a_batch_is_stuck(stack: ScenarioStack, round_number: int) -> None:
    """
    A batch has the partition's lock, has written the resource, and waits. Reads of the balance, the requests and the
    entries are answered at once, with the state before the batch. Afterwards all requests are decided.
    """
    stock = stack.name("stuck")
    stack.open(stock, "stock", 1_000)
    partition = partition_of(stock, PARTITIONS)
    with stack.may_stall(), stack.crowd(1) as crowd:
        with psycopg.connect(stack.environment["DATABASE_URL"]) as blocker:
            # A batch writes this row last, after everything else.
            blocker.execute("SELECT FROM partitions WHERE id = %s FOR UPDATE", (partition,))
            made = accept(stack, crowd, [batch(stack, stock, 0)])
            eventually(lambda: waits_for_row(stack, partition))
            reads = [
                stack.client.get(f"/v1/resources/{stock}"),
                stack.client.get(f"/v1/requests/{made[0]}"),
                stack.client.get(f"/v1/resources/{stock}/entries"),
                stack.client.get(f"/v1/requests?resource={stock}"),
                stack.admin.get("/v1/admin/partitions"),
            ]
            for _ in range(LOOKS):
                replies = ask_in_time(crowd, reads)
                state, request, entries, listed, partitions = (reply.document for reply in replies)
                assert (state["available"], state["version"]) == (1_000, 1)
                assert (request["stage"], request["position"]) == ("queued", 0)
                assert entries["data"] == []
                assert {one["status"] for one in listed["data"]} == {"processing"}
                assert partitions["data"][partition]["backlog"] == 1_000
            assert waits_for_row(stack, partition)
        stack.until_decided(made)
        [reply] = crowd.ask(reads[:1])
        assert (reply.document["available"], reply.document["version"]) == (0, 1_001)


def waits_for_row(stack: ScenarioStack, partition: int) -> bool:
    """
    Say whether a batch of this partition has the lock and waits for a row.
    """
    [(waits,)] = stack.owner.execute(
        "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        " WHERE l.classid::bigint = %s AND l.objid::bigint = %s AND l.granted AND a.datname = current_database()"
        " AND a.wait_event_type = 'Lock')",
        (LOCK_CLASS, partition),
    ).fetchall()
    return bool(waits)
