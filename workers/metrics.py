"""
The metrics of a worker or courier process.

They are served at TELLER_METRICS_PORT. Below `teller up`, they are kept in files that the API reads instead, so a
process that was suspended or restarted still counts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from http.server import HTTPServer
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    values,
)
from prometheus_client.exposition import MetricsHandler

from processor.domain.model import Outcome
from processor.errors import ServerError
from processor.outbox.tries import Concern, DeliveryStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from processor.settings import Settings

#: Upper bounds of the buckets: of the duration of a batch in seconds, and of its rows.
BATCH_SECONDS_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0)
BATCH_ROWS_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)
#: The bytes of a file of metrics, which are written before it is used: a full disk must not end the process.
FILE_BYTES: Final = 1 << 16
#: The kinds of metrics that have a file each.
FILE_KINDS: Final = ("counter", "histogram")
#: The time for which one reader of the metrics may keep the others waiting, in seconds.
READER_SECONDS: Final = 2.0

#: The kinds of deliveries.
Channel = Literal["webhook", "mail", "notice", "code"]

log = structlog.get_logger(__name__)


class WorkerMetrics:
    """The metrics of a worker."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types there
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._batch_seconds = Histogram(
            "teller_batch_seconds",
            "Duration of a batch with rows.",
            buckets=BATCH_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._batch_rows = Histogram(
            "teller_batch_rows", "Rows of a batch.", buckets=BATCH_ROWS_BUCKETS, registry=self.registry
        )
        self._swept = Counter(
            "teller_swept", "Rows that the sweep found, because no doorbell came.", registry=self.registry
        )
        self._expired = Counter(
            "teller_reservations_expired",
            "Reservations whose hold ended because they were not captured in time.",
            registry=self.registry,
        )

        self._without_wake_ups = Counter(
            "teller_wake_ups_unavailable_seconds",
            "Time for which Redis carried no doorbells, and the sweep found all work.",
            registry=self.registry,
        )

    def count_batch(self, rows: int, seconds: float) -> None:
        """Count a batch. One without rows does not count."""
        if rows:
            self._batch_seconds.observe(seconds)
            self._batch_rows.observe(rows)

    def count_swept(self, rows: int) -> None:
        """Count rows that no doorbell reported."""
        self._swept.inc(rows)

    def count_expired(self, reservations: int) -> None:
        """Count reservations whose time was over."""
        self._expired.inc(reservations)

    def count_without_wake_ups(self, seconds: float) -> None:
        """Count time without doorbells."""
        self._without_wake_ups.inc(seconds)


class CourierMetrics:
    """The metrics of a courier. Each series is there from the start, with zero."""

    def __init__(self, gateways: Iterable[str]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types there
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gateway_calls = Counter(
            "teller_gateway_calls", "Calls of gateways.", ["gateway", "outcome"], registry=self.registry
        )
        self._deliveries = Counter(
            "teller_deliveries",
            "Tries to deliver: delivered, pending (it is tried again), failed (it was given up).",
            ["channel", "result"],
            registry=self.registry,
        )
        self._mail_faults = Counter(
            "teller_mail_faults",
            "Mails that a try did not send, by the subject of the fault. `sender`: this installation may not send.",
            ["concern"],
            registry=self.registry,
        )
        for concern in get_args(Concern):
            self._mail_faults.labels(concern)
        #: Found once, because a look-up takes longer than a count.
        self._calls = {
            labels: self._gateway_calls.labels(*labels) for labels in product(gateways, get_args(Outcome))
        }
        for labels in product(get_args(Channel), get_args(DeliveryStatus)):
            self._deliveries.labels(*labels)

    def count_call(self, gateway: str, outcome: Outcome) -> None:
        """Count the answer of a gateway."""
        series = self._calls.get((gateway, outcome)) or self._gateway_calls.labels(gateway, outcome)
        series.inc()

    def count_delivery(self, channel: Channel, result: DeliveryStatus) -> None:
        """Count a try to deliver."""
        self._deliveries.labels(channel, result).inc()

    def count_mail_fault(self, concern: Concern) -> None:
        """Count a mail that was not sent."""
        self._mail_faults.labels(concern).inc()


def keep_in_files(settings: Settings) -> None:
    """
    Keep the metrics that are made from now on in files, if `teller up` has asked for it.

    They continue those of the process of the same name before. Without space on the disk they stay in memory.
    """
    if settings.metrics_file is None:
        return
    directory, name = settings.metrics_file.parent, settings.metrics_file.name
    try:
        for kind in FILE_KINDS:
            _allocate(directory / f"{kind}_{name}.db")
    except OSError as fault:
        log.warning("metrics_not_collected", fault=str(fault))
        return
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]  # as above


def _allocate(path: Path) -> None:
    """Make a file whose blocks exist. A reader sees all of it or nothing."""
    if path.exists():
        return
    new = path.with_suffix(".new")
    new.write_bytes(bytes(FILE_BYTES))
    new.rename(path)


@contextlib.contextmanager
def served(settings: Settings, registry: CollectorRegistry) -> Iterator[None]:
    """
    Serve the metrics at TELLER_METRICS_PORT, if it is set, to one reader at a time. Raises ServerError.
    """
    if not settings.metrics_port:
        yield
        return
    server = _listen(settings.host, settings.metrics_port, registry)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _listen(host: str, port: int, registry: CollectorRegistry) -> HTTPServer:
    class Handler(MetricsHandler):
        """Ends a connection whose client is slow."""

        timeout = READER_SECONDS

    class Server(HTTPServer):
        """Listens on an address of either family."""

        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore a client that disconnected."""

    Handler.registry = registry
    try:
        return Server((host, port), Handler)
    except OSError as fault:
        raise ServerError(
            f"cannot listen on {host}:{port}: {fault.strerror} (TELLER_HOST, TELLER_METRICS_PORT)"
        ) from fault
