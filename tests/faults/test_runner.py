"""
`make faults`: a short run prints its faults and its verdict, a plan can be repeated, and Ctrl-C ends it.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from tests.faults.__main__ import INTERRUPTED, inject, plan
from tests.faults.kinds import EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.run import Run

#: The promised time limit of a stop, in seconds.
STOP_SECONDS = 10.0
RUNNER = (sys.executable, "-P", "-m", "tests.faults")


def _environment(**settings: str) -> dict[str, str]:
    given = ("SEED", "MINUTES", "FAULTS", "KINDS", "HISTORY")
    return {**{name: value for name, value in os.environ.items() if name not in given}, **settings}


def _first(seed: int, count: int) -> Sequence[tuple[str, float]]:
    """Return the names of the first faults of a plan, and the first number that each draws."""
    return [
        (kind.__name__, chance.random())
        for kind, chance in itertools.islice(plan(list(EVERYWHERE), seed), count)
    ]


def test_the_same_seed_is_the_same_plan_and_each_fault_has_its_turn() -> None:
    """
    A violation can be reproduced, and each kind of fault has its turn in every round.
    """
    count = len(EVERYWHERE)

    assert _first(7, 2 * count) == _first(7, 2 * count)
    assert _first(7, count) != _first(8, count)
    assert {name for name, _ in _first(random.randrange(10**6), count)} == {
        kind.__name__ for kind in EVERYWHERE
    }


def test_a_short_run_prints_its_faults_and_no_violation() -> None:
    """
    The output has the seed, a line for each fault, and a verdict. The exit status is 0.
    """
    done = subprocess.run(
        RUNNER,
        check=False,
        env=_environment(SEED="11", FAULTS="3", KINDS="flush_valkey,kill_api,lose_commits"),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("SEED=11: ")
    done_in_turn = [line.split()[3].rstrip(":") for line in lines if " s  " in line]
    assert done_in_turn == _planned(11, ["flush_valkey", "kill_api", "lose_commits"])
    assert lines[-2].startswith("3 faults, SEED=11: ")
    assert lines[-1] == "no violation"


def test_crossing_exchanges_cause_no_deadlock() -> None:
    """
    Four workers and a foreign process decide them. PostgreSQL's log has no deadlock.
    """
    done = subprocess.run(
        RUNNER,
        check=False,
        env=_environment(SEED="11", FAULTS="1", KINDS="crossing"),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "crossing: a worker killed; " in done.stdout
    assert done.stdout.splitlines()[-1] == "no violation"


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="disks and hosts are made by root, on Linux"
)
def test_full_disks_and_a_host_that_is_cut_off() -> None:
    """
    Faults that need namespaces are injected, or a line has the reason why not.
    """
    wanted = ("fill_postgres_disk", "fill_valkey_disk", "cut_cable")
    done = subprocess.run(
        RUNNER,
        check=False,
        env=_environment(SEED="11", FAULTS="4", KINDS=",".join(("flush_valkey", *wanted))),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for words in (("full disks", *wanted[:2]), ("two hosts", wanted[2])):
        assert f"skipped, {words[0]}: " in done.stdout or all(
            f"  {word}: " in done.stdout for word in words[1:]
        )


def test_a_fault_that_fails_is_a_violation_and_the_run_goes_on() -> None:
    """
    The verdict names the fault, and the system is restored.
    """
    run = Mock(problems=[])

    def never_ends(_run: Run, _chance: random.Random) -> str:
        raise AssertionError("not within 30 s")

    assert inject(run, [never_ends], 1, 60.0, 2) == 2

    assert run.problems == ["fault_failed never_ends: AssertionError('not within 30 s')"] * 2
    assert run.system.restore.call_count == 2


def test_an_unknown_fault_is_reported_at_once() -> None:
    """
    One line lists the existing faults, and the exit status is 2.
    """
    done = subprocess.run(
        RUNNER, check=False, env=_environment(KINDS="flush_walkey"), capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("KINDS: there is no flush_walkey; there are kill_worker, ")


def _planned(seed: int, kinds: Sequence[str]) -> list[str]:
    wanted = [kind for kind in EVERYWHERE if kind.__name__ in kinds]
    return [kind.__name__ for kind, _ in itertools.islice(plan(wanted, seed), len(kinds))]


def test_ctrl_c_ends_it_within_ten_seconds() -> None:
    """
    The run is in the middle of a fault, and nothing of it remains.
    """
    with subprocess.Popen(
        RUNNER, env=_environment(SEED="1", KINDS="flush_valkey"), stdout=subprocess.PIPE, text=True
    ) as runner:
        assert runner.stdout is not None
        assert any("flush_valkey" in line for line in runner.stdout)
        began = time.monotonic()
        runner.send_signal(signal.SIGINT)

        assert runner.wait(2 * STOP_SECONDS) == INTERRUPTED
        assert time.monotonic() - began < STOP_SECONDS
        assert runner.stdout.read().splitlines()[-1] == "interrupted"
