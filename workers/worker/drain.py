"""
Draining: one thread applies batches, each over all partitions that are marked as having work.

Doorbells, the sweep and new claims only mark partitions. Rows that are committed while a batch is under way form the
next one. Under load, the thread gathers rows for some milliseconds between two batches, and needs no doorbells.
`processor.batch` applies a batch.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from processor.batch import run as batch
from processor.errors import DatabaseUnavailable
from processor.storage.connections import Reconnecting
from workers.worker import reports
from workers.worker.batch_limit import BatchLimit
from workers.worker.crossings import ROWS_MAX, Crossings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from processor.batch.run import BatchReport
    from processor.storage.connections import Connection
    from workers.doorbell.ring import Doorbell
    from workers.metrics import WorkerMetrics
    from workers.worker.assignments import Assignments

#: The first and the longest pause before a partition that is set apart is tried again, in seconds. The pause doubles,
#: and is shortened by a random part of up to a half. It is short because all work must continue two seconds after the
#: server is back.
RETRY_FIRST_SECONDS: Final = 0.05
RETRY_LONGEST_SECONDS: Final = 0.5
#: The same for a partition whose lock another backend holds, such as a worker that decides a request with legs.
LOCKED_FIRST_SECONDS: Final = 0.005
LOCKED_LONGEST_SECONDS: Final = 0.1
#: The rows of a batch from which on the drain is busy. Below, each of them would wait for longer than it saves.
BUSY_ROWS: Final = 4
#: The longest time for which a busy drain gathers rows, in seconds. It gathers for as long as its last batch took.
GATHER_SECONDS: Final = 0.003

#: The reservations that one batch ends. More follow after the next batch of requests.
EXPIRED_AT_ONCE: Final = 500

log = structlog.get_logger(__name__)


class Drainer:
    """
    Drains marked partitions while this process holds them.

    One partition must not keep the others waiting. So the partitions of a batch that failed are set apart, and so is
    one whose lock another backend holds. They are tried again in a batch of their own: first one, then two, then four
    of them, and one again after a fault. A partition whose rows end batches early is set apart, too, without a pause.

    A request with legs is decided in a batch that has all of its partitions. If this worker holds them all, they are
    marked together. Otherwise `_cross` takes the others as well.

    A drain is busy from a batch with BUSY_ROWS rows until one without any. A busy drain acknowledges no doorbells, so
    their partitions remain silent: their commits send no further ones. It takes silent partitions into each batch
    instead. No row is lost, because each silent partition is acknowledged later, and then read once more.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        assignments: Assignments,
        doorbell: Doorbell,
        metrics: WorkerMetrics,
    ) -> None:
        self._assignments = assignments
        self._doorbell = doorbell
        self._metrics = metrics
        self._connection = Reconnecting(connect)
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        #: Protects all that follows, and is notified of each change.
        self._changed = threading.Condition()
        self._is_stopping = False
        #: Partitions that may have work, and those among them that the sweep found.
        self._marked: set[int] = set()
        self._neglected: set[int] = set()
        #: The partitions of one batch each, with reservations whose time is over.
        self._expiring: set[frozenset[int]] = set()
        #: The batch that ends those with legs in partitions of other workers.
        self._expiring_elsewhere = Crossings()
        #: Partitions with a doorbell that is not acknowledged.
        self._silent: set[int] = set()
        self._is_busy = False
        self._gather_seconds = 0.0
        self._limit = BatchLimit()
        self._crossings = Crossings()
        #: Partitions that are set apart, the next one first. The number, the time and the pause of the next try.
        self._apart: list[int] = []
        self._retry_count = 1
        self._retry_at = 0.0
        self._pause = RETRY_FIRST_SECONDS
        #: Only locks of other backends have set them apart, and the pause before these are tried again.
        self._is_apart_locked = False
        self._lock_pause = LOCKED_FIRST_SECONDS

    def start(self) -> None:
        """Start the thread. PostgreSQL may be unavailable."""
        self._thread.start()

    def answer(self, partition: int) -> None:
        """
        Mark a partition after a doorbell: the actor. A second doorbell is harmless.
        """
        self.take_over((partition,))

    def take_over(self, partitions: Collection[int]) -> None:
        """Mark new claims, whose doorbells may have gone to the owner before. Returns at once."""
        with self._changed:
            self._silent.update(partitions)
            self._mark(partitions)

    def mark(self, partitions: Iterable[int]) -> None:
        """Mark partitions that may have work. Returns at once."""
        with self._changed:
            self._mark(partitions)

    def mark_neglected(self, partitions: Collection[int]) -> None:
        """Mark partitions whose work no doorbell reported. Returns at once."""
        with self._changed:
            self._neglected.update(partitions)
            self._mark(partitions)

    def expire(self, partitions: Collection[frozenset[int]]) -> None:
        """
        End reservations whose time is over, before the next batch. Returns at once.

        `partitions` are those that their batches need, as `operations.reservations.expired` returns them.
        """
        if partitions:
            with self._changed:
                self._expiring.update(partitions)
                self._changed.notify()

    def stop(self) -> None:
        """Begin no further batch. `Assignments.close` waits for the one under way."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def _mark(self, partitions: Iterable[int]) -> None:
        """Mark, and wake the thread. The caller holds the lock."""
        self._marked.update(partitions)
        self._changed.notify()

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        while self._wait():
            report = None
            try:
                self._expire()
                report = self._drain(self._take_marked())
                self._drain(self._take_apart(), apart=True)
                self._cross()
            except Exception:
                log.exception("drain_fault")
            self._set_pace(report)
        self._assignments.exit(self._apart)
        self._connection.close()

    def _wait(self) -> bool:
        """Wait until there is a partition to drain, or for more rows. Returns False at the stop."""
        if self._is_busy:
            time.sleep(self._gather_seconds)
            return not self._is_stopping
        with self._changed:
            while not self._is_stopping and not self._expiring and not self._drainable():
                pause = self._retry_at - time.monotonic() if self._apart else None
                crossing_pause = self._crossings.wait_seconds()
                if crossing_pause is not None:
                    pause = crossing_pause if pause is None else min(pause, crossing_pause)
                if pause is not None and pause <= 0:
                    break
                self._changed.wait(pause)
            return not self._is_stopping

    def _drainable(self) -> set[int]:
        """Return the marked partitions, except those set apart and those that need a batch over several workers."""
        return self._marked.difference(self._apart, self._crossings.partitions)

    def _take_marked(self) -> set[int]:
        """
        Return the marked partitions, except those set apart, and acknowledge their doorbells.

        This precedes the batch, so a commit that the batch does not see notifies again. A busy drain returns the
        silent partitions, too, and acknowledges none.
        """
        with self._changed:
            if self._is_busy:
                self._marked |= self._silent
            taken = self._drainable()
            self._marked -= taken
            acknowledged = set() if self._is_busy else self._silent & taken
            self._silent -= acknowledged
        if acknowledged:
            self._doorbell.acknowledge(acknowledged)
        return taken

    def _set_pace(self, report: BatchReport | None) -> None:
        """Be busy or idle after a batch of the marked partitions, or after none."""
        taken = 0 if report is None else report.taken
        with self._changed:
            was_busy, self._is_busy = self._is_busy, taken >= BUSY_ROWS or (self._is_busy and taken > 0)
            if was_busy and not self._is_busy:
                self._marked |= self._silent  # to be acknowledged, and read once more
            if report is not None:
                waited = 0.0 if report.more else report.duration_ms / 1_000
                self._gather_seconds = min(waited, GATHER_SECONDS)

    def _take_apart(self) -> set[int]:
        """Return the partitions of the next try apart, if its time has come."""
        with self._changed:
            if time.monotonic() < self._retry_at:
                return set()
            taken, self._apart = self._apart[: self._retry_count], self._apart[self._retry_count :]
            return set(taken)

    def _drain(self, partitions: set[int], *, apart: bool = False) -> BatchReport | None:
        """
        Apply one batch. Returns None if none is committed.

        Partitions that are no longer held are left to their new owner, which drains what it claims.
        """
        held = self._assignments.enter(partitions)
        self._leave(partitions - held)
        with self._changed:
            self._silent -= partitions - held
        if not held:
            return None
        report = self._apply(held, lambda: batch.drain_once(self._connection.get(), held, self._limit.next()))
        if report is None:
            return None
        self._limit.note(report)
        self._follow(held, report)
        if apart and report.taken:
            self._lock_pause = LOCKED_FIRST_SECONDS
        if report.locked:
            pause_ms = self._set_locked_apart(report.locked)
            log.info("partitions_locked", partitions=sorted(report.locked), pause_ms=pause_ms)
        elif apart:
            self._try_more_apart()
        return report

    def _cross(self) -> None:
        """
        Apply the batch that decides requests with legs in partitions of other workers, if it is due.

        The other partitions of this worker wait meanwhile, for the locks at most CROSSING_LOCK_MS.
        """
        partitions = self._crossings.take()
        held = self._assignments.enter(partitions)
        if not held:
            return
        limit = min(ROWS_MAX, self._limit.next())
        report = self._apply(
            held, lambda: batch.drain_once(self._connection.get(), partitions, limit, needs_all=True)
        )
        if report is None:
            return
        if report.locked:
            pause = self._crossings.pause(partitions)
            self._assignments.exit(held)
            log.info("crossing_locked", partitions=sorted(partitions), pause_ms=round(pause * 1_000))
            return
        self._crossings.succeed()
        self._follow(held, report, is_stuck=not report.taken)
        self._doorbell.notify_all((report.more | report.blocked) - held)

    def _apply(self, held: set[int], apply: Callable[[], BatchReport]) -> BatchReport | None:
        """Apply a batch. After a fault, sets the held partitions apart, and returns None."""
        try:
            return apply()
        except DatabaseUnavailable as fault:
            self._connection.close()
            pause_ms = self._set_apart(held)
            log.warning("batch_retried", partitions=sorted(held), fault=str(fault), pause_ms=pause_ms)
            return None
        except Exception:
            self._connection.close()  # its state is undefined
            self._set_apart(held)
            self._assignments.exit(held)  # a fault of the code is no reason for other workers to take over
            raise

    def _follow(self, held: set[int], report: BatchReport, *, is_stuck: bool = False) -> None:
        """Announce the decisions of a batch, and mark the partitions that have more work."""
        self._doorbell.announce(report.decided)
        if report.for_couriers:
            self._doorbell.notify_couriers()
        reports.log_batch(report, self._connection)
        self._metrics.count_batch(report.taken, report.duration_ms / 1_000)
        self._note_swept(held, report)
        with self._changed:
            self._marked |= (report.more - report.ended_by) & held
            self._apart += sorted(report.ended_by & held)
        self._leave(held - report.locked - report.more)
        self._assignments.exit(report.more)
        if report.crossings:
            mine = self._assignments.held()
            steps = self._crossings.note(report, mine, self._apart, is_stuck=is_stuck)
            self.mark(steps.together)
            self._doorbell.notify_all(steps.homes)

    def _expire(self) -> None:
        """
        End the reservations whose time is over, in a batch of their own. The sweep finds again what is left.

        Those with legs in partitions of other workers follow in a second one, which waits for their locks.
        """
        if not self._expiring:
            return
        with self._changed:
            expiring, self._expiring = self._expiring, set()
        held = self._assignments.held()
        elsewhere = {every for every in expiring if not every <= held and every & held}
        self._end_expired({every for every in expiring if every <= held})
        self._expiring_elsewhere.need(partition for every in elsewhere for partition in every)
        partitions = self._expiring_elsewhere.take()
        if not partitions:
            return
        report = self._end_expired({frozenset(partitions)}, needs_all=True)
        if report is not None and report.locked:
            pause = self._expiring_elsewhere.pause(partitions)
            log.info("expiry_locked", partitions=sorted(partitions), pause_ms=round(pause * 1_000))
        else:
            self._expiring_elsewhere.succeed()

    def _end_expired(self, expiring: set[frozenset[int]], *, needs_all: bool = False) -> BatchReport | None:
        """Apply one batch that ends reservations. Returns None if none is committed."""
        partitions = {partition for every in expiring for partition in every}
        held = self._assignments.enter(partitions)
        if not held:
            return None
        try:
            report = batch.expire_once(
                self._connection.get(),
                partitions if needs_all else held,
                EXPIRED_AT_ONCE,
                needs_all=needs_all,
            )
        except DatabaseUnavailable as fault:
            self._connection.close()
            log.warning("expiry_retried", partitions=sorted(held), fault=str(fault))
            return None
        except Exception:
            self._connection.close()  # its state is undefined
            raise
        finally:
            self._assignments.exit(held.difference(self._apart))
        if needs_all and report.locked:
            return report
        self._doorbell.announce(report.decided)
        if report.for_couriers:
            self._doorbell.notify_couriers()
        self._metrics.count_expired(report.taken)
        log.info("reservations_expired", taken=report.taken, duration_ms=round(report.duration_ms, 1))
        if report.taken:
            self.expire({every for every in expiring if every & report.more})
        return report

    def _leave(self, partitions: Collection[int]) -> None:
        """End the batch of partitions that are empty as far as it saw, or no longer held."""
        with self._changed:
            self._neglected.difference_update(partitions)
        self._assignments.exit(partitions)

    def _note_swept(self, held: set[int], report: BatchReport) -> None:
        """Count the rows of neglected partitions."""
        with self._changed:
            neglected = sorted(self._neglected & held)
        for partition in neglected:
            if taken := report.taken_from[partition]:
                self._metrics.count_swept(taken)
                # Without Redis the sweep finds all work, and has logged the reason once.
                write = log.warning if self._doorbell.reaches_workers else log.info
                write("swept", partition=partition, taken=taken)

    def _try_more_apart(self) -> None:
        """Try twice as many partitions apart at once, without a pause."""
        with self._changed:
            self._retry_count = max(1, min(2 * self._retry_count, len(self._apart)))
            self._retry_at, self._pause = 0.0, RETRY_FIRST_SECONDS
            self._lock_pause = LOCKED_FIRST_SECONDS

    def _set_locked_apart(self, partitions: Collection[int]) -> int:
        """
        Set partitions apart whose locks other backends hold. Returns the pause in milliseconds.

        Unlike partitions with a fault, they are tried together: a batch leaves out those that are still locked.
        """
        if self._apart and not self._is_apart_locked:
            return self._set_apart(partitions)
        with self._changed:
            self._is_apart_locked = True
            self._apart += sorted(partitions)
            self._retry_count = len(self._apart)
            pause = self._lock_pause * random.uniform(0.5, 1)  # noqa: S311 - spreads load, protects nothing
            self._retry_at = time.monotonic() + pause
            self._lock_pause = min(2 * self._lock_pause, LOCKED_LONGEST_SECONDS)
            return round(pause * 1_000)

    def _set_apart(self, partitions: Collection[int]) -> int:
        """Set partitions apart, and try one after a pause. Returns the pause in milliseconds."""
        with self._changed:
            self._is_apart_locked = False
            self._apart += sorted(partitions)
            self._retry_count = 1
            pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - spreads load, protects nothing
            self._retry_at = time.monotonic() + pause
            self._pause = min(self._pause * 2, RETRY_LONGEST_SECONDS)
            return round(pause * 1_000)
