"""
Under load no request is lost, doubled or overtaken.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from processor.batch import run as batch
from processor.domain.partitioning import partition_of
from processor.storage import connections
from tests.scenarios.assertions import WAIT, outcomes
from tests.servers import PARTITIONS
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from tests.scenarios.crowd import Reply
    from tests.scenarios.scenario_stack import ScenarioStack
    from tests.stack import Document

#: More than all clients take.
STOCK = 1_000_000
#: The wait of a commit for a slow disk, in seconds.
SLOW_COMMIT_SECONDS = 0.02
#: The time for which 200 clients redeem, in seconds.
SHOPPING_SECONDS = 1.0
#: The time for which two workers drain the same partition, in seconds.
OVERLAP_SECONDS = 0.3
#: The time between two batches of the second worker, in seconds.
PAUSE_SECONDS = 0.02


@contextlib.contextmanager
def shopping(stack: ScenarioStack, resources: Sequence[str], people: int) -> Iterator[list[list[Reply]]]:
    """
    Let clients redeem in this block, each from one resource, with the next request as soon as the last is answered.

    Each client uses the APIs in turn. Yields a list, which at the end has the answers of each client.
    """
    over = threading.Event()

    def redemptions(person: int) -> Iterator[bytes]:
        body = {"resource": resources[person % len(resources)], "account": f"u{person}"}
        while not over.is_set():
            yield stack.client.post("/v1/redemptions", body)

    answered: list[list[Reply]] = []
    with stack.crowd(people * len(stack.ports)) as crowd:
        everybody = threading.Thread(
            target=lambda: answered.extend(crowd.converse([redemptions(person) for person in range(people)]))
        )
        everybody.start()
        try:
            yield answered
        finally:
            over.set()
            everybody.join()


def check_shopping(
    stack: ScenarioStack, openings: Sequence[Document], answered: Sequence[Sequence[Reply]]
) -> None:
    """
    Check that each request was accepted, is stored, was decided once and in order, and took one.
    """
    for number, opening in enumerate(openings):
        replies = [reply for person in answered[number :: len(openings)] for reply in person]
        assert {reply.status for reply in replies} == {202}
        ids = [reply.document["id"] for reply in replies]
        assert len(set(ids)) == len(ids)
        stack.until_decided(ids)
        documents = stack.listed(stack.client, f"/v1/requests?resource={opening['resource']}")
        assert {one["id"] for one in documents} == set(ids)
        assert outcomes(documents) == {"completed": len(ids)}
        check_order(replies, documents)
        state = stack.resource(opening["resource"])
        assert (state["available"], state["version"]) == (STOCK - len(ids), len(ids) + 1)
    stack.check_sequences()


def check_order(replies: Sequence[Reply], documents: Sequence[Document]) -> None:
    """
    Check that no request was overtaken by one that was sent after its answer.
    """
    found = {document["id"]: document for document in documents}
    decided = sorted(replies, key=lambda reply: int(found[reply.document["id"]]["sequence"]))
    latest = 0.0  # the latest time at which one of those before was sent
    for reply in decided:
        assert reply.answered_at >= latest, f"{reply.document['id']} was overtaken"
        latest = max(latest, reply.sent_at)


def test_requests_are_decided_in_the_order_of_their_answers(stack: ScenarioStack, long_round: int) -> None:
    """
    64 clients use two hot resources, while one of two workers stops and another one starts.
    """
    resources = [stack.name("queue"), stack.name("queue")]
    openings = [stack.open(name, "stock", STOCK) for name in resources]

    with shopping(stack, resources, people=64) as answered:
        stack.workers[long_round % 2].stop()
        stack.start_worker()
        stack.until_shared()

    check_shopping(stack, openings, answered)


def test_two_workers_drain_the_same_partition(stack: ScenarioStack, round_number: int) -> None:
    """
    As in a deploy, two workers drain one partition while 16 clients redeem. The lock keeps them apart.
    """
    resource = stack.name("overlap")
    opening = stack.open(resource, "stock", STOCK)
    partition = partition_of(resource, PARTITIONS)
    over = threading.Event()
    decided: list[UUID] = []
    deciding = threading.Lock()

    def drain() -> None:
        with connections.connect(
            stack.environment["TELLER_WORKER_DATABASE_URL"], application_name="scenarios"
        ) as connection:
            while not over.wait(PAUSE_SECONDS):  # the lock is free for the worker meanwhile
                with deciding:
                    decided.extend(batch.drain_once(connection, [partition]).decided)

    def both_have_decided() -> bool:
        with deciding:  # no decision of this thread is missing in `decided`
            return 0 < len(decided) < decisions_of(stack, resource)

    another = threading.Thread(target=drain)
    another.start()
    try:
        with shopping(stack, [resource], people=16) as answered:
            time.sleep(OVERLAP_SECONDS)
            eventually(both_have_decided)
    finally:
        over.set()
        another.join()

    check_shopping(stack, [opening], answered)
    assert 0 < len(decided) < sum(map(len, answered)), "only one of them decided"


def decisions_of(stack: ScenarioStack, resource: str) -> int:
    """
    Return the number of redemptions of a resource that are decided.
    """
    with psycopg.connect(stack.environment["DATABASE_URL"]) as reader:
        [(count,)] = reader.execute(
            "SELECT count(*) FROM decisions d JOIN requests r ON r.id = d.request_id"
            " WHERE r.resource_id = %s AND r.kind = 'redemption'",
            (resource,),
        ).fetchall()
    return int(count)


@pytest.fixture
def held_snapshot(stack: ScenarioStack) -> Iterator[None]:
    """
    A transaction has read and stays open, so PostgreSQL cannot clean up.
    """
    with psycopg.connect(stack.environment["DATABASE_URL"]) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM installation")
        yield


@pytest.fixture
def slow_disk(stack: ScenarioStack) -> Iterator[None]:
    """
    Each commit waits for a slow disk.
    """
    if not stack.embeds_postgres:
        pytest.skip("the settings of a given PostgreSQL are not ours to change")
    changes = {"commit_delay": f"{SLOW_COMMIT_SECONDS * 1e6:.0f}", "commit_siblings": "0"}
    try:
        for name, value in changes.items():
            stack.owner.execute(f"ALTER SYSTEM SET {name} = {value}")
        _reload(stack, "0")
        yield
    finally:
        for name in changes:
            stack.owner.execute(f"ALTER SYSTEM RESET {name}")
        _reload(stack, "5")


def _reload(stack: ScenarioStack, siblings: str) -> None:
    stack.owner.execute("SELECT pg_reload_conf()")
    eventually(lambda: stack.owner.execute("SHOW commit_siblings").fetchall() == [(siblings,)])


@pytest.mark.usefixtures("held_snapshot", "slow_disk")
def test_200_clients_a_slow_disk_and_a_held_snapshot(stack: ScenarioStack, long_round: int) -> None:
    """
    No request is lost, there is no deadlock, and the order is kept.
    """
    resources = [stack.name("hard") for _ in range(8)]
    openings = [stack.open(name, "stock", STOCK) for name in resources]
    alone = stack.ask(
        stack.client.post("/v1/redemptions", {"resource": "nothing", "account": "ada"}, Prefer=WAIT)
    )
    assert alone.document["error"] == {"code": "resource_not_found"}
    assert alone.seconds > 2 * SLOW_COMMIT_SECONDS, "the two commits are as quick as ever"

    with shopping(stack, resources, people=200) as answered:
        time.sleep(SHOPPING_SECONDS)

    check_shopping(stack, openings, answered)
    [(deadlocks,)] = stack.owner.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchall()
    assert deadlocks == 0
