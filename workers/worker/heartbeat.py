"""
Ownership: this process's lease, and its fair share of the partitions.

One thread with a connection of its own renews the lease each second, claims what is free or run out, lets go
of what is too much. What it finds, it writes into `Lanes`; everybody else asks there. It guards speed, not
money: two workers that both take a partition for theirs are kept apart by its lock.
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

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from processor.cluster.ownership import Heartbeat
    from processor.storage.connections import Connection
    from workers.doorbell.ring import Doorbell
    from workers.worker.assignments import Lanes

#: How often the lease is renewed, in seconds.
HEARTBEAT_SECONDS: Final = 1.0
#: The pause after a heartbeat that failed, in seconds.
RETRY_SECONDS: Final = 0.25
#: How long after another's lease ran out we look, in seconds: its partitions are free then.
EXPIRY_MARGIN_SECONDS: Final = 0.02
#: How long a statement of this thread may take, in milliseconds: a lease must not be renewed by chance.
STATEMENT_TIMEOUT_MS: Final = 1_500
#: How long `stop` waits for the statement under way, in seconds.
STOP_TIMEOUT_SECONDS: Final = 2.0

log = structlog.get_logger(__name__)


class Ownership:
    """
    `on_gain` gets, on this thread, the partitions that may be drained from now on, and those among them that wait:
    these are to be drained at once, for whoever rang may have rung for somebody else.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        partition_count: int,
        lanes: Lanes,
        doorbell: Doorbell,
        on_gain: Callable[[set[int], list[int]], None],
    ) -> None:
        self._connect = connect
        self._partition_count = partition_count
        self._lanes = lanes
        self._doorbell = doorbell
        self._on_gain = on_gain
        self._connection: Connection | None = None
        #: Under which id this process lives: another one after each lease that ran out.
        self._worker: UUID | None = None
        self._poked = threading.Event()
        self._stopping = False
        self._stalled = False
        self._away = False
        self._ready = False
        self._thread = threading.Thread(target=self._run, name="ownership", daemon=True)
        lanes.on_surrender = self.poke

    def start(self) -> None:
        """Begin to live and to claim; also when PostgreSQL is away."""
        self._thread.start()

    def poke(self) -> None:
        """Look now: partitions may have become free, or a drain has ended."""
        self._poked.set()

    def stop(self) -> None:
        """
        Give everything back at once and live no more. The drains have ended before (`Lanes.close`).
        """
        self._stopping = True
        self._poked.set()
        self._thread.join(STOP_TIMEOUT_SECONDS)
        if self._worker is None or self._connection is None or self._thread.is_alive():
            return  # PostgreSQL is away: the lease runs out by itself
        try:
            owned = ownership.leave(self._connection, self._worker)
        except DatabaseUnavailable as fault:
            log.warning("lease_left_behind", fault=str(fault))
        else:
            self._doorbell.notify_all(owned)
            self._doorbell.announce_ownership()
        self._let_go_of_connection()

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self._stopping:
            self._poked.clear()
            pause = RETRY_SECONDS
            try:
                pause = self._beat()
            except DatabaseUnavailable as fault:
                if not self._away:
                    self._away = True
                    log.warning("database_away", fault=str(fault))
                self._let_go_of_connection()
            except Exception:
                log.exception("ownership_fault")
                self._let_go_of_connection()
            self._poked.wait(pause)

    def _beat(self) -> float:
        """One heartbeat and what follows from it; returns the seconds until the next one."""
        stalled = self._lanes.stalled()
        if stalled:
            if not self._stalled:
                log.error("drain_stalled", partitions=stalled)
            self._stalled = True
            return RETRY_SECONDS  # silent on purpose: others take over
        self._stalled = False

        if self._connection is None:
            self._connection = self._connect()
        beat, lease_until = self._renew(self._connection)
        if self._away:
            self._away = False
            log.info("database_back")
        gained = self._lanes.hold(beat.owned, lease_until)
        gained |= self._level(self._connection, beat, lease_until)
        if gained:
            self._on_gain(gained, ownership.waiting(self._connection, gained))
        if not self._ready:
            self._ready = True
            log.info(
                "worker_ready",
                worker=str(self._worker),
                partitions=len(beat.owned | gained),
                workers=beat.living,
            )
        if beat.next_expiry_seconds is None:
            return HEARTBEAT_SECONDS
        return min(HEARTBEAT_SECONDS, max(0.0, beat.next_expiry_seconds) + EXPIRY_MARGIN_SECONDS)

    def _renew(self, connection: Connection) -> tuple[Heartbeat, float]:
        """
        Renew the lease; if it ran out, everything is lost, and a new life begins under a new id. Returns
        until when it is ours by our own clock: counted from before the asking, so never too long.
        """
        asked_at = time.monotonic()
        if self._worker is not None:
            beat = ownership.heartbeat(connection, self._worker)
            if beat.renewed:
                return beat, asked_at + ownership.LEASE_TTL_SECONDS
            log.warning("lease_ran_out", worker=str(self._worker), partitions=len(self._lanes.held()))
            self._lanes.lose_all()
            self._worker = None
        worker = new_id()
        ownership.join(connection, worker, socket.gethostname(), os.getpid())
        self._worker = worker
        self._doorbell.announce_ownership()  # others let go of our share
        return ownership.heartbeat(connection, worker), asked_at + ownership.LEASE_TTL_SECONDS

    def _level(self, connection: Connection, beat: Heartbeat, lease_until: float) -> set[int]:
        """Towards the fair share: claim what is missing, let go of what is too much. Returns what was gained."""
        assert self._worker is not None  # noqa: S101 - `_renew` gave it one
        share = -(-self._partition_count // beat.living)
        if len(beat.owned) > share:
            self._lanes.surrender(len(beat.owned) - share)
        surrendered = self._lanes.surrendered()
        if surrendered:
            ownership.release(connection, self._worker, surrendered)
            self._lanes.hold(beat.owned - surrendered, lease_until)
            self._doorbell.announce_ownership()
            log.info("partitions_released", count=len(surrendered), workers=beat.living)
        missing = share - len(beat.owned)
        if missing <= 0 or beat.free == 0:
            return set()
        claimed = ownership.claim(connection, self._worker, missing)
        if claimed:
            log.info("partitions_claimed", count=len(claimed), workers=beat.living)
        return self._lanes.hold(beat.owned | claimed, lease_until)

    def _let_go_of_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
