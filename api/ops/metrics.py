"""
What Prometheus may know about one API process beside its HTTP requests.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from api.web.long_poll import Waiters
    from processor.intake.intake import Intake
    from processor.reading.requests import Gauges
    from workers.doorbell.ring import Doorbell

#: What was counted in the database is told again for so long, in seconds: anybody may ask for it.
GAUGES_FRESH_SECONDS: Final = 1.0


def register(
    registry: CollectorRegistry,
    intake: Intake,
    waiters: Waiters,
    doorbell: Doorbell,
    read_gauges: Callable[[], Gauges | None],
) -> None:
    """
    Add the counts of this process, and what `read_gauges` finds in the database (None: it is unavailable).
    """
    registry.register(_Counted(intake, waiters, doorbell))
    registry.register(_Stored(read_gauges))


class _Counted(Collector):
    """What others count already."""

    def __init__(self, intake: Intake, waiters: Waiters, doorbell: Doorbell) -> None:
        self._intake = intake
        self._waiters = waiters
        self._doorbell = doorbell

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
        yield CounterMetricFamily(
            "teller_doorbell_faults",
            "Doorbells that Redis did not take; the sweep sees to what they told of.",
            self._doorbell.faults,
        )


class _Stored(Collector):
    """What the database counts for all processes."""

    def __init__(self, read: Callable[[], Gauges | None]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._gauges: Gauges | None = None
        self._read_at = -GAUGES_FRESH_SECONDS

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering asks no database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        gauges = self._latest()
        if gauges is None:
            return
        yield GaugeMetricFamily("teller_parked_requests", "Requests that wait for an admin.", gauges.parked)
        yield CounterMetricFamily(
            "teller_paid_after_refund",
            "Requests whose gateway paid after what they held was given back: look at each.",
            gauges.paid_after_refund,
        )
        yield GaugeMetricFamily(
            "teller_deliveries_pending",
            "Webhook deliveries and mails that are still to be made.",
            gauges.deliveries_pending,
        )
        breakers = GaugeMetricFamily(
            "teller_gateway_breaker_open", "1: the gateway is left alone for a moment.", labels=["gateway"]
        )
        for gateway, is_open in sorted(gauges.breakers.items()):
            breakers.add_metric([gateway], float(is_open))
        yield breakers

    def _latest(self) -> Gauges | None:
        with self._lock:
            if time.monotonic() - self._read_at >= GAUGES_FRESH_SECONDS:
                self._gauges = self._read()
                self._read_at = time.monotonic()
            return self._gauges
