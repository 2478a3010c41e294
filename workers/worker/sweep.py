"""
The sweep makes a lost doorbell harmless: it finds held partitions that have work and no drain, and drains them.

It reads the database on threads that need neither Dramatiq nor Redis. It also drains partitions that were just
claimed, and ends requests whose time is over (`Sweep._look`).
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from processor.clients import codes
from processor.cluster import ownership
from processor.errors import DatabaseUnavailable
from processor.operations import approvals
from processor.storage.connections import Reconnecting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from processor.storage.connections import Connection
    from workers.worker.assignments import Assignments
    from workers.worker.drain import Drainer

#: The interval between two looks, in seconds. Together with NEGLECTED_AFTER_SECONDS it limits the wait of a request
#: whose notification was lost.
INTERVAL_SECONDS: Final = 0.5
#: The age after which work counts as neglected, if its partition had no batch for the same time, in seconds.
NEGLECTED_AFTER_SECONDS: Final = 1.0
#: The interval between two looks while wake-ups are unavailable, in seconds. Then the sweep drains all work.
INTERVAL_WITHOUT_WAKE_UPS_SECONDS: Final = 0.1
#: The least rest after a look, as a multiple of the time that the look took. A look is expensive where dead rows pile
#: up.
REST_PER_LOOK: Final = 10
#: The longest such rest, in seconds. A look also takes long if the process was suspended, its connection was dead, or
#: the machine is busy. A request whose notification was lost waits for NEGLECTED_AFTER_SECONDS, this rest and a look.
REST_SECONDS_MAX: Final = 0.5
#: The threads that drain the partitions found.
THREADS: Final = 2
#: The interval between two deletions of old codes, in seconds.
TIDY_SECONDS: Final = 600.0
#: The longest time of a statement, in milliseconds.
STATEMENT_TIMEOUT_MS: Final = 5_000
#: The time that `stop` waits for each thread, in seconds.
STOP_TIMEOUT_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Sweep:
    """
    Drains work that no doorbell reported.

    `wake_ups_available` returns whether doorbells can be sent and fetched at present. `swept` counts the rows of
    neglected partitions, and is zero in a healthy system.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        drainer: Drainer,
        assignments: Assignments,
        wake_ups_available: Callable[[], bool],
    ) -> None:
        self._drainer = drainer
        self._assignments = assignments
        self._wake_ups_available = wake_ups_available
        self._connection = Reconnecting(connect)
        #: Wake-ups were available before the last look.
        self._is_notified = True
        self._lock = threading.Lock()
        #: The partitions in `_found`, each of which is in it once. The lock protects them.
        self._listed: set[int] = set()
        self._found: queue.SimpleQueue[tuple[int, bool] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, name="sweep", daemon=True)]
        self._threads += [
            threading.Thread(target=self._drain_found, name=f"sweep-{number}", daemon=True)
            for number in range(THREADS)
        ]
        self.swept = 0
        self._tidy_at = time.monotonic() + TIDY_SECONDS

    def start(self) -> None:
        """Start the threads. PostgreSQL may be unavailable."""
        for thread in self._threads:
            thread.start()

    def take(self, waiting: Iterable[int]) -> None:
        """Queue partitions that have work, such as new claims, to be drained now. Returns at once."""
        for partition in waiting:
            self._list(partition, neglected=False)

    def stop(self) -> None:
        """End the threads. The drains have ended before (`Assignments.close`)."""
        self._stopping.set()
        for _ in range(THREADS):
            self._found.put(None)
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_SECONDS)

    # ---------------------------------------------------------------- the looking thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self._check_wake_ups()
            try:
                self._look()
            except DatabaseUnavailable:
                self._connection.close()  # the heartbeat logs it
            except Exception:
                log.exception("sweep_fault")
                self._connection.close()
            interval = INTERVAL_SECONDS if self._is_notified else INTERVAL_WITHOUT_WAKE_UPS_SECONDS
            rest = min(REST_SECONDS_MAX, REST_PER_LOOK * (time.monotonic() - began))
            self._stopping.wait(max(interval, rest))
        self._connection.close()

    def _check_wake_ups(self) -> None:
        is_notified = self._wake_ups_available()
        if is_notified != self._is_notified:
            self._is_notified = is_notified
            if is_notified:
                log.info("wake_ups_available")
            else:
                log.warning("wake_ups_unavailable")

    def _look(self) -> None:
        held = self._assignments.held()
        if not held:
            return
        connection = self._connection.get()
        self.take(approvals.expire(connection, held))
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_SECONDS
            codes.tidy(connection)
        idle = {partition for partition in held if not self._assignments.is_busy(partition)}
        if not idle:
            return
        age = NEGLECTED_AFTER_SECONDS if self._is_notified else 0.0
        for partition in ownership.neglected(connection, idle, age):
            self._list(partition, neglected=True)

    def _list(self, partition: int, *, neglected: bool) -> None:
        with self._lock:
            if partition in self._listed:
                return
            self._listed.add(partition)
        self._found.put((partition, neglected))

    # ---------------------------------------------------------------- the draining threads

    def _drain_found(self) -> None:
        while (found := self._found.get()) is not None:
            partition, neglected = found
            with self._lock:
                self._listed.discard(partition)
            try:
                taken, more = self._drainer.drain(partition)
            except Exception:
                log.exception("drain_fault", partition=partition)
                continue
            if neglected and taken:
                with self._lock:
                    self.swept += taken
                log.warning("swept", partition=partition, taken=taken, swept=self.swept)
            if more:
                self._list(partition, neglected=neglected)  # at the end: other partitions get their turn
