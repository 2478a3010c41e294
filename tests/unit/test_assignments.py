"""
The partitions that a worker process may drain, and until when. Everything is in memory.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from unittest.mock import Mock

from workers.worker import assignments as module
from workers.worker.assignments import Assignments

if TYPE_CHECKING:
    import pytest

A_WHILE = 60.0


def assignments_of(*partitions: int, seconds: float = A_WHILE) -> Assignments:
    """
    Return the assignments of a process that holds these partitions for `seconds`.
    """
    assignments = Assignments()
    assignments.hold(partitions, time.monotonic() + seconds)
    return assignments


def test_only_held_partitions_are_drained() -> None:
    """
    Another worker's partition cannot be entered.
    """
    assignments = assignments_of(7)

    assert assignments.enter({7})
    assert not assignments.enter({8})


def test_an_expired_lease_ends_all_assignments() -> None:
    """
    A process that was suspended beyond its lease finds that it holds nothing, before any heartbeat.
    """
    assignments = assignments_of(7, seconds=0)

    assert not assignments.holds(7)
    assert not assignments.enter({7})
    assert assignments.held() == set()


def test_a_new_partition_is_reported_once() -> None:
    """
    A heartbeat without new partitions gains nothing. After the lease has expired, everything is gained again.
    """
    assignments = Assignments()

    assert assignments.hold({1, 2}, time.monotonic() + A_WHILE) == {1, 2}
    assert assignments.hold({1, 2, 3}, time.monotonic() + A_WHILE) == {3}
    assignments.hold({1, 2, 3}, time.monotonic())
    assert assignments.hold({1, 2, 3}, time.monotonic() + A_WHILE) == {1, 2, 3}


def test_a_batch_begins_with_the_partitions_that_are_held() -> None:
    """
    The others are left to their owners. A partition is busy until its batch ends.
    """
    assignments = assignments_of(7, 8)

    assert assignments.enter({6, 7, 8}) == {7, 8}
    assignments.exit({7})

    assert [assignments.is_busy(partition) for partition in (6, 7, 8)] == [False, False, True]


def test_idle_partitions_are_surrendered_first_and_busy_ones_between_batches() -> None:
    """
    Two of three partitions must go, and the idle ones go at once.

    The third is being drained. It begins no further batch, goes when its drain ends, and reports it.
    """
    assignments = assignments_of(1, 2, 3)
    surrendered = threading.Event()
    assignments.on_surrender = surrendered.set
    assignments.enter({1})

    assignments.surrender(2)
    assert assignments.surrendered() == {2, 3}
    assert assignments.holds(1)

    assignments.surrender(3)
    assert assignments.surrendered() == {2, 3}
    assert not assignments.holds(1)
    assert not surrendered.is_set()
    assignments.exit({1})
    assert surrendered.is_set()
    assert assignments.surrendered() == {1, 2, 3}


def test_a_partition_without_progress_is_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A committed batch is progress, and so the end of the wait. A second try of the same work is none.
    """
    assignments = assignments_of(7, 8)
    assignments.enter({7, 8})
    later = time.monotonic() + module.STALLED_AFTER_SECONDS
    monkeypatch.setattr(module, "time", Mock(monotonic=lambda: later))
    assignments.exit({8})
    assignments.enter({7, 8})

    assert assignments.stalled() == [7]


def test_a_stop_waits_for_the_running_batch_and_lets_none_begin() -> None:
    """
    Closing waits for the running drain, and no other can start meanwhile.
    """
    assignments = assignments_of(7, 8)
    assignments.enter({7})

    assert not assignments.close(timeout_seconds=0.01)
    assert not assignments.enter({8})
    threading.Timer(0.05, assignments.exit, ({7},)).start()
    assert assignments.close(timeout_seconds=A_WHILE)
