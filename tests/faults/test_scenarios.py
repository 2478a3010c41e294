"""
Scenarios 17 to 22: whoever is killed, stopped or away, nothing is lost, doubled or overtaken, and all is decided
again in time. All under one load; what it did is looked at when all stories are told.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults import kinds

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.run import Run


def _in_time(run: Run, fault: Callable[[Run, random.Random], str], told: int) -> None:
    """It is done to the run, and breaks no promise."""
    known = len(run.problems)
    said = fault(run, random.Random(f"{fault.__name__}/{told}"))
    assert run.problems[known:] == [], said


def test_17_a_worker_is_killed_in_the_middle_of_a_batch(run: Run, told: int) -> None:
    """
    Another one has its partitions, and decides what waits there, within 5 s.
    """
    _in_time(run, kinds.kill_worker, told)


def test_18_a_worker_is_stopped_and_goes_on_when_others_have_taken_over(run: Run, told: int) -> None:
    """
    Others take over within 5 s, also what it holds locked; when it goes on, it can write nothing more.
    """
    _in_time(run, kinds.stop_worker, told)


def test_18_a_worker_is_cut_off_in_the_middle_of_a_batch(run: Run, told: int) -> None:
    """
    The same when it runs, and only its line to PostgreSQL is dead.
    """
    _in_time(run, kinds.cut_off_host, told)


@pytest.mark.parametrize("fault", [kinds.flush_valkey, kinds.kill_valkey, kinds.stop_valkey])
def test_19_redis_is_emptied_killed_or_says_nothing(
    run: Run, fault: Callable[[Run, random.Random], str], told: int
) -> None:
    """
    What is accepted meanwhile is decided within 2 s, and so is what is accepted afterwards.
    """
    _in_time(run, fault, told)


@pytest.mark.parametrize("fault", [kinds.kill_postgres, kinds.stop_postgres])
def test_20_postgresql_is_stopped_at_once_and_started_again(
    run: Run, fault: Callable[[Run, random.Random], str], told: int
) -> None:
    """
    Every 202 is kept; who asks meanwhile is told so within 3 s; all goes on within 5 s of its return.
    """
    _in_time(run, fault, told)


def test_21_the_api_is_killed_between_its_commit_and_its_ring(run: Run, told: int) -> None:
    """
    What it committed and never rang for is decided within 2 s.
    """
    system, proxy = run.system, run.system.api_proxy
    apis = [pid for api in system.living("api") for pid in api.pids()]

    def kill() -> None:
        """Both: nobody knows which of them it is."""
        for pid in apis:
            os.kill(pid, signal.SIGKILL)

    proxy.losses, proxy.cuts, proxy.on_loss = ["answer"], 0, kill
    system.until(lambda: proxy.cuts == 1)
    began, proxy.on_loss = time.monotonic(), None
    time.sleep(0.1)  # longer than WAITING_LONG lets anybody wait
    system.until(lambda: system.query(WAITING_LONG) == [(0,)])
    assert time.monotonic() - began < 2.0
    _in_time(run, kinds.kill_api, told)


#: Requests that have waited for longer than a moment.
WAITING_LONG = """
SELECT count(*) FROM inbox WHERE verb = 'decide' AND created_at < clock_timestamp() - interval '50 ms'"""


def test_22_one_worker_four_and_one_again(run: Run, told: int) -> None:
    """
    No order is broken, and nothing waits for more than 5 s.
    """
    _in_time(run, kinds.scale_workers, told)


def test_connections_are_cut_during_commit(run: Run, told: int) -> None:
    """
    It was done, or not, and nobody is told: who asks again with the same key finds out, and nothing is done twice.
    """
    _in_time(run, kinds.lose_commits, told)


@pytest.mark.parametrize(
    "fault", [kinds.end_worker, kinds.stop_api, kinds.kill_courier, kinds.stop_courier, kinds.cut_power]
)
def test_whatever_else_dies_or_stands_still(
    run: Run, fault: Callable[[Run, random.Random], str], told: int
) -> None:
    """
    Others do its part, or it is there again; and when everything died at once, all goes on within 15 s.
    """
    _in_time(run, fault, told)


@pytest.mark.parametrize("kind", ["api", "worker", "courier"])
def test_the_clock_of_one_process_is_wrong(run: Run, kind: str, told: int) -> None:
    """
    By hours: all that counts is decided, and dated, by the clock of PostgreSQL.
    """

    def move_clock(run: Run, chance: random.Random) -> str:
        return kinds.move_clock_of(kind, -7_200, run, chance)

    _in_time(run, move_clock, told)


def test_two_drain_the_same_partitions(run: Run, told: int) -> None:
    """
    As in a deploy: the lock alone keeps them apart.
    """
    _in_time(run, kinds.drain_as_stranger, told)


def test_the_bell_is_rung_after_the_commit(run: Run, told: int) -> None:
    """
    However long a commit takes, whoever is woken by the bell finds it: the sweep has nothing to rescue.
    """
    system = run.system
    system.api_proxy.delay_seconds = 0.3
    try:
        assert run.must_decide(None, 0.9, "while commits are slow").startswith("decided")
    finally:
        system.api_proxy.delay_seconds = 0.0
