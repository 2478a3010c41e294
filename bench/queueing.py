"""
Simulates how long requests wait for the batch that decides them. It has partitions and workers, and no database.

Each worker has an equal share of the partitions. Its one thread takes all that waits into one batch, up to the limit.
The duration of a batch follows from its rows, by measured points. Nothing else costs time, so each worker must have a
core for itself and for its part of PostgreSQL.
"""

from __future__ import annotations

import bisect
import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.fill import partition
from processor.batch.run import BATCH_LIMIT
from workers.worker.drain import BUSY_ROWS, GATHER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Arrival:
    """One accepted request: its time in seconds, and its partition."""

    at: float
    partition: int


@dataclass(frozen=True)
class Durations:
    """The duration of a batch in seconds, by its rows. `points` ascend. Between two of them the line is straight."""

    points: tuple[tuple[float, float], ...]
    #: The time from a commit to the batch of a worker that was idle, in seconds: the doorbell.
    wake_up: float

    def of(self, rows: int) -> float:
        """Return the duration of a batch. Beyond the points, it is that of the nearest one."""
        place = bisect.bisect_left(self.points, (rows, 0.0))
        if place == 0:
            return self.points[0][1]
        if place == len(self.points):
            return self.points[-1][1]
        (less, before), (more, after) = self.points[place - 1], self.points[place]
        return before + (after - before) * (rows - less) / (more - less)


@dataclass(frozen=True)
class Waits:
    """The waits of one run, and the work of its workers."""

    #: Seconds from the acceptance to the batch that took each request, and to the end of this batch.
    until_taken: list[float]
    until_decided: list[float]
    batches: int
    #: The share of the time in which each worker was in a batch.
    busy: list[float]

    @property
    def rows(self) -> float:
        """The rows of a batch, on average."""
        return len(self.until_taken) / self.batches


def arrivals(
    rate: float,
    seconds: float,
    resources: int,
    exponent: float,
    partitions: int,
    seed: int,
    *,
    even: bool = False,
) -> list[Arrival]:
    """
    Draw requests that come independently of each other, at `rate` a second, or at `even` intervals.

    The resource with rank r is asked for in proportion to r ** -exponent. An exponent of 0 spreads them evenly.
    """
    drawn = random.Random(f"{seed}/{rate}/{resources}/{exponent}/{partitions}")
    places = [partition(number, partitions) for number in range(1, resources + 1)]
    weights = list(itertools.accumulate(rank**-exponent for rank in range(1, resources + 1)))
    intervals = itertools.repeat(1 / rate) if even else iter(lambda: drawn.expovariate(rate), None)
    times = list(itertools.takewhile(lambda at: at < seconds, itertools.accumulate(intervals)))
    return list(map(Arrival, times, drawn.choices(places, cum_weights=weights, k=len(times))))


def simulate(requests: Iterable[Arrival], partitions: int, workers: int, durations: Durations) -> Waits:
    """Run all workers over requests that ascend by time."""
    shares: list[list[float]] = [[] for _ in range(workers)]
    for request in requests:
        shares[request.partition * workers // partitions].append(request.at)
    waits = Waits([], [], 0, [])
    batches = 0
    end = max((share[-1] for share in shares if share), default=0.0)
    for share in shares:
        count, busy = _drain(share, durations, waits)
        batches += count
        waits.busy.append(busy / end if end else 0.0)
    return Waits(waits.until_taken, waits.until_decided, batches, waits.busy)


def _drain(times: Sequence[float], durations: Durations, waits: Waits) -> tuple[int, float]:
    """Run one worker, and note the waits. Returns its number of batches, and the time in them."""
    batches, busy, free_at, done = 0, 0.0, 0.0, 0
    while done < len(times):
        began = max(free_at, times[done] + durations.wake_up)
        end = min(bisect.bisect_right(times, began, lo=done), done + BATCH_LIMIT)
        rows = end - done
        took = durations.of(rows)
        for at in times[done:end]:
            waits.until_taken.append(began - at)
            waits.until_decided.append(began + took - at)
        batches, busy, done = batches + 1, busy + took, end
        free_at = began + took + (min(took, GATHER_SECONDS) if rows >= BUSY_ROWS else 0.0)
    return batches, busy
