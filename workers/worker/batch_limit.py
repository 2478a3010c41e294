"""
The rows of the next batch, at most.

A batch of more rows is cheaper for each of them. But a row that comes during a batch waits for its end. So a batch is
short while one partition has many rows and another one few, and on a machine where it would take long.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from processor.batch.run import BATCH_LIMIT

if TYPE_CHECKING:
    from processor.batch.run import BatchReport

#: The rows of a batch while one partition has many waiting rows and another one few, and the time for which this
#: counts, in seconds. A request in the other partition waits for one such batch and its own.
SHARED_LIMIT: Final = 150
SHARED_SECONDS: Final = 2.0
#: The longest time that a batch should take, in seconds. A drain without a commit for three seconds is stalled.
TARGET_SECONDS: Final = 0.5
#: The fewest rows, however long they take. A slow batch of so few says nothing about their number.
LEAST_LIMIT: Final = 50


class BatchLimit:
    """The limit of the next batch. It follows from the batches before, and belongs to one thread."""

    def __init__(self) -> None:
        self._limit = BATCH_LIMIT
        self._shared_until = 0.0

    def next(self) -> int:
        """Return the rows of the next batch, at most."""
        is_shared = time.monotonic() < self._shared_until
        return min(self._limit, SHARED_LIMIT) if is_shared else self._limit

    def note(self, report: BatchReport) -> None:
        """Learn from a batch that is committed."""
        if report.more and report.taken_from.keys() - report.more:
            self._shared_until = time.monotonic() + SHARED_SECONDS
        took = report.duration_ms / 1_000
        if took > TARGET_SECONDS and report.taken > LEAST_LIMIT:
            self._limit = max(LEAST_LIMIT, int(report.taken * TARGET_SECONDS / took))
        elif took < TARGET_SECONDS / 2:
            self._limit = min(BATCH_LIMIT, 2 * self._limit)
