"""
The worker's part in requests with legs: which partitions it drains together, and which it takes from others.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from processor.batch import run as batch
from processor.batch.crossing import Crossing
from processor.batch.run import BatchReport
from tests.waiting import TIMEOUT_SECONDS, eventually
from workers.worker.assignments import Assignments
from workers.worker.crossings import Crossings
from workers.worker.drain import Drainer

if TYPE_CHECKING:
    from collections.abc import Collection

#: Partitions that the worker of these tests holds.
HELD = {1, 2, 3}


def left(home: int, *partitions: int, **more: Any) -> BatchReport:
    """Return the report of a batch that left one request."""
    every = frozenset((home, *partitions))
    return BatchReport(crossings=[Crossing(home, every)], blocked=every, **more)


@pytest.mark.parametrize(
    ("report", "together", "homes", "needed"),
    [
        (left(1, 2), {1, 2}, set(), set()),
        (left(1, 9), set(), set(), {1, 9}),
        (left(9, 1), set(), {9}, set()),
        (left(1, 9, paused=frozenset({9})), set(), set(), set()),
        (left(1, 2, locked=frozenset({2})), set(), set(), set()),
        (left(1, 3), set(), set(), set()),
    ],
)
def test_the_steps_after_a_batch(
    report: BatchReport, together: set[int], homes: set[int], needed: set[int]
) -> None:
    """
    Own partitions are drained together, the home worker takes those of others, and another worker rings for it.
    Nothing follows while a partition is paused, locked or set apart: here, partition 3.
    """
    crossings = Crossings()
    assert crossings.note(report, HELD, [3]) == (together, homes)
    assert crossings.take() == needed


def test_a_lock_that_is_not_granted_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The pause doubles, and begins short again after a success.
    """
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)
    crossings = Crossings()
    pauses = [crossings.pause({1, 9}) for _ in range(8)]
    assert pauses == [0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5]
    assert crossings.take() == set()
    crossings.succeed()
    assert crossings.take() == {1, 9}
    assert crossings.pause({1}) == 0.02


def test_the_drain_takes_the_partitions_of_others_for_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After a lock that is not granted it tries again. It rings for rows that it leaves to another worker.
    """
    begun: list[tuple[list[int], bool]] = []
    answers = [left(1, 9), BatchReport(locked=frozenset({1, 9})), BatchReport(more=frozenset({9}))]

    def drain_once(
        _connection: object, partitions: Collection[int], _limit: int, *, needs_all: bool = False
    ) -> BatchReport:
        begun.append((sorted(partitions), needs_all))
        return answers.pop(0) if answers else BatchReport(taken_from=Counter(partitions))

    monkeypatch.setattr(batch, "drain_once", drain_once)
    assignments, doorbell = Assignments(), Mock()
    assignments.hold(HELD, time.monotonic() + TIMEOUT_SECONDS)
    drainer = Drainer(Mock(), assignments, doorbell, Mock())
    drainer.start()
    drainer.mark([1])
    eventually(lambda: not answers)
    eventually(lambda: doorbell.notify_all.call_args_list)
    drainer.stop()
    assert assignments.close(TIMEOUT_SECONDS)

    assert begun == [([1], False), ([1, 9], True), ([1, 9], True)]
    assert [call.args for call in doorbell.notify_all.call_args_list if call.args[0]] == [({9},)]


def test_own_partitions_join_a_batch_that_has_one_of_them() -> None:
    """
    No other batch drains the partitions of the next one over several workers. A request of own partitions that waits
    in one of them is decided there, too.
    """
    crossings = Crossings()
    crossings.note(left(1, 9), HELD, [])
    assert crossings.partitions == {1, 9}

    assert crossings.note(left(1, 2), HELD, []).together == set()

    assert crossings.take() == {1, 2, 9}
    assert crossings.note(left(1, 2), HELD, []).together == {1, 2}


def test_a_batch_over_several_workers_that_is_stuck_takes_the_requests_before_its_own() -> None:
    """
    The worker of such a request may find its locks taken each time. A paused partition holds up all of them.
    """
    crossings = Crossings()
    report = BatchReport(crossings=[left(1, 9).crossings[0], left(9, 8).crossings[0]])
    crossings.note(report, HELD, [])
    assert crossings.take() == {1, 9}

    crossings.note(report, HELD, [], is_stuck=True)
    assert crossings.take() == {1, 8, 9}

    report.paused = frozenset({8})
    crossings.note(report, HELD, [], is_stuck=True)
    assert crossings.take() == {1, 9}


def test_what_waits_behind_a_request_of_several_workers_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    While a lock of another worker is not granted, batches leave the partitions of the request out.
    """
    begun: list[list[int]] = []
    is_free = False

    def drain_once(
        _connection: object, partitions: Collection[int], _limit: int, *, needs_all: bool = False
    ) -> BatchReport:
        begun.append(sorted(partitions))
        if needs_all:
            return (
                BatchReport(taken_from=Counter(partitions)) if is_free else BatchReport(locked=frozenset({9}))
            )
        return left(1, 9) if len(begun) == 1 else BatchReport(taken_from=Counter(partitions))

    monkeypatch.setattr(batch, "drain_once", drain_once)
    assignments = Assignments()
    assignments.hold(HELD, time.monotonic() + TIMEOUT_SECONDS)
    drainer = Drainer(Mock(), assignments, Mock(), Mock())
    drainer.start()
    drainer.mark([1])
    eventually(lambda: [1, 9] in begun)
    drainer.mark([1, 2])
    eventually(lambda: [2] in begun)
    eventually(lambda: begun.count([1, 9]) > 1)
    assert [1, 2] not in begun
    is_free = True
    eventually(lambda: [1] in begun[1:])  # its mark was kept
    drainer.stop()
    assert assignments.close(TIMEOUT_SECONDS)
