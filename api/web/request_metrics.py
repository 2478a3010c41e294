"""
Counts and times of the HTTP requests of one process, in the registry that `/metrics` shows.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

#: Upper bounds of the latency buckets, in seconds; those above 3 hold what waited by request.
LATENCY_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 20.0)


class RequestMetrics:
    """What is counted of each answer. `registry` takes the collectors of others, too."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "teller_http_requests",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "teller_http_request_seconds",
            "Time to answer, waits by request included.",
            ["method", "route"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
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
        return generate_latest(self.registry)
