"""
Stories 17 to 22: after each fault nothing is lost, doubled or overtaken, and decisions continue in time.

All stories run under one load, and the final check covers all of them.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
import redis

from processor.domain.partitioning import queue_name
from tests.faults import kinds
from tests.servers import names_of
from tests.waiting import TIMEOUT_SECONDS, Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.run import Run


def _in_time(run: Run, fault: Callable[[Run, random.Random], str], round_number: int) -> None:
    """Inject the fault. It must break no promise."""
    problems_before = len(run.problems)
    description = fault(run, random.Random(f"{fault.__name__}/{round_number}"))
    assert run.problems[problems_before:] == [], description


def test_17_a_worker_is_killed_in_the_middle_of_a_batch(run: Run, round_number: int) -> None:
    """
    Another worker takes over its partitions and decides their waiting work within 5 s.
    """
    _in_time(run, kinds.kill_worker, round_number)


def test_18_a_worker_is_suspended_and_continues_after_others_have_taken_over(
    run: Run, round_number: int
) -> None:
    """
    Others take over within 5 s, also partitions that it holds locked. Once it continues, it can write nothing
    more.
    """
    _in_time(run, kinds.stop_worker, round_number)


def test_18_a_worker_is_cut_off_in_the_middle_of_a_batch(run: Run, round_number: int) -> None:
    """
    The worker runs, but its connection to PostgreSQL is dead. The result is the same.
    """
    _in_time(run, kinds.cut_off_host, round_number)


@pytest.mark.parametrize("fault", [kinds.flush_valkey, kinds.kill_valkey, kinds.stop_valkey])
def test_19_redis_is_emptied_killed_or_silent(
    run: Run, fault: Callable[[Run, random.Random], str], round_number: int
) -> None:
    """
    Requests accepted during the fault or afterwards are decided within 2 s.
    """
    _in_time(run, fault, round_number)


@pytest.mark.parametrize("fault", [kinds.kill_postgres, kinds.stop_postgres])
def test_20_postgresql_is_stopped_at_once_and_started_again(
    run: Run, fault: Callable[[Run, random.Random], str], round_number: int
) -> None:
    """
    Every 202 is kept. Clients get an answer within 3 s, and decisions continue within 5 s of the server's
    return.
    """
    _in_time(run, fault, round_number)


def test_21_the_api_is_killed_between_its_commit_and_its_notification(run: Run, round_number: int) -> None:
    """
    Requests that it committed without a notification are decided within 2 s.
    """
    system, proxy = run.system, run.system.api_proxy
    apis = [pid for api in system.expected_of("api") for pid in api.pids()]

    def kill() -> None:
        """Kill both APIs, because either may have committed."""
        for pid in apis:
            os.kill(pid, signal.SIGKILL)

    proxy.losses, proxy.cuts, proxy.on_loss = ["answer"], 0, kill
    system.until(lambda: proxy.cuts == 1)
    deadline, proxy.on_loss = Deadline(2.0), None
    time.sleep(0.1)  # longer than WAITING_LONG allows
    system.until(lambda: system.query(WAITING_LONG) == [(0,)])
    deadline.check()
    _in_time(run, kinds.kill_api, round_number)


#: Counts requests that have waited for more than 50 ms.
WAITING_LONG = """
SELECT count(*) FROM inbox WHERE verb = 'decide' AND created_at < clock_timestamp() - interval '50 ms'"""


def test_22_one_worker_four_and_one_again(run: Run, round_number: int) -> None:
    """
    No order is broken, and nothing waits for more than 5 s.
    """
    _in_time(run, kinds.scale_workers, round_number)


def test_connections_are_cut_during_commit(run: Run, round_number: int) -> None:
    """
    The outcome of a commit is unknown. A retry with the same key finds it, and nothing is done twice.
    """
    _in_time(run, kinds.lose_commits, round_number)


@pytest.mark.parametrize(
    "fault", [kinds.end_worker, kinds.stop_api, kinds.kill_courier, kinds.stop_courier, kinds.cut_power]
)
def test_other_processes_die_or_are_suspended(
    run: Run, fault: Callable[[Run, random.Random], str], round_number: int
) -> None:
    """
    Other processes take over, or it is started again. After everything died at once, decisions continue
    within 15 s.
    """
    _in_time(run, fault, round_number)


@pytest.mark.parametrize("kind", ["api", "worker", "courier"])
def test_the_clock_of_one_process_is_wrong(run: Run, kind: str, round_number: int) -> None:
    """
    The clock is wrong by hours. PostgreSQL's clock decides and dates everything that matters.
    """

    def move_clock(run: Run, chance: random.Random) -> str:
        return kinds.move_clock_of(kind, -7_200, run, chance)

    _in_time(run, move_clock, round_number)


def test_two_drain_the_same_partitions(run: Run, round_number: int) -> None:
    """
    As during a deploy, only the lock separates the two.
    """
    _in_time(run, kinds.drain_as_foreigner, round_number)


def test_workers_are_notified_after_the_commit(run: Run, round_number: int) -> None:
    """
    A worker that is notified finds the committed work, however slow the commit was.

    Each notification of a partition is compared with the requests that can be read when it arrives.
    """
    system = run.system
    rows = system.query(QUIET_PARTITIONS)
    assert rows, "the load uses every partition"
    (partition, before) = rows[round_number % len(rows)]
    queue = queue_name(partition).encode()
    with (
        redis.Redis.from_url(system.redis_url) as client,
        client.pubsub() as channel,
    ):
        channel.subscribe(names_of(system.owner_url).channel("wake"))
        assert channel.get_message(timeout=5)
        system.api_proxy.delay_seconds = 0.3
        asking = threading.Thread(target=run.probe_one, args=(partition,), daemon=True)
        asking.start()
        try:
            limit = Deadline(TIMEOUT_SECONDS)
            while (message := channel.get_message(timeout=1)) is None or message["data"] != queue:
                assert limit.is_met(), "no notification"
            assert system.query(REQUESTS_OF, partition) == [(before + 1,)]
        finally:
            system.api_proxy.delay_seconds = 0.0
            asking.join(TIMEOUT_SECONDS)


#: Partitions with one resource, which no client of the load uses, and their numbers of requests.
QUIET_PARTITIONS = """
SELECT partition, count(*) FROM requests
 GROUP BY partition HAVING count(*) FILTER (WHERE kind = 'opening') = 1 ORDER BY partition"""
REQUESTS_OF = "SELECT count(*) FROM requests WHERE partition = %s"
