"""
Draining: apply batches of a partition until its inbox is empty.

Doorbells, the sweep and new claims use the same code. `processor.batch` applies a batch. Each thread that drains has
a connection of its own.
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from processor.batch.run import BatchReport
    from processor.storage.connections import Connection
    from workers.doorbell.ring import Doorbell
    from workers.worker.assignments import Assignments

#: The time after which a drain ends between two batches, in seconds, so that other partitions, a stop or a new owner
#: get their turn. A full batch takes longer: then each partition with work gets one batch in turn.
TURN_SECONDS: Final = 0.05
#: The first and the longest pause after a fault of the infrastructure, in seconds. The pause doubles, and is
#: shortened by a random part of up to a half. It is short because all work must continue two seconds after the server
#: is back.
RETRY_FIRST_SECONDS: Final = 0.05
RETRY_LONGEST_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class _Own(threading.local):
    """The connection of each thread that drains."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self.connection = Reconnecting(connect)


class Drainer:
    """
    Drains held partitions on the caller's thread.

    A fault of the infrastructure raises nothing. The same batch is tried again on a new connection, for as long as
    this process holds the partition.
    """

    def __init__(
        self, connect: Callable[[], Connection], assignments: Assignments, doorbell: Doorbell
    ) -> None:
        self._assignments = assignments
        self._doorbell = doorbell
        self._own = _Own(connect)
        self._stopping = threading.Event()

    def answer(self, partition: int) -> None:
        """
        Drain a partition after a doorbell: the actor.

        A second doorbell is harmless, because an empty inbox is a no-op.
        A partition that is no longer held is left to its new owner, which drains it when it claims it.
        """
        self._doorbell.acknowledge(partition)  # before the drain reads: a later commit notifies again
        _, more = self.drain(partition)
        if more:  # other partitions get their turn, and a stop does not wait
            self._doorbell.notify(partition)

    def drain(self, partition: int) -> tuple[int, bool]:
        """
        Apply the inbox of a partition. An empty inbox and a partition that is not held are no fault.

        Returns the number of applied rows, and whether there may be more. Then the caller must see to another drain.
        """
        taken = 0
        more = True
        while more and self._assignments.enter(partition):
            try:
                applied, more = self._drain_entered(partition)
                taken += applied
            finally:
                again = self._assignments.exit(partition)
            if more:  # other partitions get their turn, and a stop does not wait
                return taken, True
            more = again
        return taken, False

    def stop(self) -> None:
        """End the pauses between tries. `Assignments.close` ends the drains."""
        self._stopping.set()

    def _drain_entered(self, partition: int) -> tuple[int, bool]:
        taken = 0
        turn_ends = time.monotonic() + TURN_SECONDS
        while True:
            report = self._apply(partition)
            if report is None:
                return taken, False
            self._assignments.progress(partition)
            self._doorbell.announce(report.decided)
            if report.for_couriers:
                self._doorbell.notify_couriers()
            _log(report)
            taken += report.taken
            if not report.more:
                return taken, False
            if time.monotonic() >= turn_ends:
                return taken, True

    def _apply(self, partition: int) -> BatchReport | None:
        """Apply one batch, and retry until it is committed. Returns None if the partition is no longer held."""
        pause = RETRY_FIRST_SECONDS
        while self._assignments.holds(partition):
            try:
                return batch.drain_once(self._own.connection.get(), partition)
            except DatabaseUnavailable as fault:
                self._own.connection.close()
                log.warning(
                    "batch_retried", partition=partition, fault=str(fault), pause_ms=round(pause * 1_000)
                )
            except BaseException:
                self._own.connection.close()  # the state of the connection is undefined
                raise
            self._stopping.wait(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, protects nothing
            pause = min(pause * 2, RETRY_LONGEST_SECONDS)
        return None


def _log(report: BatchReport) -> None:
    """Log one line for the batch, at level debug for an empty one."""
    write = log.info if report.taken else log.debug
    write(
        "batch_applied",
        partition=report.partition,
        taken=report.taken,
        decided=len(report.decided),
        rejected=report.rejected,
        failed=report.failed,
        paused=report.paused,
        duration_ms=round(report.duration_ms, 1),
    )
    for request_id in report.paid_after_refund:  # an alert: a gateway has paid after the refund
        log.error("paid_after_refund", partition=report.partition, request=str(request_id))
