"""
Workers on a real PostgreSQL and Redis: whatever happens to them, what was accepted is decided, once and in order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis

from processor.clients.keys import Caller
from processor.cluster import alarms
from processor.domain.partitioning import partition_of
from processor.operations import pauses
from processor.storage.connections import LOCK_CLASS
from teller.embedded import home as homes
from teller.embedded.valkey import Valkey, environment
from tests.flow.workers import WorkerStack, resources_in
from tests.servers import PARTITIONS, settings_of, temporary_home
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.settings import Settings
    from tests.servers import Clones

#: How long a takeover from a dead worker may take, in seconds.
TAKEOVER_SECONDS = 5.0

OPERATOR = Caller(uuid.UUID(int=2), "staff", "olga", "operator")

#: How long the end of a worker may take, in seconds.
STOP_SECONDS = 5.0
#: The requests of one call: as many as the API accepts at once.
BATCH_REQUESTS = 1_000


def everywhere(name: str = "r") -> list[str]:
    """A resource in each partition."""
    return [resources_in(partition, 1, name)[0] for partition in range(PARTITIONS)]


@contextlib.contextmanager
def in_mid_batch(installation: WorkerStack, partition: int) -> Iterator[None]:
    """
    While this lasts, batches of the partition wait in the middle: they have the lock, and write its row last.
    """
    with psycopg.connect(installation.settings.database_url) as blocker:
        blocker.execute("SELECT FROM partitions WHERE id = %s FOR UPDATE", (partition,))
        yield


def lock_is_held(installation: WorkerStack, partition: int) -> bool:
    """
    A batch of it is under way.
    """
    [(held,)] = installation.owner.execute(
        "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        " WHERE l.classid::bigint = %s AND l.objid::bigint = %s AND l.granted AND a.datname = current_database())",
        (LOCK_CLASS, partition),
    ).fetchall()
    return bool(held)


def test_a_worker_decides_the_partitions_that_it_is_notified_of(installation: WorkerStack) -> None:
    """
    One worker owns all partitions, and its sweep finds nothing. A request in each partition is decided once.
    """
    [worker] = installation.start_workers(1, sweeps=False)
    eventually(lambda: worker.events("worker_ready"))  # its claims have led to their batches

    installation.until_decided(installation.submit(everywhere()))

    eventually(lambda: sum(event["decided"] for event in worker.events("batch_applied")) == PARTITIONS)


def test_what_waited_before_the_worker_came_is_decided_at_once(installation: WorkerStack) -> None:
    """
    There was no notification. A worker reads the inbox of each partition that it claims.
    """
    ids = installation.submit(everywhere(), ring=False)

    [worker] = installation.start_workers(1)

    installation.until_decided(ids, within=1.5)
    assert worker.events("swept") == []


def test_doubled_late_and_stray_messages_are_harmless(installation: WorkerStack) -> None:
    """
    A hundred notifications without work come, also for foreign and unknown partitions, and unreadable ones. Nothing
    is decided twice, and the next request is decided without the sweep.
    """
    [worker] = installation.start_workers(1)
    names = installation.names
    installation.until_decided(installation.submit(resources_in(7, 3)))
    with redis.Redis.from_url(installation.settings.redis_url) as client:
        for number, message in enumerate([b"not JSON", b"{}", b'{"queue_name": "partition-07"}']):
            client.hset(names.messages(7), f"stray-{number}", message)
            client.rpush(names.waiting(7), f"stray-{number}")
        for _ in range(100):
            installation.bell.notify_all(range(PARTITIONS))
            client.delete(*map(names.marker, range(PARTITIONS)))
        installation.bell.notify(7_000)
        eventually(lambda: not any(client.llen(names.waiting(n)) for n in range(PARTITIONS)))

    def decides_without_the_sweep() -> bool:
        before = len(worker.events("swept"))
        installation.until_decided(installation.submit(resources_in(7, 3, "later")))
        return len(worker.events("swept")) == before

    eventually(decides_without_the_sweep)  # as soon as the useless notifications are handled
    assert worker.events("message_unreadable")


def test_keys_of_the_release_before_are_removed_without_a_search(
    own_valkey: Valkey, installation: WorkerStack
) -> None:
    """
    Other installations and applications may have millions of keys, so no command looks through them.

    Messages that a worker took and never finished are removed, too. Keys of others stay.
    """
    assert own_valkey.alive()
    with redis.Redis.from_url(installation.environment["REDIS_URL"]) as client:
        old = ["teller:rung:7", "dramatiq:partition-07", "dramatiq:__acks__.worker-1.partition-63"]
        kept = ["dramatiq:mails", "dramatiq:__acks__.worker-1.mails", "teller:{other}:partition-07"]
        for key in (*old, *kept):
            client.rpush(key, "message")
        client.zadd("dramatiq:__heartbeats__", {"worker-1": 1.0})
        client.config_resetstat()
        installation.start_workers(1, sweeps=False)

        eventually(lambda: not client.exists(*old))
        installation.until_decided(installation.submit(everywhere()))
        used = set(client.info("commandstats"))

        assert client.exists(*kept) == len(kept)
        assert client.zcard("dramatiq:__heartbeats__") == 1
    assert not used & {"cmdstat_keys", "cmdstat_scan", "cmdstat_randomkey"}
    assert "cmdstat_lpop" in used


def test_two_installations_share_a_redis(
    installation: WorkerStack, settings: Settings, postgres: Clones, tmp_path: Path
) -> None:
    """
    Each decides all of its own at once, without its sweep, as it would alone.
    """
    logs = tmp_path / "other"
    logs.mkdir()
    with postgres.clone() as database:
        with psycopg.connect(database.url, autocommit=True) as owner:
            owner.execute("UPDATE installation SET id = gen_random_uuid()")
        with WorkerStack(settings_of(settings, database), logs) as other:
            for one in (installation, other):
                one.start_workers(1, sweeps=False)
                one.until_decided(one.submit(everywhere()))
            for number in range(5):
                asked = [(one, one.submit(everywhere(f"n{number}"))) for one in (installation, other)]
                for one, ids in asked:
                    one.until_decided(ids)
            other.check_order()


def test_a_lost_ring_costs_a_second_or_two(installation: WorkerStack) -> None:
    """
    The API was killed between its commit and its ring: the sweep finds it, and says so.
    """
    [worker] = installation.start_workers(1)
    installation.until_decided(
        installation.submit(resources_in(8, 1))
    )  # after the batch of all that it claimed

    took = installation.until_decided(installation.submit(resources_in(7, 1), ring=False), within=2.0)

    assert took > 0.5
    eventually(lambda: [event["taken"] for event in worker.events("swept")] == [1])


def test_a_redis_that_is_emptied_under_load_loses_nothing(installation: WorkerStack) -> None:
    """
    FLUSHALL a hundred times while requests come in: all are decided, in order, within 2 s of the last one.
    """
    installation.start_workers(2)
    stop = threading.Event()

    def flush() -> None:
        with redis.Redis.from_url(installation.settings.redis_url) as client:
            while not stop.wait(0.01):
                client.flushall()

    flushing = threading.Thread(target=flush, daemon=True)
    flushing.start()
    try:
        ids = [
            request_id
            for number in range(20)
            for request_id in installation.submit(
                [*resources_in(7, 5, f"hot-{number}"), *everywhere(f"n{number}")]
            )
        ]
        installation.until_decided(ids, within=2.0)
    finally:
        stop.set()
        flushing.join()


def test_without_redis_the_sweep_drains_at_once(settings: Settings, installation: WorkerStack) -> None:
    """
    Redis is not there at the start nor later: the worker works all the same, and no request waits for a second.
    """
    installation.use_redis("redis://127.0.0.1:1/0")
    [worker] = installation.start_workers(1)
    eventually(lambda: worker.events("redis_unavailable"))
    installation.until_decided(installation.submit(everywhere("first"), ring=False))

    installation.until_decided(installation.submit(everywhere("second"), ring=False), within=1.0)

    eventually(lambda: worker.events("swept"))
    stopping = Deadline(STOP_SECONDS)
    worker.stop()
    stopping.check()


@pytest.fixture
def own_valkey(settings: Settings, installation: WorkerStack) -> Iterator[Valkey]:
    """
    A Redis that the test may kill, and that the installation uses.
    """
    with temporary_home() as home:
        homes.prepare(home)
        valkey = Valkey(home)
        valkey.start()
        installation.use_redis(environment(home)["REDIS_URL"])
        yield valkey
        for worker in installation.of("worker"):
            worker.kill()
        valkey.stop()


def test_a_redis_that_is_killed_and_started_again_is_used_again(
    own_valkey: Valkey, installation: WorkerStack
) -> None:
    """
    Requests are decided within two seconds without Redis and after its return. Then they need no sweep, as before.

    The sweep of these workers finds work only while wake-ups are unavailable.
    """
    workers = installation.start_workers(2, sweeps=False)
    installation.until_decided(installation.submit(everywhere("before")))
    assert own_valkey.pid is not None
    os.kill(own_valkey.pid, signal.SIGKILL)
    installation.until_decided(installation.submit(everywhere("without")), within=2.0)
    eventually(lambda: not own_valkey.alive())
    own_valkey.start()
    installation.until_decided(installation.submit(everywhere("back")), within=2.0)
    Deadline(2.0).until(lambda: all(worker.events("redis_available") for worker in workers))
    eventually(lambda: all(worker.events("wake_ups_available") for worker in workers))

    installation.until_decided(installation.submit(everywhere("after")), within=1.0)


def test_a_redis_that_stops_answering_holds_up_nobody(own_valkey: Valkey, installation: WorkerStack) -> None:
    """
    Redis accepts connections and never answers. The sweep decides within 2.5 s at first. After the first notification
    has failed, it decides within 1 s.
    """
    [worker] = installation.start_workers(1)
    installation.until_decided(installation.submit(everywhere("before")))
    assert own_valkey.pid is not None
    os.kill(own_valkey.pid, signal.SIGSTOP)
    try:
        installation.until_decided(installation.submit(everywhere("silent")), within=2.5)
        eventually(lambda: worker.events("wake_ups_unavailable"))
        installation.until_decided(installation.submit(everywhere("still-silent")), within=1.0)
        stopping = Deadline(STOP_SECONDS)
        worker.stop()
        stopping.check()
    finally:
        os.kill(own_valkey.pid, signal.SIGCONT)


def test_connections_that_are_cut_under_load_lose_nothing(installation: WorkerStack) -> None:
    """
    All connections of the workers to PostgreSQL are ended twenty times. Every request is decided once, in order, and
    within 2 s of the last cut.
    """
    workers = installation.start_workers(2)
    ids = []
    for number in range(20):
        ids += installation.submit([*resources_in(7, 50, f"hot-{number}"), *everywhere(f"n{number}")])
        installation.owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'teller worker%'"
        )

    installation.until_decided(ids, within=2.0)

    assert any(worker.events("batch_retried") for worker in workers)


def test_a_lock_of_another_role_stops_its_partition_alone(installation: WorkerStack) -> None:
    """
    The alarm names the holder within 10 s. The worker keeps its lease, and decides in all other partitions.
    """
    worker = installation.start_worker()
    installation.until_decided(installation.submit(everywhere("before")))
    with psycopg.connect(installation.settings.api_database_url, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s, 7)", (LOCK_CLASS,))
        locked = installation.submit(resources_in(7, 1, "locked"))

        Deadline(10.0).until(lambda: alarms.current(installation.owner) == ["locked"])
        eventually(lambda: worker.events("locked_by_another_role"))
        [event] = worker.events("locked_by_another_role")
        assert str(holder.info.backend_pid) in event["holder"]
        for number in range(10):  # for longer than a stalled drain keeps its lease
            others = [name for name in everywhere(f"r{number}") if partition_of(name, PARTITIONS) != 7]
            installation.until_decided(installation.submit(others))
            time.sleep(0.5)
        assert worker.events("lease_ran_out") == []
        assert worker.events("drain_stalled") == []
        assert installation.decided(locked) == 0
    installation.until_decided(locked)
    installation.check_order()


def test_two_workers_share_evenly_and_a_third_gets_its_part(installation: WorkerStack) -> None:
    """
    Two workers own 32 each. With a third one the most is 22. Without it they own 32 each again.
    """
    installation.start_workers(2)
    third = installation.start_worker()
    eventually(lambda: sorted(installation.shares().values()) == [20, 22, 22])

    third.stop()

    Deadline(2.0).until(lambda: sorted(installation.shares().values()) == [32, 32])


def test_a_killed_worker_is_taken_over_within_five_seconds(installation: WorkerStack) -> None:
    """
    SIGKILL of one of two under load: the other owns everything, and everything is decided.
    """
    survivor, victim = installation.start_workers(2)
    before = installation.submit(everywhere("before"))
    victim.kill()
    takeover, decision = Deadline(TAKEOVER_SECONDS), Deadline(TAKEOVER_SECONDS + 0.5)
    after = installation.submit(everywhere("after"))

    takeover.until(lambda: installation.shares() == {survivor.pid: PARTITIONS})
    decision.until(lambda: installation.are_decided([*before, *after]))


def test_a_worker_stopped_in_mid_batch_is_taken_over_and_cannot_write_any_more(
    installation: WorkerStack,
) -> None:
    """
    SIGSTOP while it holds the partition's lock: within five seconds the other one has ended its backend and decided
    what waited. When the first goes on, it finds everything lost, writes nothing, and gets its share again.
    """
    stopped, other = installation.start_workers(2)
    partition = installation.partitions_of(stopped)[0]
    with in_mid_batch(installation, partition):
        ids = installation.submit(resources_in(partition, 5))
        eventually(lambda: lock_is_held(installation, partition))
        time.sleep(
            0.1
        )  # it waits for the partition's row by now, or would be stopped a little earlier: both are right
        stopped.suspend()
    takeover = Deadline(TAKEOVER_SECONDS)
    assert installation.decided(ids) == 0

    takeover.until(lambda: installation.are_decided(ids))
    takeover.until(lambda: installation.shares() == {other.pid: PARTITIONS})

    stopped.resume()
    eventually(lambda: sorted(installation.shares().values()) == [32, 32])
    assert stopped.events("lease_ran_out")
    installation.until_decided(installation.submit(everywhere("afterwards")), within=2.0)
    share = PARTITIONS // 2  # the five of its batch are not among them
    eventually(lambda: sum(event["taken"] for event in stopped.events("batch_applied")) == share)


def test_a_worker_that_is_asked_to_stop_hands_over_at_once(installation: WorkerStack) -> None:
    """
    SIGTERM in mid-batch: the batch is finished, the other owns everything within a second of it, all within 5 s.
    """
    survivor, leaving = installation.start_workers(2, sweeps=False)
    partition = installation.partitions_of(leaving)[0]
    with in_mid_batch(installation, partition):
        ids = installation.submit(resources_in(partition, 5))
        eventually(lambda: lock_is_held(installation, partition))
        leaving.send(signal.SIGTERM)
        eventually(lambda: leaving.events("worker_stopping"))
        assert installation.shares().get(leaving.pid) == PARTITIONS // 2

    installation.until_decided(ids, within=1.0)
    Deadline(1.0).until(lambda: installation.shares() == {survivor.pid: PARTITIONS})
    installation.until_decided(installation.submit(everywhere("afterwards")), within=1.0)
    assert leaving.wait() == 0
    assert [event["taken"] for event in leaving.events("batch_applied")] == [5]
    assert leaving.events("batch_left_behind") == []


def test_a_drain_that_gets_nothing_done_gives_up_the_lease(installation: WorkerStack) -> None:
    """
    Another backend of the workers' role holds the lock. The worker stops its heartbeat after 3 s. When it claims the
    partition again, it ends that backend, and continues in order. Other partitions are decided meanwhile.
    """
    [worker] = installation.start_workers(1)
    with contextlib.closing(psycopg.connect(installation.settings.worker_database_url)) as stranger:
        stranger.execute("SELECT pg_advisory_xact_lock(%s, 7)", (LOCK_CLASS,))
        ids = installation.submit(resources_in(7, 3))
        eventually(lambda: worker.events("partitions_locked"))
        installation.until_decided(installation.submit(resources_in(8, 3)), within=1.0)
        Deadline(5.0).until(lambda: worker.events("drain_stalled"))
        assert installation.decided(ids) == 0

        installation.until_decided(ids)

        with pytest.raises(psycopg.OperationalError):
            stranger.execute("SELECT 1")
    installation.check_order()


def test_a_paused_partition_waits_and_continues_when_it_is_notified(installation: WorkerStack) -> None:
    """
    Nothing of it is decided while the others go on; the sweep doesn't count it as neglected.
    """
    [worker] = installation.start_workers(1)
    with psycopg.connect(installation.settings.api_database_url, autocommit=True) as api:
        pauses.pause(api, 7, OPERATOR)
        waiting = installation.submit(resources_in(7, 3))
        installation.until_decided(installation.submit(resources_in(8, 3)), within=1.0)
        time.sleep(2.0)  # the sweep looked several times
        assert installation.decided(waiting) == 0
        pauses.resume(api, 7, OPERATOR)

    installation.bell.notify(7)

    installation.until_decided(waiting, within=0.5)
    assert worker.events("swept") == []


def test_a_resumed_partition_needs_no_doorbell(installation: WorkerStack) -> None:
    """
    The sweep drains it within a second or two. Its work is old because of the pause: no doorbell counts as lost.
    """
    [worker] = installation.start_workers(1)
    with psycopg.connect(installation.settings.api_database_url, autocommit=True) as api:
        pauses.pause(api, 7, OPERATOR)
        waiting = installation.submit(resources_in(7, 3))
        time.sleep(2.0)  # the sweep looked, and the work is old
        pauses.resume(api, 7, OPERATOR)

    installation.until_decided(waiting, within=2.0)

    assert worker.events("swept") == []


def test_ring_to_decision_is_quick(installation: WorkerStack) -> None:
    """
    A worker that polled would need a tenth of a second or more; one that is woken needs a few milliseconds.
    """
    [_] = installation.start_workers(1)
    in_time = 0
    for number in range(50):
        requests = installation.submit([f"quick-{number}"])
        limit = Deadline(0.05)
        installation.until_decided(requests, within=2.0)
        in_time += limit.is_met()

    assert in_time > 25


def test_a_backlog_in_one_partition_does_not_hold_up_another(installation: WorkerStack) -> None:
    """
    With twenty thousand waiting in one partition, a request in another one is decided long before they are.
    """
    names = resources_in(7, 20_000, "b")
    backlog = [
        request
        for first in range(0, len(names), BATCH_REQUESTS)
        for request in installation.submit(names[first : first + BATCH_REQUESTS], ring=False)
    ]
    installation.start_workers(1)
    installation.bell.notify(7)

    installation.until_decided(installation.submit(resources_in(8, 1)), within=1.0)

    assert installation.decided(backlog) < len(backlog)
    installation.until_decided(backlog, within=60.0)
