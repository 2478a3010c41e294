"""
The metrics of one API process beside its HTTP requests.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from processor.reading.health import BACKLOG_MAX
from workers.doorbell.condition import CONDITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from api.web.long_poll import Waiters
    from processor.disk import Disk
    from processor.intake.intake import Intake
    from processor.reading.health import Health, RowCounts
    from processor.reading.requests import Gauges
    from processor.records.documents import RequestRecord
    from workers.doorbell.check import RedisCheck
    from workers.doorbell.ring import Doorbell

#: The time for which counts from the database are reused, because `/metrics` is public.
GAUGES_FRESH_SECONDS: Final = 1.0


def register(
    registry: CollectorRegistry,
    intake: Intake,
    waiters: Waiters[RequestRecord],
    doorbell: Doorbell,
    redis_check: RedisCheck,
    read_gauges: Callable[[], tuple[Gauges, RowCounts] | None],
    read_health: Callable[[], Health | None],
    read_disk: Callable[[], Disk | None],
    metrics_file: Path | None,
) -> None:
    """
    Add the metrics of this process, those of the database, and those of other processes in the same directory.

    `read_gauges` and `read_health` return None if the database is unavailable.
    """
    registry.register(_ProcessCollector(intake, waiters, doorbell, redis_check))
    registry.register(_DatabaseCollector(read_gauges))
    registry.register(_HealthCollector(read_health))
    registry.register(_DiskCollector(read_disk))
    if metrics_file is not None:
        registry.register(_FilesCollector(metrics_file.parent))


class _ProcessCollector(Collector):
    """Counts that other modules keep."""

    def __init__(
        self,
        intake: Intake,
        waiters: Waiters[RequestRecord],
        doorbell: Doorbell,
        redis_check: RedisCheck,
    ) -> None:
        self._intake = intake
        self._waiters = waiters
        self._doorbell = doorbell
        self._redis_check = redis_check

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "teller_intake_requests",
            "Requests passed to intake, including repeated ones.",
            self._intake.requests,
        )
        yield CounterMetricFamily(
            "teller_intake_groups",
            "INSERTs of intake: requests / groups is the mean group size.",
            self._intake.groups,
        )
        yield GaugeMetricFamily(
            "teller_waiting_answers", "Answers delayed by Prefer: wait.", self._waiters.count()
        )
        yield CounterMetricFamily(
            "teller_doorbell_faults",
            "Wake-ups that Redis refused; the sweep finds the work instead.",
            self._doorbell.faults,
        )
        impaired = GaugeMetricFamily(
            "teller_redis_impaired",
            "1: Redis carries no notifications, for this reason.",
            labels=["condition"],
        )
        present = self._redis_check.condition
        for condition in CONDITIONS:
            impaired.add_metric([condition], float(condition == present))
        yield impaired
        yield GaugeMetricFamily(
            "teller_standby_missing",
            "1: commits wait for a synchronous standby, so no request is accepted.",
            float(self._intake.waits_for_standby()),
        )


class _DatabaseCollector(Collector):
    """Counts for all processes, from the database."""

    def __init__(self, read: Callable[[], tuple[Gauges, RowCounts] | None]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._gauges: tuple[Gauges, RowCounts] | None = None
        self._read_at = -GAUGES_FRESH_SECONDS

    def describe(self) -> Iterator[Metric]:
        """Return nothing, so that registration needs no database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        latest = self._latest()
        if latest is None:
            return
        gauges, rows = latest
        yield GaugeMetricFamily(
            "teller_backlog", f"Rows that wait for a batch, up to {BACKLOG_MAX:,}.", rows.backlog
        )
        yield GaugeMetricFamily(
            "teller_deliveries_failed",
            "Deliveries to present webhooks that failed for good. Each can be sent again.",
            rows.deliveries_failed,
        )
        yield GaugeMetricFamily(
            "teller_parked_requests", "Failed requests, which an admin must replay or refund.", gauges.failed
        )
        yield CounterMetricFamily(
            "teller_paid_after_refund",
            "Requests whose gateway paid after their hold was released: check each.",
            gauges.paid_after_refund,
        )
        yield GaugeMetricFamily(
            "teller_deliveries_pending",
            "Pending webhook deliveries and e-mails.",
            gauges.deliveries_pending,
        )
        breakers = GaugeMetricFamily(
            "teller_gateway_breaker_open", "1: calls of the gateway are suspended.", labels=["gateway"]
        )
        for gateway, open_until in sorted(gauges.breakers.items()):
            breakers.add_metric([gateway], float(open_until is not None))
        yield breakers

    def _latest(self) -> tuple[Gauges, RowCounts] | None:
        with self._lock:
            if time.monotonic() - self._read_at >= GAUGES_FRESH_SECONDS:
                self._gauges = self._read()
                self._read_at = time.monotonic()
            return self._gauges


class _FilesCollector(Collector):
    """The sums of the metrics that workers and couriers keep in files."""

    def __init__(self, directory: Path) -> None:
        self._files = MultiProcessCollector(None, str(directory))  # type: ignore[no-untyped-call]  # it has no types

    def describe(self) -> Iterator[Metric]:
        """Return nothing: the other processes may not have started."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield from self._files.collect()  # type: ignore[no-untyped-call]  # as above


class _DiskCollector(Collector):
    """The disk of embedded servers."""

    def __init__(self, read: Callable[[], Disk | None]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        disk = self._read()
        yield GaugeMetricFamily(
            "teller_disk_nearly_full",
            "1: the disk of the embedded servers is nearly full.",
            float(disk is not None and disk.is_nearly_full),
        )


class _HealthCollector(Collector):
    """The numbers behind `/readyz`."""

    def __init__(self, read: Callable[[], Health | None]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Return nothing, so that registration needs no database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        health = self._read()
        if health is None:
            return
        yield GaugeMetricFamily(
            "teller_oldest_seconds", "Age of the oldest row that waits for a batch.", health.oldest_seconds
        )
        yield GaugeMetricFamily("teller_partitions_paused", "Paused partitions.", health.paused)
        yield GaugeMetricFamily(
            "teller_partitions_unowned", "Partitions without a worker for 10 s.", health.unowned
        )
        yield GaugeMetricFamily(
            "teller_partitions_undecided",
            "Partitions that are not paused and have work older than 10 s.",
            health.undecided,
        )
        yield CounterMetricFamily("teller_decided", "Requests that were decided, ever.", health.decided)
        yield GaugeMetricFamily(
            "teller_effects_overdue", "Gateway calls that have been due for 60 s.", health.effects_overdue
        )
        yield GaugeMetricFamily(
            "teller_deliveries_overdue",
            "1: a webhook delivery, mail or code has been due for 60 s.",
            float(health.has_overdue_deliveries),
        )
        yield GaugeMetricFamily(
            "teller_webhooks_failing", "Webhooks whose last tries failed.", health.webhooks_failing
        )
        unanswered = GaugeMetricFamily(
            "teller_gateway_unanswered",
            "Calls in a row without a definite answer, from three on and while calls are due.",
            labels=["gateway"],
        )
        for gateway, calls in sorted(health.unanswered.items()):
            unanswered.add_metric([gateway], calls)
        yield unanswered
