"""
What Prometheus may know about one API process, in a registry of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from api.waiting import Waiters
    from processor.intake import Intake

#: Upper bounds of the latency buckets, in seconds; those above 3 hold what waited by request.
LATENCY_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 20.0)


class Metrics:
    """Counts of this process."""

    def __init__(self, intake: Intake, waiters: Waiters) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Counted(intake, waiters))
        self._requests = Counter(
            "teller_http_requests",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "teller_http_request_seconds",
            "Time to answer, waits by request included.",
            ["method", "route"],
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        # Looking up a child by its labels costs more than counting.
        self._counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered. `route` is the route's pattern, never the address itself."""
        children = self._counters.get((method, route, status))
        if children is None:
            children = self._requests.labels(method, route, status), self._seconds.labels(method, route)
            self._counters[method, route, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _Counted(Collector):
    """What others count already."""

    def __init__(self, intake: Intake, waiters: Waiters) -> None:
        self._intake = intake
        self._waiters = waiters

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "teller_intake_requests",
            "Requests handed to intake, repetitions included.",
            self._intake.requests,
        )
        yield CounterMetricFamily(
            "teller_intake_groups",
            "INSERTs that they shared: requests / groups is the group size.",
            self._intake.groups,
        )
        yield GaugeMetricFamily(
            "teller_waiting_answers", "Answers held back by Prefer: wait.", self._waiters.count()
        )
