"""
Accepted and decided per second, from counters of the database: right whatever the number of API processes.

A process keeps a sample of each look, for as long as somebody looks: nobody looking costs nothing. What it shows is
the difference of counters between its own looks, so another process's looks do not matter.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from processor.reading import overview as overview_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from processor.reading.overview import Pulse
    from processor.storage.connections import Connection

#: What the charts show, in seconds.
WINDOW_SECONDS: Final = 120
#: Looks within this share one reading of the database, in seconds.
FRESH_SECONDS: Final = 0.9
#: After a pause that long nothing is known of the time between: the charts begin anew, in seconds.
GAP_SECONDS: Final = 20.0


class Sample(NamedTuple):
    """Counters of all of Teller at one moment."""

    #: Seconds, by the clock of the database.
    at: float
    accepted: int
    decided: int
    waiting: int
    oldest_seconds: float
    failed: int
    held: int


class Rate(NamedTuple):
    """What happened per second, until a moment."""

    at: float
    accepted: float
    decided: float


class Rates:
    """The last looks of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque()
        self._pulse: Pulse | None = None
        self._fresh_until = 0.0

    def look(
        self, lend: Callable[[], AbstractContextManager[Connection]], now: float
    ) -> tuple[Pulse, list[Sample]]:
        """
        How everything is, and how it was, oldest first, this look included. `lend` gives a connection for a reading;
        `now`: seconds of a clock that never goes back. Raises DatabaseUnavailable.
        """
        with self._lock:
            if self._pulse is None or now >= self._fresh_until:
                with lend() as connection:
                    self._pulse = overview_queries.read_pulse(connection)
                self._note(sample_of(self._pulse))
                self._fresh_until = now + FRESH_SECONDS
            return self._pulse, list(self._samples)

    def _note(self, sample: Sample) -> None:
        if self._samples and sample.at - self._samples[-1].at > GAP_SECONDS:
            self._samples.clear()
        self._samples.append(sample)
        while self._samples[0].at < sample.at - WINDOW_SECONDS:
            self._samples.popleft()


def sample_of(pulse: Pulse) -> Sample:
    """The sums over all partitions."""
    decided = sum(lane.decided for lane in pulse.partitions)
    return Sample(
        pulse.at.timestamp(),
        decided + sum(lane.undecided for lane in pulse.partitions),
        decided,
        sum(lane.backlog for lane in pulse.partitions),
        max((lane.oldest_seconds or 0.0 for lane in pulse.partitions), default=0.0),
        pulse.gauges.failed,
        pulse.held,
    )


def rates_of(samples: Sequence[Sample]) -> list[Rate]:
    """Between each two looks; none after the first one."""
    return [
        Rate(
            later.at,
            max(later.accepted - sooner.accepted, 0) / (later.at - sooner.at),
            max(later.decided - sooner.decided, 0) / (later.at - sooner.at),
        )
        for sooner, later in pairwise(samples)
        if later.at > sooner.at
    ]
