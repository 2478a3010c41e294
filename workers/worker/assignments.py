"""
The lanes of one worker process: which partitions it may drain, and which of them are being drained.

Shared by everything in the process that asks (consumers, drains, sweep) and by the one thread that decides
(`ownership`). Plain memory behind a lock: no Redis, no database.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

#: A drain that neither ends a batch nor returns for so long is stalled, in seconds.
STALLED_AFTER_SECONDS: Final = 3.0


class Lanes:
    """
    A partition is ours from `hold` until `lose`, `lose_all` or the end of the lease, by the monotonic clock,
    which goes on while the process is stopped: who wakes up after that, finds that nothing is his.
    `on_surrender` is called when the drain of a partition that is to be let go of has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._held: set[int] = set()
        self._surrendered: set[int] = set()
        self._lease_until = 0.0
        self._closed = False
        #: Partition → when its drain last got something done.
        self._busy: dict[int, float] = {}
        #: Partitions that were rung while they were being drained.
        self._again: set[int] = set()
        self.on_surrender: Callable[[], None] = lambda: None

    # ---------------------------------------------------------------- whoever drains

    def holds(self, partition: int) -> bool:
        """Whether this process may begin a batch of the partition now."""
        with self._lock:
            return self._holds(partition)

    def held(self) -> set[int]:
        """All that it may."""
        with self._lock:
            return {partition for partition in self._held if self._holds(partition)}

    def enter(self, partition: int) -> bool:
        """
        Begin to drain, unless it isn't ours. If another thread of ours is at it, it goes round once more
        instead: it may have looked already when the caller's work was committed.
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
        """A batch is done."""
        with self._lock:
            self._busy[partition] = time.monotonic()

    def exit(self, partition: int) -> bool:
        """
        End a drain. True: it was rung in the meantime, and somebody must look again.
        """
        with self._lock:
            del self._busy[partition]
            rung = partition in self._again
            self._again.discard(partition)
            surrendered = partition in self._surrendered
            self._lock.notify_all()
        if surrendered:
            self.on_surrender()
        return rung

    def is_busy(self, partition: int) -> bool:
        """Whether a thread of ours is draining it."""
        with self._lock:
            return partition in self._busy

    # ---------------------------------------------------------------- whoever decides

    def hold(self, partitions: Collection[int], lease_until: float) -> set[int]:
        """
        These are ours, until then (monotonic seconds), and no others. Returns those that may be drained
        and could not be before.
        """
        with self._lock:
            before = {partition for partition in self._held if self._holds(partition)}
            self._held = set(partitions)
            self._surrendered &= self._held
            self._lease_until = lease_until
            return {partition for partition in self._held if self._holds(partition)} - before

    def lose_all(self) -> None:
        """Nothing is ours any more."""
        with self._lock:
            self._held.clear()
            self._surrendered.clear()
            self._lease_until = 0.0

    def surrender(self, count: int) -> None:
        """Begin no more batches of so many partitions: those that are idle first."""
        with self._lock:
            candidates = sorted(self._held - self._surrendered, key=lambda p: (p in self._busy, -p))
            self._surrendered.update(candidates[: max(0, count - len(self._surrendered))])

    def surrendered(self) -> set[int]:
        """Those among them that no batch is under way of."""
        with self._lock:
            return self._surrendered - self._busy.keys()

    def stalled(self) -> list[int]:
        """Partitions whose drain gets nothing done."""
        with self._lock:
            since = time.monotonic() - STALLED_AFTER_SECONDS
            return sorted(partition for partition, at in self._busy.items() if at < since)

    def close(self, timeout_seconds: float) -> bool:
        """Begin no batch any more; wait for those under way. False: one did not end in time."""
        with self._lock:
            self._closed = True
            return self._lock.wait_for(lambda: not self._busy, timeout_seconds)

    def _holds(self, partition: int) -> bool:
        return (
            partition in self._held
            and partition not in self._surrendered
            and not self._closed
            and time.monotonic() < self._lease_until
        )
