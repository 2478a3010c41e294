"""
The heartbeat: the lease of this process, and its fair share of the partitions.

One thread with a connection of its own renews the lease each second. It claims partitions that are free or whose
lease has expired, and releases those above its share. It writes the result into `Assignments`, which all other
threads read. Ownership affects only speed: the lock of a partition keeps apart two workers that both assume that they
own it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from processor.cluster import ownership
from processor.errors import DatabaseUnavailable
from processor.ids import new_id
from processor.storage.connections import Reconnecting
from workers.worker.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from processor.cluster.ownership import Heartbeat
    from processor.storage.connections import Connection
    from workers.doorbell.ring import Doorbell
    from workers.worker.assignments import Assignments

#: The interval between two renewals of the lease, in seconds.
HEARTBEAT_SECONDS: Final = 1.0
#: The pause after a heartbeat that failed, in seconds.
RETRY_SECONDS: Final = 0.25
#: The time after the expiry of another worker's lease at which its partitions are claimed, in seconds.
EXPIRY_MARGIN_SECONDS: Final = 0.02
#: The longest time of a statement, in milliseconds. A renewal that arrives later must fail.
STATEMENT_TIMEOUT_MS: Final = 1_500
#: The time that `stop` waits for the statement under way, in seconds.
STOP_TIMEOUT_SECONDS: Final = 2.0

log = structlog.get_logger(__name__)


class OwnershipThread:
    """
    Keeps the lease of this process on a thread of its own.

    `on_gain` gets the partitions that may be drained from now on. They must be drained at once, because their
    doorbells may have gone to the owner before.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        partition_count: int,
        assignments: Assignments,
        doorbell: Doorbell,
        on_gain: Callable[[set[int]], None],
    ) -> None:
        self._partition_count = partition_count
        self._assignments = assignments
        self._doorbell = doorbell
        self._on_gain = on_gain
        self._connection = Reconnecting(connect)
        self._watch = Watch()
        #: The id of this worker. It changes after each lease that expired.
        self._worker: UUID | None = None
        self._woken = threading.Event()
        self._stopping = False
        self._is_stalled = False
        self._is_unavailable = False
        self._is_ready = False
        self._thread = threading.Thread(target=self._run, name="ownership", daemon=True)
        assignments.on_surrender = self.wake

    def start(self) -> None:
        """Start the thread. PostgreSQL may be unavailable."""
        self._thread.start()

    def wake(self) -> None:
        """Run the next heartbeat now: partitions became free, or the drain of a surrendered one has ended."""
        self._woken.set()

    def stop(self) -> None:
        """Release all partitions and end the thread. The drains have ended before (`Assignments.close`)."""
        self._stopping = True
        self._woken.set()
        self._thread.join(STOP_TIMEOUT_SECONDS)
        if self._worker is None or not self._connection.is_open or self._thread.is_alive():
            return  # PostgreSQL is unavailable: the lease expires
        try:
            owned = ownership.leave(self._connection.get(), self._worker)
        except DatabaseUnavailable as fault:
            log.warning("lease_left_behind", fault=str(fault))
        else:
            self._doorbell.notify_all(owned)
            self._doorbell.announce_ownership()
        self._connection.close()

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self._stopping:
            self._woken.clear()
            pause = RETRY_SECONDS
            try:
                pause = self._beat()
            except DatabaseUnavailable as fault:
                if not self._is_unavailable:
                    self._is_unavailable = True
                    log.warning("database_unavailable", fault=str(fault))
                self._connection.close()
            except Exception:
                log.exception("ownership_fault")
                self._connection.close()
            self._woken.wait(pause)

    def _beat(self) -> float:
        """Renew the lease and adjust the share. Returns the seconds until the next heartbeat."""
        stalled = self._assignments.stalled()
        self._watch.look(self._connection.get(), at_once=bool(stalled))  # it may explain the stall
        stalled = [one for one in stalled if not self._watch.explains(one)]
        if stalled:
            if not self._is_stalled:
                log.error("drain_stalled", partitions=stalled)
            self._is_stalled = True
            return RETRY_SECONDS  # no heartbeat: the lease expires, and other workers take over
        self._is_stalled = False

        connection = self._connection.get()
        beat, lease_until = self._renew(connection)
        if self._is_unavailable:
            self._is_unavailable = False
            log.info("database_available")
        gained = self._assignments.hold(beat.owned, lease_until)
        gained |= self._adjust_share(connection, beat, lease_until)
        if gained:
            self._on_gain(gained)
        if not self._is_ready:
            self._is_ready = True
            log.info(
                "worker_ready",
                worker=str(self._worker),
                partitions=len(beat.owned | gained),
                workers=beat.workers,
            )
        if beat.next_expiry_seconds is None:
            return HEARTBEAT_SECONDS
        return min(HEARTBEAT_SECONDS, max(0.0, beat.next_expiry_seconds) + EXPIRY_MARGIN_SECONDS)

    def _renew(self, connection: Connection) -> tuple[Heartbeat, float]:
        """
        Renew the lease, or join under a new id and without partitions if it has expired.

        Returns the heartbeat, and the end of the lease by the monotonic clock of this process. The lease is counted
        from before the statement, so it never ends later here than in the database.
        """
        asked_at = time.monotonic()
        if self._worker is not None:
            beat = ownership.heartbeat(connection, self._worker)
            if beat.renewed:
                return beat, asked_at + ownership.LEASE_TTL_SECONDS
            log.warning("lease_ran_out", worker=str(self._worker), partitions=len(self._assignments.held()))
            self._assignments.lose_all()
            self._worker = None
        worker = new_id()
        ownership.join(connection, worker, socket.gethostname(), os.getpid())
        self._worker = worker
        self._doorbell.announce_ownership()  # other workers release the share of this one
        return ownership.heartbeat(connection, worker), asked_at + ownership.LEASE_TTL_SECONDS

    def _adjust_share(self, connection: Connection, beat: Heartbeat, lease_until: float) -> set[int]:
        """Claim partitions up to the fair share, and release those above it. Returns the partitions gained."""
        assert self._worker is not None  # noqa: S101 - `_renew` has set it
        share = -(-self._partition_count // beat.workers)
        if len(beat.owned) > share:
            self._assignments.surrender(len(beat.owned) - share)
        surrendered = self._assignments.surrendered()
        if surrendered:
            ownership.release(connection, self._worker, surrendered)
            self._assignments.hold(beat.owned - surrendered, lease_until)
            self._doorbell.announce_ownership()
            log.info("partitions_released", count=len(surrendered), workers=beat.workers)
        missing = share - len(beat.owned)
        if missing <= 0 or beat.free == 0:
            return set()
        claimed = ownership.claim(connection, self._worker, missing)
        if claimed:
            log.info("partitions_claimed", count=len(claimed), workers=beat.workers)
        return self._assignments.hold(beat.owned | claimed, lease_until)
