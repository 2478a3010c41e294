"""
The simulation of the benchmarks: simple systems, whose waits are known without it.
"""

from __future__ import annotations

import pytest

from bench import queueing
from bench.queueing import Arrival, Durations
from processor.batch.run import BATCH_LIMIT

#: A batch lasts a second with one row, and 1.1 s with eleven.
DURATIONS = Durations(((1, 1.0), (11, 1.1)), wake_up=0.25)


def test_one_request_waits_for_the_doorbell_and_its_batch() -> None:
    """Its worker was idle."""
    waits = queueing.simulate([Arrival(5.0, 0)], 64, 2, DURATIONS)

    assert waits.until_taken == [0.25]
    assert waits.until_decided == [1.25]
    assert (waits.batches, waits.rows) == (1, 1)
    assert waits.busy == [0.2, 0.0]


def test_requests_that_come_during_a_batch_share_the_next_one() -> None:
    """The second batch has the three that came meanwhile, whatever their partition."""
    requests = [Arrival(0.0, 0), Arrival(0.5, 1), Arrival(0.75, 2), Arrival(1.0, 0)]

    waits = queueing.simulate(requests, 64, 1, DURATIONS)

    assert waits.until_taken == [0.25, 0.75, 0.5, 0.25]
    assert waits.batches == 2
    assert waits.until_decided[1:] == pytest.approx([1.77, 1.52, 1.27])


def test_workers_do_not_wait_for_each_other() -> None:
    """Each has half of the partitions."""
    waits = queueing.simulate([Arrival(0.0, 0), Arrival(0.5, 63)], 64, 2, DURATIONS)

    assert waits.until_taken == [0.25, 0.25]


def test_a_batch_has_a_limit() -> None:
    """Further rows form the next one."""
    waits = queueing.simulate([Arrival(0.0, 0)] * (BATCH_LIMIT + 1), 64, 1, DURATIONS)

    assert waits.batches == 2
    assert waits.until_taken[-1] > waits.until_taken[0] + 1


@pytest.mark.parametrize(("rows", "seconds"), [(0, 1.0), (1, 1.0), (6, 1.05), (11, 1.1), (2_000, 1.1)])
def test_the_duration_lies_between_measured_points(rows: int, seconds: float) -> None:
    """Beyond them, it is that of the nearest one."""
    assert DURATIONS.of(rows) == pytest.approx(seconds)


def test_arrivals_have_the_rate_and_the_distribution() -> None:
    """A draw is repeated by its seed. By Zipf, the first of a thousand resources gets an eighth of all."""
    even = queueing.arrivals(1_000, 10, 1, 0.0, 64, seed=1)
    assert even == queueing.arrivals(1_000, 10, 1, 0.0, 64, seed=1)
    assert len(even) == pytest.approx(10_000, rel=0.05)

    by_zipf = queueing.arrivals(1_000, 10, 1_000, 1.0, 4_096, seed=1)
    places = [one.partition for one in by_zipf]
    assert max(map(places.count, set(places))) / len(places) == pytest.approx(0.134, abs=0.02)
