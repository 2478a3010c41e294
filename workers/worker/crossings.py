"""
Requests whose legs are in partitions of several workers: the batches that decide them.

The worker of the home partition applies such a batch. It takes the locks of all partitions of the request, also of
those that other workers hold, and waits for them. It rings for rows that it leaves in their partitions.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from processor.batch.run import BatchReport

#: The rows of such a batch, at most. Other workers wait for its locks.
ROWS_MAX: Final = 1_000
#: The first and the longest pause after a lock was not granted in time, in seconds. The pause doubles, and is
#: shortened by a random part of up to a half.
RETRY_FIRST_SECONDS: Final = 0.02
RETRY_LONGEST_SECONDS: Final = 0.5


class Steps(NamedTuple):
    """The steps that follow from the requests that a batch left to another one."""

    #: Partitions of this worker that must be in one batch.
    together: set[int]
    #: Home partitions of other workers, which must be notified.
    homes: set[int]


class Crossings:
    """The next batch over partitions of several workers. It belongs to the thread of the drain."""

    def __init__(self) -> None:
        self._needed: set[int] = set()
        self._try_at = 0.0
        self._pause = RETRY_FIRST_SECONDS

    def note(
        self, report: BatchReport, held: Collection[int], apart: Collection[int], *, is_stuck: bool = False
    ) -> Steps:
        """
        Learn from a batch, and return what follows. `held` are the partitions of this worker.

        A request waits until a paused partition is resumed. With partitions of this worker alone, it also waits until
        one that is set `apart`, or that another backend has locked, is tried again. Each of these leads to a batch
        that finds the request once more.

        `is_stuck`: a batch over several workers decided nothing, because its requests are behind others.
        Those are then decided here, because their workers may find the locks taken whenever they try.
        """
        steps = Steps(set(), set())
        held = set(held)
        for crossing in report.crossings:
            if crossing.home not in held:
                steps.homes.add(crossing.home)
                if is_stuck and report.paused.isdisjoint(crossing.partitions):
                    self._needed |= crossing.partitions
            elif not report.paused.isdisjoint(crossing.partitions):
                continue
            elif not held.issuperset(crossing.partitions):
                self._needed |= crossing.partitions
            elif crossing.partitions.isdisjoint((*report.locked, *apart)):
                steps.together.update(crossing.partitions)
        if not steps.together.isdisjoint(self._needed):  # they wait for that batch, and it can have them all
            self._needed |= steps.together
            steps.together.clear()
        return steps

    def need(self, partitions: Iterable[int]) -> None:
        """Take these partitions into the next batch."""
        self._needed.update(partitions)

    @property
    def partitions(self) -> set[int]:
        """
        The partitions of the next batch. Rows there wait behind requests with legs, so no other batch decides them.
        """
        return self._needed

    def wait_seconds(self) -> float | None:
        """Return the time until the next batch is due, in seconds; None if none is needed."""
        return max(0.0, self._try_at - time.monotonic()) if self._needed else None

    def take(self) -> set[int]:
        """Return the partitions of the batch that is due now; none if there is none."""
        if self.wait_seconds() != 0.0:
            return set()
        taken, self._needed = self._needed, set()
        return taken

    def pause(self, partitions: Collection[int]) -> float:
        """Try these again after a pause, because a lock was not granted. Returns the pause in seconds."""
        self._needed |= set(partitions)
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - spreads load, protects nothing
        self._try_at = time.monotonic() + pause
        self._pause = min(2 * self._pause, RETRY_LONGEST_SECONDS)
        return pause

    def succeed(self) -> None:
        """Begin with the first pause again: the locks were granted."""
        self._try_at, self._pause = 0.0, RETRY_FIRST_SECONDS
