"""
The sweep: what makes a lost doorbell harmless.

Looks into the database by itself, on threads that need neither Dramatiq nor Redis, for partitions of ours that
wait and that nobody drains, and drains them. Also drains at once what was just claimed. What else is due by the
clock (codes that ran out unused) is looked for by one more step in `Sweep._look`.
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from processor.storage.connections import Connection
    from workers.worker.assignments import Lanes
    from workers.worker.drain import Drainer

#: How often we look, in seconds. With NEGLECTED_AFTER_SECONDS: a request whose ring was lost waits 1.5 s at most.
INTERVAL_SECONDS: Final = 0.5
#: Work that is older, in a partition that had no batch for as long, is neglected, in seconds.
NEGLECTED_AFTER_SECONDS: Final = 1.0
#: How often we look while nobody can ring, in seconds: then whatever waits is ours to drain.
INTERVAL_WITHOUT_BELL_SECONDS: Final = 0.1
#: Looking takes at most one part in so many of the time: it costs more where dead rows pile up.
REST_PER_LOOK: Final = 10
#: … but no rest is longer, in seconds: a look also takes long when the process was stopped or its line was dead.
REST_SECONDS_MAX: Final = 1.0
#: Threads that drain what was found.
THREADS: Final = 2
#: How often codes that are long over are forgotten, in seconds.
TIDY_SECONDS: Final = 600.0
#: How long a look may take, in milliseconds.
STATEMENT_TIMEOUT_MS: Final = 5_000
#: How long `stop` waits for each thread, in seconds.
STOP_TIMEOUT_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Sweep:
    """
    `bell_works` says whether doorbells are heard at present. `swept` counts the inbox rows that were rescued:
    in a healthy system, zero.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        drainer: Drainer,
        lanes: Lanes,
        bell_works: Callable[[], bool],
    ) -> None:
        self._connect = connect
        self._drainer = drainer
        self._lanes = lanes
        self._bell_works = bell_works
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        #: What is in `_found`, so that it is in there once; written by whoever looks, claims or drains.
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
        """Begin to look; also when PostgreSQL is away."""
        for thread in self._threads:
            thread.start()

    def take(self, waiting: Iterable[int]) -> None:
        """Drain these at once: they were just claimed. Returns at once."""
        for partition in waiting:
            self._list(partition, neglected=False)

    def stop(self) -> None:
        """Look no more. The drains have ended before (`Lanes.close`)."""
        self._stopping.set()
        for _ in range(THREADS):
            self._found.put(None)
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_SECONDS)

    # ---------------------------------------------------------------- the thread that looks

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._look()
            except DatabaseUnavailable:
                self._let_go_of_connection()  # the heartbeat says it, once
            except Exception:
                log.exception("sweep_fault")
                self._let_go_of_connection()
            interval = INTERVAL_SECONDS if self._bell_works() else INTERVAL_WITHOUT_BELL_SECONDS
            rest = min(REST_SECONDS_MAX, REST_PER_LOOK * (time.monotonic() - began))
            self._stopping.wait(max(interval, rest))
        self._let_go_of_connection()

    def _look(self) -> None:
        held = self._lanes.held()
        if not held:
            return
        if self._connection is None:
            self._connection = self._connect()
        self.take(approvals.expire(self._connection, held))
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_SECONDS
            codes.tidy(self._connection)
        idle = {partition for partition in held if not self._lanes.is_busy(partition)}
        if not idle:
            return
        age = NEGLECTED_AFTER_SECONDS if self._bell_works() else 0.0
        for partition in ownership.neglected(self._connection, idle, age):
            self._list(partition, neglected=True)

    def _list(self, partition: int, *, neglected: bool) -> None:
        with self._lock:
            if partition in self._listed:
                return
            self._listed.add(partition)
        self._found.put((partition, neglected))

    def _let_go_of_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ---------------------------------------------------------------- the threads that drain

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
                self._list(partition, neglected=neglected)  # at the end: others get their turn
