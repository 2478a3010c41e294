"""
The watch of a worker: it names what keeps it from working, and deletes work that is in no partition.

A role that was taken over may hold a lock that a batch needs. No right on tables prevents that for all locks, so the
watch looks for the holders.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from processor.cluster import alarms

if TYPE_CHECKING:
    from processor.cluster.alarms import Blocker
    from processor.storage.connections import Connection

#: The interval between two looks, in seconds. A backend that is seen in two of them raises the alarm. The interval is
#: well below the time after which a drain counts as stalled, so that an earlier look can explain the stall.
INTERVAL_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Watch:
    """
    Looks for backends of other roles, on the thread of its caller.

    A pause of a partition also holds its lock, for a moment. So one look alone raises no alarm.
    """

    def __init__(self) -> None:
        self._next_at = 0.0
        #: The backends of the last look.
        self._seen: dict[int, Blocker] = {}
        #: Those of them that the log has named.
        self._named: set[int] = set()
        #: The partitions that they lock; None: a lock that any batch may need.
        self._locked: set[int | None] = set()

    def look(self, connection: Connection, *, at_once: bool = False) -> None:
        """Look, if the interval is over or if it is to be `at_once`. Raises DatabaseUnavailable."""
        if time.monotonic() < self._next_at and not at_once:
            return
        self._next_at = time.monotonic() + INTERVAL_SECONDS
        found = {blocker.pid: blocker for blocker in alarms.blockers(connection)}
        for pid in found.keys() & self._seen.keys():
            alarms.note_locked(connection, found[pid])
            if pid not in self._named:
                log.error("locked_by_another_role", holder=str(found[pid]), partitions=found[pid].partitions)
                self._named.add(pid)
        self._named &= found.keys()
        self._seen = found
        self._locked = {partition for pid in self._named for partition in found[pid].partitions}
        rows = alarms.delete_nowhere(connection)
        if rows:
            log.error("inbox_rows_nowhere", rows=rows)

    def explains(self, partition: int) -> bool:
        """Return whether another role holds the partition up. Another worker would fare no better."""
        return partition in self._locked or None in self._locked
