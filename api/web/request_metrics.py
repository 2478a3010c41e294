"""
Counts and durations of the HTTP requests of one process, in the registry that `/metrics` shows.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

#: Upper bounds of the latency buckets, in seconds. Those above 3 are for `Prefer: wait`.
LATENCY_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 20.0)


class RequestMetrics:
    """The metrics of answers. Other modules add their collectors to `registry`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types there
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "teller_http_requests",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "teller_http_request_seconds",
            "Time to answer, including Prefer: wait.",
            ["method", "route"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        # To find a child by its labels costs more than to count.
        self._counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer. `route` is the pattern of the route, never the address itself."""
        children = self._counters.get((method, route, status))
        if children is None:
            children = self._requests.labels(method, route, status), self._seconds.labels(method, route)
            self._counters[method, route, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their media type: OpenMetrics if `accept` has it, else Prometheus' text format."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
