"""
Which partitions a worker process may drain, and when: plain memory.
"""

from __future__ import annotations

import threading
import time

from workers.worker import assignments as module
from workers.worker.assignments import Lanes

A_WHILE = 60.0


def lanes_holding(*partitions: int, seconds: float = A_WHILE) -> Lanes:
    """
    A process that has these, for so long.
    """
    lanes = Lanes()
    lanes.hold(partitions, time.monotonic() + seconds)
    return lanes


def test_only_what_is_held_is_drained() -> None:
    """
    A partition of somebody else is not entered.
    """
    lanes = lanes_holding(7)

    assert lanes.enter(7)
    assert not lanes.enter(8)


def test_a_lease_that_ran_out_takes_everything_along() -> None:
    """
    Who was stopped for longer than his lease finds that nothing is his, before anybody tells him.
    """
    lanes = lanes_holding(7, seconds=0)

    assert not lanes.holds(7)
    assert not lanes.enter(7)
    assert lanes.held() == set()


def test_what_is_gained_is_told_once() -> None:
    """
    A heartbeat that brings nothing new gains nothing; after a lapse, everything is gained anew.
    """
    lanes = Lanes()

    assert lanes.hold({1, 2}, time.monotonic() + A_WHILE) == {1, 2}
    assert lanes.hold({1, 2, 3}, time.monotonic() + A_WHILE) == {3}
    lanes.hold({1, 2, 3}, time.monotonic())
    assert lanes.hold({1, 2, 3}, time.monotonic() + A_WHILE) == {1, 2, 3}


def test_a_ring_during_a_drain_is_not_lost() -> None:
    """
    A second thread does not wait: the first, who may have looked already, is told to look again.
    """
    lanes = lanes_holding(7)
    lanes.enter(7)

    assert not lanes.enter(7)
    assert lanes.exit(7)
    assert lanes.enter(7)
    assert not lanes.exit(7)


def test_idle_partitions_are_let_go_of_first_and_busy_ones_between_batches() -> None:
    """
    Of three, two are to go: the idle ones go at once. The third, which is being drained, begins no further batch,
    goes when its drain ends, and says so.
    """
    lanes = lanes_holding(1, 2, 3)
    told = threading.Event()
    lanes.on_surrender = told.set
    lanes.enter(1)

    lanes.surrender(2)
    assert lanes.surrendered() == {2, 3}
    assert lanes.holds(1)

    lanes.surrender(3)
    assert lanes.surrendered() == {2, 3}
    assert not lanes.holds(1)
    assert not told.is_set()
    lanes.exit(1)
    assert told.is_set()
    assert lanes.surrendered() == {1, 2, 3}


def test_a_drain_without_progress_is_stalled() -> None:
    """
    It is the last batch that counts, not the beginning.
    """
    lanes = lanes_holding(7, 8)
    lanes.enter(7)
    lanes.enter(8)
    long_ago = time.monotonic() - module.STALLED_AFTER_SECONDS
    lanes._busy.update({7: long_ago, 8: long_ago})
    lanes.progress(8)

    assert lanes.stalled() == [7]


def test_a_stop_waits_for_the_batch_under_way_and_lets_none_begin() -> None:
    """
    Closed while one drain runs: it is waited for, and nothing can be entered meanwhile.
    """
    lanes = lanes_holding(7, 8)
    lanes.enter(7)

    assert not lanes.close(timeout_seconds=0.01)
    assert not lanes.enter(8)
    threading.Timer(0.05, lanes.exit, (7,)).start()
    assert lanes.close(timeout_seconds=A_WHILE)
