"""
The drain of a worker: no mark is lost, and a partition with a fault does not hold up the others.

Batches and doorbells are fakes. The drain's own thread runs, and each test waits for the batches that it expects.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, call

import pytest

from processor.batch import run as batch
from processor.batch.run import BatchReport
from processor.errors import DatabaseUnavailable
from tests.waiting import TIMEOUT_SECONDS, eventually
from workers.worker import batch_limit
from workers.worker import drain as module
from workers.worker.assignments import Assignments
from workers.worker.batch_limit import BatchLimit
from workers.worker.drain import Drainer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

#: Partitions that the process of these tests holds.
HELD = range(8)


class Batches:
    """Batches in place of PostgreSQL's. `act` is called in the middle of each, and may raise or return its report."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self.act: Callable[[set[int]], BatchReport | None] = lambda _: None
        #: The limit of the latest batch.
        self.limit = 0
        self.expire: Callable[[set[int]], BatchReport | None] = lambda _: None
        #: The latest batch of reservations waits for all of its locks.
        self.needs_all = False

    def drain_once(self, _connection: object, partitions: Collection[int], limit: int) -> BatchReport:
        """Stand in for the batch of `processor.batch.run`."""
        self.limit = limit
        self.begun.put(sorted(partitions))
        return self.act(set(partitions)) or BatchReport(taken_from=Counter(partitions))

    def expire_once(
        self, _connection: object, partitions: Collection[int], _limit: int, *, needs_all: bool
    ) -> BatchReport:
        """Stand in for the batch of reservations whose time is over. Its partitions are negative."""
        self.needs_all = needs_all
        self.begun.put([-partition for partition in sorted(partitions)])
        return self.expire(set(partitions)) or BatchReport(taken_from=Counter(partitions))

    def next(self) -> list[int]:
        """Return the partitions of the next batch, once it has begun."""
        return self.begun.get(timeout=TIMEOUT_SECONDS)

    def then_none(self) -> bool:
        """Return whether no further batch has begun."""
        return self.begun.empty()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """Fake batches, with short pauses between tries."""
    fakes = Batches()
    monkeypatch.setattr(batch, "drain_once", fakes.drain_once)
    monkeypatch.setattr(batch, "expire_once", fakes.expire_once)
    monkeypatch.setattr(module, "RETRY_LONGEST_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_FIRST_SECONDS", 0.01)
    return fakes


@pytest.fixture
def assignments() -> Assignments:
    """The partitions of HELD."""
    held = Assignments()
    held.hold(HELD, time.monotonic() + TIMEOUT_SECONDS)
    return held


@pytest.fixture
def drainer(batches: Batches, assignments: Assignments) -> Iterator[Drainer]:
    """A drain whose thread runs, with a doorbell that notes its calls."""
    with running(assignments, Mock()) as drainer:
        yield drainer


@contextlib.contextmanager
def running(assignments: Assignments, doorbell: Any, metrics: Any = None) -> Iterator[Drainer]:
    """Run a drain, and stop it at the end."""
    drainer = Drainer(Mock(), assignments, doorbell, metrics or Mock())
    drainer.start()
    try:
        yield drainer
    finally:
        drainer.stop()
        assert assignments.close(TIMEOUT_SECONDS)


def test_all_marked_partitions_share_one_batch(drainer: Drainer, batches: Batches) -> None:
    """
    Doorbells, claims and the sweep mark them while a batch is under way. The next one takes them all.
    """

    def mark(_: set[int]) -> None:
        batches.act = lambda _: None
        drainer.answer(3)
        drainer.mark([1, 2])
        drainer.mark_neglected([5])

    batches.act = mark
    drainer.answer(7)

    assert [batches.next(), batches.next()] == [[7], [1, 2, 3, 5]]


def test_a_mark_during_a_batch_leads_to_another_batch(drainer: Drainer, batches: Batches) -> None:
    """
    The batch under way may have read the inbox before the row of the mark was committed.
    """

    def mark(_: set[int]) -> None:
        batches.act = lambda _: None
        drainer.answer(7)

    batches.act = mark
    drainer.answer(7)

    assert [batches.next(), batches.next()] == [[7], [7]]


def test_no_mark_is_lost_at_the_end_of_a_batch(drainer: Drainer, batches: Batches) -> None:
    """
    Each mark is set as soon as the batch before it has begun, so some are set while the thread ends that batch.
    """
    for _ in range(500):
        drainer.answer(7)

        assert batches.next() == [7]


def test_a_doorbell_is_acknowledged_before_the_batch_reads(
    batches: Batches, assignments: Assignments
) -> None:
    """
    A commit during the batch notifies again. After the batch, the acknowledgement would swallow that notification.
    """
    calls = Mock()

    def note(partitions: set[int]) -> None:
        calls.read(partitions)

    batches.act = note
    with running(assignments, calls) as drainer:
        drainer.answer(7)
        eventually(lambda: calls.announce.called)

    assert [name for name, *_ in calls.mock_calls] == ["acknowledge", "read", "announce", "notify_couriers"][
        :3
    ]
    calls.acknowledge.assert_called_once_with({7})


def test_a_partition_with_more_rows_is_drained_again_beside_the_others(
    drainer: Drainer, batches: Batches
) -> None:
    """
    A backlog in one partition leaves each batch to the others, too.
    """

    def leave_more(partitions: set[int]) -> BatchReport:
        batches.act = lambda _: None
        drainer.answer(1)
        return BatchReport(more=frozenset(partitions))

    batches.act = leave_more
    drainer.answer(7)

    assert [batches.next(), batches.next()] == [[7], [1, 7]]


def test_a_locked_partition_is_tried_apart_and_the_others_go_on(
    drainer: Drainer, batches: Batches, assignments: Assignments
) -> None:
    """
    Another backend holds its lock. It is retried alone, stays busy for the stall rule, and is drained at last.
    """

    def leave_out(partitions: set[int]) -> BatchReport:
        return BatchReport(taken_from=Counter(partitions - {7}), locked=frozenset(partitions & {7}))

    batches.act = leave_out
    drainer.mark([1, 7])
    assert [batches.next(), batches.next()] == [[1, 7], [7]]
    assert assignments.is_busy(7)
    assert not assignments.is_busy(1)

    drainer.mark([1, 7])
    eventually(lambda: batches.next() == [1])  # between the tries of the other one

    batches.act = lambda _: None
    eventually(lambda: not assignments.is_busy(7))
    eventually(lambda: batches.next() == [7])  # its second mark


@pytest.mark.parametrize("fault", [DatabaseUnavailable, ZeroDivisionError], ids=["server", "code"])
def test_a_partition_that_fails_each_batch_does_not_hold_up_the_others(
    drainer: Drainer, batches: Batches, fault: type[Exception]
) -> None:
    """
    The batch of all fails, and each of the others has its own soon. The one with the fault is tried again and again.
    """
    done: set[int] = set()

    def fail_with_4(partitions: set[int]) -> None:
        if 4 in partitions:
            raise fault("the fault of partition 4")
        done.update(partitions)

    batches.act = fail_with_4
    drainer.mark(HELD)
    assert batches.next() == [*HELD]

    eventually(lambda: done == {*HELD} - {4})
    done.clear()
    drainer.mark(HELD)
    eventually(lambda: done == {*HELD} - {4})
    eventually(lambda: batches.next() == [4])


def test_a_fault_of_the_code_is_not_taken_for_a_stall(
    drainer: Drainer, batches: Batches, assignments: Assignments
) -> None:
    """
    Another worker would have the same fault. A fault of the infrastructure may be this worker's alone.
    """

    def fail(partitions: set[int]) -> None:
        raise ZeroDivisionError if 1 in partitions else DatabaseUnavailable("gone")

    batches.act = fail
    drainer.mark([1])
    batches.next()
    drainer.mark([2])
    eventually(lambda: assignments.is_busy(2))

    assert not assignments.is_busy(1)
    batches.act = lambda _: None


def test_a_partition_that_is_lost_is_left_to_its_new_owner(
    drainer: Drainer, batches: Batches, assignments: Assignments
) -> None:
    """
    It was marked, or set apart, and this process holds it no longer. No batch of it begins, and it is not busy.
    """

    def lose(partitions: set[int]) -> BatchReport:
        assignments.hold({1}, time.monotonic() + TIMEOUT_SECONDS)
        return BatchReport(locked=frozenset({7}), more=frozenset({6}))

    batches.act = lose
    drainer.mark([6, 7])
    assert batches.next() == [6, 7]
    eventually(lambda: not assignments.is_busy(7))
    batches.act = lambda _: None
    drainer.mark([1])

    assert batches.next() == [1]
    assert batches.then_none()


def test_a_stop_does_not_wait_for_partitions_that_are_set_apart(
    drainer: Drainer, batches: Batches, assignments: Assignments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Only the batch under way must end.
    """
    monkeypatch.setattr(module, "RETRY_LONGEST_SECONDS", TIMEOUT_SECONDS)
    batches.act = lambda partitions: BatchReport(locked=frozenset(partitions))
    drainer.mark([7])
    eventually(lambda: assignments.is_busy(7))
    batches.next()

    drainer.stop()

    assert assignments.close(TIMEOUT_SECONDS / 2)


def test_a_partition_that_ends_batches_early_does_not_hold_up_the_others(
    drainer: Drainer, batches: Batches
) -> None:
    """
    Each batch with it leaves rows of the others. So it is drained in batches of its own until one is not ended early.
    """
    left = 3

    def end_early(partitions: set[int]) -> BatchReport | None:
        nonlocal left
        if 4 not in partitions or left == 0:
            return None
        left -= 1
        return BatchReport(more=frozenset(partitions), ended_by=frozenset({4}))

    batches.act = end_early
    drainer.mark([1, 4])

    assert [batches.next() for _ in range(5)] == [[1, 4], [4], [1], [4], [4]]


class Commits:
    """
    An inbox and the markers of the doorbell in memory, with commits between any two steps of the drain.

    A commit sends a doorbell unless its partition has a marker, as the script of `Doorbell` does.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.lock = threading.RLock()
        #: Commits until the next quiet period.
        self.left = 0
        self.waiting: Counter[int] = Counter()
        self.markers: set[int] = set()
        self.drainer: Drainer | None = None
        #: Batches that found no doorbell to be acknowledged before them, because the drain was busy.
        self.unacknowledged = 0

    def commit(self) -> None:
        """Commit up to six rows, in any partitions."""
        for _ in range(self.chance.choice([0, 0, 1, 6])):
            with self.lock:
                if self.left == 0:
                    return
                self.left -= 1
                partition = self.chance.choice(HELD)
                self.waiting[partition] += 1
                is_silent = partition in self.markers
                self.markers.add(partition)
            if not is_silent and self.drainer is not None:
                self.drainer.answer(partition)

    def acknowledge(self, partitions: Collection[int]) -> None:
        """Stand in for the doorbell: delete the markers, between two commits."""
        self.commit()
        with self.lock:
            self.markers -= set(partitions)
        self.commit()

    def read(self, partitions: set[int]) -> BatchReport:
        """Stand in for the batch: take all rows of these partitions, between two commits."""
        self.commit()
        with self.lock:
            taken = Counter({partition: self.waiting.pop(partition, 0) for partition in partitions})
            self.unacknowledged += not partitions.isdisjoint(self.markers)
        self.commit()
        return BatchReport(taken_from=taken)


@pytest.mark.parametrize("seed", range(20))
def test_no_commit_is_left_behind_by_a_busy_drain(
    batches: Batches, assignments: Assignments, seed: int
) -> None:
    """
    Rows are committed before and after each acknowledgement and each read, with quiet periods between. All are taken,
    without the sweep.
    """
    commits = Commits(seed)
    batches.act = commits.read
    doorbell = Mock(acknowledge=commits.acknowledge)
    with running(assignments, doorbell) as drainer:
        commits.drainer = drainer
        for _ in range(5):
            commits.left = 40
            while commits.left:
                commits.commit()
                time.sleep(0.0002)
            eventually(lambda: not commits.waiting.total())

    assert commits.unacknowledged, "it was never busy"


def test_a_claim_is_acknowledged_before_its_first_read(batches: Batches, assignments: Assignments) -> None:
    """
    The owner before may have left its doorbells unacknowledged. Until then, the commits of the partition are silent.
    """
    calls = Mock()
    with running(assignments, calls) as drainer:
        drainer.take_over({5, 6})
        assert batches.next() == [5, 6]

    calls.acknowledge.assert_called_once_with({5, 6})


def test_rows_that_the_sweep_found_are_counted(batches: Batches, assignments: Assignments) -> None:
    """
    A healthy system has none: a doorbell reports all others.
    """
    metrics = Mock()
    with running(assignments, Mock(), metrics) as drainer:
        drainer.mark([1])
        batches.next()
        drainer.mark_neglected([2, 3])
        batches.next()
        eventually(lambda: metrics.count_swept.call_args_list == [call(1), call(1)])


def test_batches_are_short_beside_a_partition_with_many_rows(drainer: Drainer, batches: Batches) -> None:
    """
    A row that comes during a batch waits for its end. A partition that is alone, or deep like all, has long batches.
    """
    limits: list[int] = []
    deep = {0: 3}

    def act(partitions: set[int]) -> BatchReport:
        limits.append(batches.limit)
        deep[0] -= 1
        return BatchReport(taken_from=Counter(partitions), more=frozenset({0} if deep[0] > 0 else ()))

    batches.act = act
    drainer.mark([0])
    eventually(lambda: len(limits) == 3)
    assert set(limits) == {batch.BATCH_LIMIT}

    deep[0] = 3
    drainer.mark([0, 1])
    eventually(lambda: len(limits) == 6)
    assert limits[3:] == [batch.BATCH_LIMIT, batch_limit.SHARED_LIMIT, batch_limit.SHARED_LIMIT]


def test_a_batch_has_the_rows_that_fit_into_half_a_second() -> None:
    """
    On a busy machine, the largest batch could last for more than three seconds. The drain would count as stalled.
    """
    limit = BatchLimit()

    def after(duration_ms: float, taken: int) -> int:
        limit.note(BatchReport(taken_from=Counter({0: taken}), duration_ms=duration_ms))
        return limit.next()

    assert limit.next() == batch.BATCH_LIMIT
    assert after(499.0, 2_000) == batch.BATCH_LIMIT
    assert after(2_000.0, 2_000) == 500
    assert after(1_000.0, 500) == 250
    assert after(400.0, 250) == 250  # near half a second, it stays
    assert after(60_000.0, 1) == 250  # it waited for something else
    assert after(60_000.0, 250) == batch_limit.LEAST_LIMIT
    assert [after(10.0, 50) for _ in range(6)] == [100, 200, 400, 800, 1_600, batch.BATCH_LIMIT]


def test_reservations_expire_between_two_batches_of_a_deep_partition(
    drainer: Drainer, batches: Batches
) -> None:
    """
    The rows that wait do not delay them. Full batches of them take turns with those of requests.
    """
    full = [True, False]

    def mark(_: set[int]) -> BatchReport:
        drainer.expire({frozenset((3,)), frozenset((99,))})  # 99 is of another worker
        batches.act = lambda _: None
        return BatchReport(taken_from=Counter({7: 9}), more=frozenset({7}))

    batches.act = mark
    batches.expire = lambda partitions: BatchReport(
        taken_from=Counter(partitions), more=frozenset(partitions if full.pop(0) else ())
    )
    drainer.answer(7)

    assert [batches.next() for _ in range(4)] == [[7], [-3], [7], [-3]]


@pytest.mark.parametrize("fault", [DatabaseUnavailable("away"), RuntimeError("a fault")])
def test_an_expiry_that_fails_stops_nothing(drainer: Drainer, batches: Batches, fault: Exception) -> None:
    """
    The sweep finds the reservations again. Batches go on, and the partition does not count as stalled.
    """

    def fail(_: set[int]) -> None:
        raise fault

    batches.expire = fail
    drainer.expire({frozenset((3,))})
    assert batches.next() == [-3]
    drainer.answer(7)
    assert batches.next() == [7]
    batches.expire = lambda _: None
    drainer.expire({frozenset((3,))})
    assert batches.next() == [-3]


def test_reservations_with_legs_expire_with_the_locks_of_other_workers(
    drainer: Drainer, batches: Batches
) -> None:
    """
    Those of own partitions come first. The batch of the others waits for its locks. After one that is not granted,
    the sweep finds them again, and the next try comes after a pause.
    """
    answers: list[BatchReport | None] = [None, BatchReport(locked=frozenset({2, 99})), None]
    needed = []

    def end(_: set[int]) -> BatchReport | None:
        needed.append(batches.needs_all)
        return answers.pop(0)

    batches.expire = end
    elsewhere = frozenset((98, 99))  # without a partition of this worker
    drainer.expire({frozenset((1, 3)), frozenset((2, 99)), elsewhere})
    assert [batches.next() for _ in range(2)] == [[-1, -3], [-2, -99]]
    while answers:  # the sweep looks again
        drainer.expire({frozenset((2, 99))})
        time.sleep(0.005)
    assert batches.next() == [-2, -99]
    assert needed == [False, True, True]
