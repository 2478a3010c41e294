"""
Ownership of partitions by PostgreSQL alone: leases, claims, takeovers, pauses.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from processor.clients.keys import Caller
from processor.cluster import ownership
from processor.errors import DatabaseUnavailable
from processor.ids import new_id
from processor.operations import pauses
from processor.operations.pauses import PartitionNotFound
from processor.storage import connections as db
from tests.servers import PARTITIONS
from tests.store.store import OPERATOR
from tests.waiting import TIMEOUT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.storage.connections import Connection
    from tests.servers import Database

ALL = frozenset(range(PARTITIONS))


@pytest.fixture
def connect(database: Database) -> Iterator[Callable[[str], Connection]]:
    """
    Connect as a role, and close the connections after the test.
    """
    with ExitStack() as opened:
        urls = {"owner": database.url, "worker": database.worker_url, "api": database.api_url}

        def as_role(role: str) -> Connection:
            connection = db.connect(urls[role], application_name=f"test {role}")
            opened.callback(connection.close)  # without a COMMIT, which would wait for the lock's holder
            return connection

        yield as_role


@pytest.fixture
def connection(connect: Callable[[str], Connection]) -> Connection:
    """
    A worker's connection.
    """
    return connect("worker")


def join(connection: Connection) -> uuid.UUID:
    """Register a new worker."""
    worker = new_id()
    ownership.join(connection, worker, "here", 1)
    return worker


def expire_lease(connection: Connection, worker: uuid.UUID) -> None:
    """Let the worker's lease expire."""
    connection.execute("UPDATE workers SET alive_until = clock_timestamp() WHERE id = %s", (worker,))


def hold_lock(connection: Connection, partition: int) -> None:
    """Hold the partition's lock, as in the middle of a batch."""
    connection.execute("BEGIN")
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (db.LOCK_CLASS, partition))


def add_work(owner: Connection, partition: int, age_seconds: float = 0) -> None:
    """Insert waiting work into the partition."""
    owner.execute(
        "INSERT INTO inbox (partition, request_id, verb, created_at)"
        " VALUES (%s, gen_random_uuid(), 'decide', clock_timestamp() - make_interval(secs => %s))",
        (partition, age_seconds),
    )


def last_batch_was(owner: Connection, partition: int, seconds_ago: float) -> None:
    """Set the partition's row as a batch leaves it."""
    owner.execute(
        "UPDATE partitions SET drained_at = clock_timestamp() - make_interval(secs => %s) WHERE id = %s",
        (seconds_ago, partition),
    )


def test_a_claim_takes_free_partitions_up_to_the_number_asked(connection: Connection) -> None:
    """
    Two workers that claim half each get half each, and a third one finds nothing.
    """
    first, second, third = (join(connection) for _ in range(3))

    one = ownership.claim(connection, first, PARTITIONS // 2)
    other = ownership.claim(connection, second, PARTITIONS)

    assert len(one) == len(other) == PARTITIONS // 2
    assert one | other == ALL
    assert ownership.claim(connection, third, PARTITIONS) == frozenset()
    assert ownership.heartbeat(connection, first).owned == one


def test_claims_at_the_same_instant_never_give_a_partition_twice(
    connect: Callable[[str], Connection],
) -> None:
    """
    Four workers claim everything at once, ten times. Each partition goes to one of them.
    """
    connections = [connect("worker") for _ in range(4)]
    workers = [join(line) for line in connections]
    with ThreadPoolExecutor(len(connections)) as pool:
        for _ in range(10):
            gate = threading.Barrier(len(connections))

            def claim(number: int, gate: threading.Barrier = gate) -> frozenset[int]:
                gate.wait()
                return ownership.claim(connections[number], workers[number], PARTITIONS)

            claimed = list(pool.map(claim, range(len(connections))))

            assert sum(map(len, claimed)) == PARTITIONS
            assert frozenset().union(*claimed) == ALL
            for line, worker, mine in zip(connections, workers, claimed, strict=True):
                assert ownership.heartbeat(line, worker).owned == mine
                ownership.release(line, worker, mine)


def test_a_heartbeat_returns_live_workers_and_free_partitions(connection: Connection) -> None:
    """
    A worker learns of live workers, of partitions without an owner, and when the next lease expires.
    """
    worker = join(connection)
    alone = ownership.heartbeat(connection, worker)
    assert (alone.renewed, alone.workers, alone.free, alone.next_expiry_seconds) == (
        True,
        1,
        PARTITIONS,
        None,
    )

    other = join(connection)
    ownership.claim(connection, other, 10)
    both = ownership.heartbeat(connection, worker)
    assert (both.workers, both.free) == (2, PARTITIONS - 10)
    assert both.next_expiry_seconds is not None
    assert 0 < both.next_expiry_seconds <= ownership.LEASE_TTL_SECONDS

    expire_lease(connection, other)
    again = ownership.heartbeat(connection, worker)
    assert (again.workers, again.free) == (1, PARTITIONS)


def test_an_expired_lease_is_never_renewed(connection: Connection) -> None:
    """
    A worker without heartbeats for too long may have lost everything. It registers again and owns nothing.
    """
    worker = join(connection)
    ownership.claim(connection, worker, PARTITIONS)
    expire_lease(connection, worker)

    assert not ownership.heartbeat(connection, worker).renewed
    assert ownership.heartbeat(connection, join(connection)).owned == frozenset()


def test_partitions_of_an_expired_worker_alone_are_claimed(
    connection: Connection,
) -> None:
    """
    The lease of one of two owners expires, and exactly its partitions go to the third worker.
    """
    living, dead, heir = (join(connection) for _ in range(3))
    ownership.claim(connection, living, 20)
    lost = ownership.claim(connection, dead, PARTITIONS)
    expire_lease(connection, dead)

    assert ownership.claim(connection, heir, PARTITIONS) == lost


def test_a_leaving_worker_releases_everything_at_once(connection: Connection) -> None:
    """
    No lease has to expire first.
    """
    leaving, heir = join(connection), join(connection)
    owned = ownership.claim(connection, leaving, PARTITIONS)

    assert ownership.leave(connection, leaving) == owned
    assert ownership.claim(connection, heir, PARTITIONS) == owned
    assert ownership.heartbeat(connection, heir).workers == 1


def test_a_takeover_ends_the_backends_that_hold_the_lock(connect: Callable[[str], Connection]) -> None:
    """
    A suspended worker keeps the lock of its batch. The new owner ends the backend that holds the lock.

    It also ends a backend that waits for such a lock and would get it later. Batches of other partitions
    continue.
    """
    connection, holder, waiter, bystander = (connect("worker") for _ in range(4))
    dead, living, heir = (join(connection) for _ in range(3))
    [mine, other] = sorted(ownership.claim(connection, dead, 2))
    [untouched] = ownership.claim(connection, living, 1)
    hold_lock(holder, mine)
    hold_lock(bystander, untouched)

    def wait_for_lock() -> None:
        with contextlib.suppress(psycopg.OperationalError):
            hold_lock(waiter, mine)  # it may get the lock for a moment, if the holder ends first
        with pytest.raises(psycopg.OperationalError):
            waiter.execute("SELECT pg_sleep(%s)", (TIMEOUT_SECONDS,))
        ended.set()

    ended = threading.Event()
    waiting = threading.Thread(target=wait_for_lock, daemon=True)
    waiting.start()
    waiters = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    eventually(lambda: connection.execute(waiters).rowcount)
    expire_lease(connection, dead)

    assert ownership.claim(connection, heir, 2) == {mine, other}

    connection.execute("SET lock_timeout = 10000")
    hold_lock(connection, mine)  # no other backend holds it
    assert ended.wait(TIMEOUT_SECONDS)
    waiting.join()
    with pytest.raises(psycopg.OperationalError):
        holder.execute("SELECT 1")
    assert bystander.execute("SELECT 1").fetchall() == [(1,)]


def test_a_released_partition_is_taken_without_ending_a_backend(connect: Callable[[str], Connection]) -> None:
    """
    During a deploy the old worker's last batch may overlap with the new owner. The lock orders them, and both
    go on.
    """
    connection, last_batch = connect("worker"), connect("worker")
    leaving, heir = join(connection), join(connection)
    ownership.claim(connection, leaving, 1)
    hold_lock(last_batch, 0)
    ownership.leave(connection, leaving)

    assert ownership.claim(connection, heir, 1) == {0}
    assert last_batch.execute("SELECT 1").fetchall() == [(1,)]


def test_neglected_work(connect: Callable[[str], Connection]) -> None:
    """
    Neglected work waits longer than a second in a partition without a batch for a second. Paused work is
    neither.
    """
    owner, connection = connect("owner"), connect("worker")
    fresh, old, old_but_drained, paused, empty = range(5)
    for partition in (fresh, old, old_but_drained, paused, empty):
        last_batch_was(owner, partition, seconds_ago=60)
    last_batch_was(owner, old_but_drained, seconds_ago=0)
    add_work(owner, fresh)
    for partition in (old, old_but_drained, paused):
        add_work(owner, partition, age_seconds=5)
    pauses.pause(connect("api"), paused, OPERATOR)

    assert ownership.neglected(connection, ALL, 1.0) == ([old], {paused})
    assert ownership.neglected(connection, ALL - {old}, 1.0) == ([], {paused})
    assert ownership.neglected(connection, ALL - {paused}, 1.0) == ([old], set())


def test_a_pause_waits_for_the_running_batch(connect: Callable[[str], Connection]) -> None:
    """
    When `pause` returns, no batch runs, and the next one sees the pause.
    """
    api, batch = connect("api"), connect("worker")
    hold_lock(batch, 7)
    done = threading.Event()

    def pause() -> None:
        pauses.pause(api, 7, OPERATOR, "stocktaking")
        done.set()

    pausing = threading.Thread(target=pause, daemon=True)
    pausing.start()
    assert not done.wait(0.3)
    batch.execute("COMMIT")
    assert done.wait(TIMEOUT_SECONDS)
    pausing.join()
    hold_lock(batch, 7)
    assert batch.execute("SELECT partition FROM pauses").fetchall() == [(7,)]


def test_pausing_and_resuming_is_audited_once_each(connect: Callable[[str], Connection]) -> None:
    """
    Pausing a paused partition changes nothing, and neither does resuming one that is not paused.
    """
    api = connect("api")

    other = Caller(uuid.UUID(int=3), "staff", "bob", "operator")
    assert pauses.pause(api, 7, OPERATOR, "stocktaking")
    assert not pauses.pause(api, 7, other)
    assert pauses.resume(api, 7, OPERATOR)
    assert not pauses.resume(api, 7, other)
    assert api.execute("SELECT actor, action, reason, detail FROM audit ORDER BY id").fetchall() == [
        (OPERATOR.actor, "partition_paused", "stocktaking", {"partition": 7}),
        (OPERATOR.actor, "partition_resumed", None, {"partition": 7}),
    ]


@pytest.mark.parametrize("partition", [-1, PARTITIONS, 40_000])
def test_a_missing_partition_is_refused(connect: Callable[[str], Connection], partition: int) -> None:
    """
    Nothing is recorded.
    """
    api = connect("api")
    for act in (pauses.pause, pauses.resume):
        with pytest.raises(PartitionNotFound, match=f"no partition {partition}"):
            act(api, partition, OPERATOR)
    assert api.execute("SELECT count(*) FROM audit").fetchall() == [(0,)]


def test_the_list_shows_owner_backlog_age_and_pause(connect: Callable[[str], Connection]) -> None:
    """
    The list is one page in order. It shows the owner while its lease is valid.
    """
    owner, connection, api = connect("owner"), connect("worker"), connect("api")
    worker = new_id()
    ownership.join(connection, worker, "host-a", 4242)
    ownership.claim(connection, worker, 1)
    add_work(owner, 0, age_seconds=5)
    add_work(owner, 0)
    pauses.pause(api, 3, OPERATOR)

    listed = ownership.list_partitions(api)

    assert [status.id for status in listed] == sorted(ALL)
    assert (listed[0].owner, listed[0].backlog, listed[0].paused) == ("host-a:4242", 2, False)
    assert listed[0].oldest_seconds == pytest.approx(5, abs=2)
    assert (listed[3].owner, listed[3].backlog, listed[3].oldest_seconds, listed[3].paused) == (
        None,
        0,
        None,
        True,
    )
    expire_lease(connection, worker)
    assert ownership.list_partitions(api)[0].owner is None


def test_a_server_that_is_gone_is_a_fault_of_the_infrastructure(connection: Connection) -> None:
    """
    The fault is not psycopg's own exception, because callers do not import psycopg.
    """
    connection.close()

    with pytest.raises(DatabaseUnavailable):
        ownership.heartbeat(connection, new_id())
