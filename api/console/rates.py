"""
The requests accepted and decided per second, from counters of the database.

Each reading of the counters is a sample in the memory of this API process. A rate is the difference between two
samples of one process, so it is correct for any number of processes. Without readers the database is not queried.
"""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from processor.reading import activity
from processor.reading import overview as overview_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from processor.reading.activity import Activity
    from processor.reading.overview import Pulse
    from processor.storage.connections import Connection

#: The time that the charts show.
WINDOW_SECONDS: Final = 120
#: Readers within this time share one query.
FRESH_SECONDS: Final = 0.9
#: Readers within this time share the counts of hour, day and week.
ACTIVITY_SECONDS: Final = 10.0
#: After a longer time between two samples the charts start again.
GAP_SECONDS: Final = 20.0


class Sample(NamedTuple):
    """The counters of all partitions at one time."""

    #: Seconds, by the clock of the database.
    at: float
    accepted: int
    decided: int
    waiting: int
    oldest_seconds: float
    failed: int
    held: int


class Rate(NamedTuple):
    """The rates per second between the sample before and the sample at this time."""

    at: float
    accepted: float
    decided: float


class Rates:
    """The last samples of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque()
        self._pulse: Pulse | None = None
        self._fresh_until = 0.0
        self._activity: list[Activity] = []
        self._activity_until = 0.0

    def look(
        self, lend: Callable[[], AbstractContextManager[Connection]], now: float
    ) -> tuple[Pulse, list[Sample]]:
        """
        Return the present state, and the samples including it, oldest first.

        `lend` gives a connection for a query. `now` are the seconds of a monotonic clock. Raises DatabaseUnavailable.
        """
        with self._lock:
            if self._pulse is None or now >= self._fresh_until:
                with lend() as connection:
                    self._pulse = overview_queries.read_pulse(connection)
                self._add(sample_of(self._pulse))
                self._fresh_until = now + FRESH_SECONDS
            return self._pulse, list(self._samples)

    def activity(self, lend: Callable[[], AbstractContextManager[Connection]], now: float) -> list[Activity]:
        """
        Return the counts of the last hour, day and week. They may be ACTIVITY_SECONDS old.

        Raises DatabaseUnavailable.
        """
        with self._lock:
            if now >= self._activity_until:
                with lend() as connection:
                    self._activity = activity.read_activity(connection, datetime.now(UTC))
                self._activity_until = now + ACTIVITY_SECONDS
            return self._activity

    def _add(self, sample: Sample) -> None:
        if self._samples and sample.at - self._samples[-1].at > GAP_SECONDS:
            self._samples.clear()
        self._samples.append(sample)
        while self._samples[0].at < sample.at - WINDOW_SECONDS:
            self._samples.popleft()


def sample_of(pulse: Pulse) -> Sample:
    """
    Return the sums over all partitions.
    """
    decided = sum(one.decided for one in pulse.partitions)
    return Sample(
        pulse.at.timestamp(),
        decided + sum(one.undecided for one in pulse.partitions),
        decided,
        sum(one.backlog for one in pulse.partitions),
        max((one.oldest_seconds or 0.0 for one in pulse.partitions), default=0.0),
        pulse.gauges.failed,
        pulse.held,
    )


def rates_of(samples: Sequence[Sample]) -> list[Rate]:
    """
    Return the rates between each two samples.
    """
    return [
        Rate(
            later.at,
            max(later.accepted - sooner.accepted, 0) / (later.at - sooner.at),
            max(later.decided - sooner.decided, 0) / (later.at - sooner.at),
        )
        for sooner, later in pairwise(samples)
        if later.at > sooner.at
    ]
