"""
Draining: apply what waits in a partition, batch after batch, until nothing does.

The same code for a doorbell, for the sweep and for a partition just claimed. Knows nothing of Dramatiq; the
work is done by `processor.batch`. Each thread that drains has a connection of its own.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from processor.batch import run as batch
from processor.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from processor.batch.run import BatchReport
    from processor.storage.connections import Connection
    from workers.doorbell.ring import Doorbell
    from workers.worker.assignments import Lanes

#: How long one partition is drained before others get their turn (and a stop or a new owner his), in seconds. A full
#: batch takes longer: where many partitions are hot, each has one batch, and then the next.
TURN_SECONDS: Final = 0.05
#: First and longest pause after a fault of the infrastructure, in seconds; it doubles, less up to a half by
#: chance. Short, since the work waits: two seconds after the server is back, all must go on.
RETRY_FIRST_SECONDS: Final = 0.05
RETRY_LONGEST_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class Drainer:
    """
    Drains partitions that are ours, on the caller's thread. Never raises for a fault of the infrastructure:
    it tries the same batch again, on a fresh connection, for as long as the partition is ours.
    """

    def __init__(self, connect: Callable[[], Connection], lanes: Lanes, doorbell: Doorbell) -> None:
        self._connect = connect
        self._lanes = lanes
        self._doorbell = doorbell
        self._own = threading.local()
        self._stopping = threading.Event()

    def drain(self, partition: int) -> tuple[int, bool]:
        """
        Apply what waits. Doing so twice is harmless: an empty inbox is a no-op. Returns how many inbox rows were
        applied, and whether there may be more: then somebody must ring again.
        """
        taken = 0
        more = True
        while more and self._lanes.enter(partition):
            try:
                applied, more = self._drain_entered(partition)
                taken += applied
            finally:
                rung = self._lanes.exit(partition)
            if more:  # others get their turn, and a stop is never far away
                return taken, True
            more = rung
        return taken, False

    def stop(self) -> None:
        """End the pauses between tries; `Lanes.close` ends the rest."""
        self._stopping.set()

    def _drain_entered(self, partition: int) -> tuple[int, bool]:
        taken = 0
        turn_ends = time.monotonic() + TURN_SECONDS
        while True:
            report = self._apply(partition)
            if report is None:
                return taken, False
            self._lanes.progress(partition)
            self._doorbell.announce(report.decided)
            self._doorbell.notify_all(report.follow_ups)
            if report.for_couriers:
                self._doorbell.notify_couriers()
            _tell(report)
            taken += report.taken
            if not report.more:
                return taken, False
            if time.monotonic() >= turn_ends:
                return taken, True

    def _apply(self, partition: int) -> BatchReport | None:
        """One batch, tried until it is done; None when the partition is ours no more."""
        pause = RETRY_FIRST_SECONDS
        while self._lanes.holds(partition):
            try:
                return batch.drain_once(self._connection(), partition)
            except DatabaseUnavailable as fault:
                self._let_go_of_connection()
                log.warning(
                    "batch_retried", partition=partition, fault=str(fault), pause_ms=round(pause * 1_000)
                )
            except BaseException:
                self._let_go_of_connection()  # nobody knows what it is in the middle of
                raise
            self._stopping.wait(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
            pause = min(pause * 2, RETRY_LONGEST_SECONDS)
        return None

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._connect()
        return connection

    def _let_go_of_connection(self) -> None:
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is not None:
            self._own.connection = None
            connection.close()


def _tell(report: BatchReport) -> None:
    """The canonical line of a batch; of an empty one only for those who look closely."""
    tell = log.info if report.taken else log.debug
    tell(
        "batch_applied",
        partition=report.partition,
        taken=report.taken,
        decided=len(report.decided),
        rejected=report.rejected,
        parked=report.parked,
        paused=report.paused,
        duration_ms=round(report.duration_ms, 1),
    )
    for request_id in report.paid_after_refund:  # the alert: a gateway paid what had been given back
        log.error("paid_after_refund", partition=report.partition, request=str(request_id))
