"""
Assignments: the partitions that one worker process may drain now, and those that its threads are draining.

Consumers, drains and the sweep read them, and only the heartbeat changes them. They are plain memory behind a lock.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

#: The time without progress after which a drain counts as stalled, in seconds.
STALLED_AFTER_SECONDS: Final = 3.0


class Assignments:
    """
    A partition may be drained from `hold` until `lose_all`, its surrender, or the end of the lease.

    The lease ends by the monotonic clock, which also runs while the process is suspended. So a process that was
    suspended for longer than its lease holds no partition when it continues. `on_surrender` is called when the drain
    of a surrendered partition has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._held: set[int] = set()
        self._surrendered: set[int] = set()
        self._lease_until = 0.0
        self._is_closed = False
        #: Partition → the time of the last progress of its drain.
        self._busy: dict[int, float] = {}
        #: Partitions that were notified while a thread drained them.
        self._again: set[int] = set()
        self.on_surrender: Callable[[], None] = lambda: None

    # ---------------------------------------------------------------- for drains

    def holds(self, partition: int) -> bool:
        """Return whether this process may begin a batch of the partition now."""
        with self._lock:
            return self._holds(partition)

    def held(self) -> set[int]:
        """Return all partitions that this process may drain now."""
        with self._lock:
            return {partition for partition in self._held if self._holds(partition)}

    def enter(self, partition: int) -> bool:
        """
        Begin a drain. Returns False if the partition is not held, or if another thread drains it.

        That other thread may have read the inbox before the caller's work was committed, so it then drains once more.
        """
        with self._lock:
            if not self._holds(partition):
                return False
            if partition in self._busy:
                self._again.add(partition)
                return False
            self._busy[partition] = time.monotonic()
            return True

    def progress(self, partition: int) -> None:
        """Note that a batch of the drain is committed."""
        with self._lock:
            self._busy[partition] = time.monotonic()

    def exit(self, partition: int) -> bool:
        """End a drain. Returns True if the partition was notified during it and must be drained again."""
        with self._lock:
            del self._busy[partition]
            again = partition in self._again
            self._again.discard(partition)
            surrendered = partition in self._surrendered
            self._lock.notify_all()
        if surrendered:
            self.on_surrender()
        return again

    def is_busy(self, partition: int) -> bool:
        """Return whether a thread drains the partition."""
        with self._lock:
            return partition in self._busy

    # ---------------------------------------------------------------- for the heartbeat

    def hold(self, partitions: Collection[int], lease_until: float) -> set[int]:
        """
        Hold these partitions and no others until `lease_until`, in monotonic seconds.

        Returns the partitions that may be drained now and could not be drained before.
        """
        with self._lock:
            before = {partition for partition in self._held if self._holds(partition)}
            self._held = set(partitions)
            self._surrendered &= self._held
            self._lease_until = lease_until
            return {partition for partition in self._held if self._holds(partition)} - before

    def lose_all(self) -> None:
        """Hold no partition."""
        with self._lock:
            self._held.clear()
            self._surrendered.clear()
            self._lease_until = 0.0

    def surrender(self, count: int) -> None:
        """Begin no further batch of `count` partitions. Idle partitions are chosen first."""
        with self._lock:
            candidates = sorted(self._held - self._surrendered, key=lambda p: (p in self._busy, -p))
            self._surrendered.update(candidates[: max(0, count - len(self._surrendered))])

    def surrendered(self) -> set[int]:
        """Return the surrendered partitions that are idle now."""
        with self._lock:
            return self._surrendered - self._busy.keys()

    def stalled(self) -> list[int]:
        """Return the partitions whose drain makes no progress."""
        with self._lock:
            since = time.monotonic() - STALLED_AFTER_SECONDS
            return sorted(partition for partition, at in self._busy.items() if at < since)

    def close(self, timeout_seconds: float) -> bool:
        """Begin no further drain, and wait for those under way. Returns False if one did not end in time."""
        with self._lock:
            self._is_closed = True
            return self._lock.wait_for(lambda: not self._busy, timeout_seconds)

    def _holds(self, partition: int) -> bool:
        return (
            partition in self._held
            and partition not in self._surrendered
            and not self._is_closed
            and time.monotonic() < self._lease_until
        )
