"""
Assignments: the partitions that one worker process may drain now, and those whose work is in a batch.

Consumers, the drain and the sweep read them, and only the heartbeat changes them. They are memory behind a lock.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

#: The time without a committed batch after which a partition with work counts as stalled, in seconds.
STALLED_AFTER_SECONDS: Final = 3.0


class Assignments:
    """
    A partition may be drained from `hold` until `lose_all`, its surrender, or the end of the lease.

    The lease ends by the monotonic clock, which also runs while the process is suspended. So a process that was
    suspended for longer than its lease holds no partition when it continues. `on_surrender` is called when the batch
    of a surrendered partition has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._held: set[int] = set()
        self._surrendered: set[int] = set()
        self._lease_until = 0.0
        self._is_closed = False
        #: Partition → the time since which its work waits for a batch to be committed.
        self._busy: dict[int, float] = {}
        self.on_surrender: Callable[[], None] = lambda: None

    # ---------------------------------------------------------------- for the drain

    def holds(self, partition: int) -> bool:
        """Return whether this process may begin a batch of the partition now."""
        with self._lock:
            return self._holds(partition)

    def held(self) -> set[int]:
        """Return all partitions that this process may drain now."""
        with self._lock:
            return {partition for partition in self._held if self._holds(partition)}

    def enter(self, partitions: Collection[int]) -> set[int]:
        """
        Begin a batch. Returns those of the partitions that are held, and may be drained.

        One that enters again before its exit, to be retried, has made no progress since it first entered.
        """
        with self._lock:
            entered = {partition for partition in partitions if self._holds(partition)}
            now = time.monotonic()
            for partition in entered:
                self._busy.setdefault(partition, now)
            return entered

    def exit(self, partitions: Collection[int]) -> None:
        """End a batch: it is committed, or these partitions are no longer held."""
        with self._lock:
            for partition in partitions:
                self._busy.pop(partition, None)
            surrendered = not self._surrendered.isdisjoint(partitions)
            self._lock.notify_all()
        if surrendered:
            self.on_surrender()

    def is_busy(self, partition: int) -> bool:
        """Return whether the partition has entered a batch."""
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
        """Return the partitions that have work and make no progress."""
        with self._lock:
            since = time.monotonic() - STALLED_AFTER_SECONDS
            return sorted(partition for partition, at in self._busy.items() if at < since)

    def close(self, timeout_seconds: float) -> bool:
        """Begin no further batch, and wait for the one under way. Returns False if it did not end in time."""
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
