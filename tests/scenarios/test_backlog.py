"""
Scenarios 24 and 29: much waits for one resource, and nobody else notices.
"""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING

import psycopg

from processor.domain.partitioning import partition_of
from processor.storage.connections import LOCK_CLASS
from tests.scenarios.assertions import WAIT, until_over
from tests.servers import PARTITIONS
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.scenarios.crowd import Crowd, Reply
    from tests.scenarios.scenario_stack import ScenarioStack

#: Requests in a call, and how many wait: all of the story when it is told often, a part of it in everyday tests.
ITEMS = 1_000
WAITING = 100_000 if "SCENARIO_ROUNDS" in os.environ else 20_000
#: Partitions that are hot at the same time, and how many requests wait in each: more than is decided
#: while all of them are let go.
CROWDED, CROWD = 5, 20_000
#: How many times its latency in peace a request may take, at the median, and how long at the most, in seconds.
SLOWER_AT_MOST, SECONDS_AT_MOST = 20, 1.0
#: Requests of which the latency in peace is the median.
SAMPLES = 30
#: How often everything is read while a batch is stuck.
LOOKS = 3


def batch(stack: ScenarioStack, resource: str, first: int, count: int = ITEMS) -> bytes:
    """So many redemptions, each by another account."""
    return stack.client.post(
        "/v1/batches",
        {
            "requests": [
                {
                    "kind": "redemption",
                    "idempotency_key": f"{resource}-{number}",
                    "resource": resource,
                    "account": f"u{number}",
                }
                for number in range(first, first + count)
            ]
        },
    )


def accept(stack: ScenarioStack, crowd: Crowd, batches: Sequence[bytes]) -> list[str]:
    """The ids of what these batches made."""
    ids = []
    for request in batches:
        [reply] = crowd.ask([request])
        assert reply.status == 202, reply.body
        results = reply.document["results"]
        assert {one["status"] for one in results} == {202}
        ids += [one["request"]["id"] for one in results]
    return ids


def redemption_of(stack: ScenarioStack, resource: str) -> bytes:
    """Somebody wants one, and waits for it."""
    return stack.client.post("/v1/redemptions", {"resource": resource, "account": "ada"}, Prefer=WAIT)


def latency(stack: ScenarioStack, crowd: Crowd, resource: str) -> float:
    """How many seconds a redemption takes until it is decided."""
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


def test_24_a_hot_resource_with_100000_waiting(stack: ScenarioStack, seldom_told: int) -> None:
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

    with stack.crowd(1) as crowd:
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


def test_24_many_hot_resources_of_one_worker(stack: ScenarioStack, seldom_told: int) -> None:
    """
    More partitions with much to do than a worker has threads: another one of the same worker has its turn after one
    batch of each, not when one of them is done.
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


def test_29_a_balance_is_read_during_a_batch_of_10000(stack: ScenarioStack, told: int) -> None:
    """
    Every read answers at once with a state that there was: what was taken and what is left are always the whole.
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
    assert len(set(versions)) > 2, "nobody read in the middle of it"


def pause(stack: ScenarioStack, crowd: Crowd, partition: int, verb: str) -> None:
    """Or resume."""
    [reply] = crowd.ask([stack.admin.post(f"/v1/admin/partitions/{partition}/{verb}")])
    assert (reply.status, reply.document["paused"]) == (200, verb == "pause"), reply.body


def test_29_a_balance_is_read_while_a_batch_is_stuck(stack: ScenarioStack, told: int) -> None:
    """
    A batch has the partition's lock, has written the resource, and cannot go on: whoever reads the balance, the
    requests or the entries is answered at once, with what was before. When it goes on, it is all decided.
    """
    stock = stack.name("stuck")
    stack.open(stock, "stock", 1_000)
    partition = partition_of(stock, PARTITIONS)
    with stack.crowd(1) as crowd:
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
    """A batch of it has the lock and waits for somebody."""
    [(waits,)] = stack.owner.execute(
        "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        " WHERE l.classid::bigint = %s AND l.objid::bigint = %s AND l.granted AND a.datname = current_database()"
        " AND a.wait_event_type = 'Lock')",
        (LOCK_CLASS, partition),
    ).fetchall()
    return bool(waits)
