"""
The sweep makes a lost doorbell harmless: it finds held partitions that have work and no batch, and marks them.

It reads the database on a thread that needs neither Dramatiq nor Redis. It also ends requests whose time is over
(`Sweep._look`).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from processor.clients import codes
from processor.cluster import alarms, ownership
from processor.errors import DatabaseUnavailable
from processor.operations import approvals, reservations
from processor.storage.connections import Reconnecting
from workers.doorbell.condition import REMEDIES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from processor.storage.connections import Connection
    from workers.doorbell.check import RedisCheck
    from workers.doorbell.condition import Condition
    from workers.doorbell.ring import Doorbell
    from workers.metrics import WorkerMetrics
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
#: The interval between two deletions of old codes, in seconds.
TIDY_SECONDS: Final = 600.0
#: The interval between two looks below the low-water marks, in seconds. Dead rows make such a look expensive.
BELOW_SECONDS: Final = 5.0
#: The interval between two alarms about Redis, in seconds.
ALARM_SECONDS: Final = 1.0
#: The longest time of a statement, in milliseconds.
STATEMENT_TIMEOUT_MS: Final = 5_000
#: The time that `stop` waits for the thread, in seconds.
STOP_TIMEOUT_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Sweep:
    """
    Looks for work that no doorbell reported, on a thread of its own.

    `doorbell` and `check` show whether doorbells can be sent and taken at present.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        drainer: Drainer,
        assignments: Assignments,
        doorbell: Doorbell,
        check: RedisCheck,
        metrics: WorkerMetrics,
    ) -> None:
        self._drainer = drainer
        self._assignments = assignments
        self._doorbell = doorbell
        self._check = check
        self._metrics = metrics
        self._connection = Reconnecting(connect)
        #: Partitions that were paused at the last look.
        self._paused: set[int] = set()
        #: Wake-ups were available before the last look.
        self._is_notified = True
        self._is_stopping = False
        #: Ends the pause between two looks.
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)
        self._tidy_at = time.monotonic() + TIDY_SECONDS
        self._look_below_at = 0.0
        self._alarm_at = 0.0
        self._checked_at = time.monotonic()

    def start(self) -> None:
        """Start the thread. PostgreSQL may be unavailable."""
        self._thread.start()

    def wake(self) -> None:
        """Look now: the condition of Redis has changed. Returns at once."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread."""
        self._is_stopping = True
        self._woken.set()
        self._thread.join(STOP_TIMEOUT_SECONDS)

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self._is_stopping:
            self._woken.clear()
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
            self._woken.wait(max(interval, rest))
        self._connection.close()

    def _check_wake_ups(self) -> None:
        was_notified, self._is_notified = self._is_notified, self._doorbell.reaches_workers
        if self._is_notified and not was_notified:
            log.info("wake_ups_available")
        elif was_notified and not self._is_notified:
            condition = self._condition()
            log.warning("wake_ups_unavailable", condition=condition, detail=REMEDIES[condition])
        now = time.monotonic()
        if not was_notified:
            self._metrics.count_without_wake_ups(now - self._checked_at)
        self._checked_at = now

    def _condition(self) -> Condition:
        """Return what keeps Redis from carrying notifications."""
        return self._check.condition or "unavailable"

    def _look(self) -> None:
        held = self._assignments.held()
        if not held:
            return
        connection = self._connection.get()
        if self._check.condition is not None and time.monotonic() >= self._alarm_at:
            self._alarm_at = time.monotonic() + ALARM_SECONDS
            alarms.note_redis(connection, self._condition())
        self._drainer.mark(approvals.expire(connection, held))
        self._drainer.expire(reservations.expired(connection, held))
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_SECONDS
            codes.tidy(connection)
        self._look_below(connection, held)
        idle = {partition for partition in held if not self._assignments.is_busy(partition)}
        if not idle:
            return
        age = NEGLECTED_AFTER_SECONDS if self._is_notified else 0.0
        old, paused = ownership.neglected(connection, idle, age)
        found = set(old)
        resumed = found & self._paused
        self._paused = paused
        self._drainer.mark(resumed)  # its work is old because of the pause, and no doorbell was lost
        self._drainer.mark_neglected(found - resumed)

    def _look_below(self, connection: Connection, held: Collection[int]) -> None:
        """
        Report rows that no batch looks at, as after a move without `teller migrate`. Only that command repairs them.
        """
        if time.monotonic() < self._look_below_at:
            return
        self._look_below_at = time.monotonic() + BELOW_SECONDS
        hidden = ownership.hidden(connection, held)
        if hidden:
            log.error("rows_below_low_water", partitions=hidden, remedy="run `teller migrate`")
