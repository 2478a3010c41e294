"""
One worker process, from start to stop: the composition root of `teller worker`.

It starts while PostgreSQL or Redis are unavailable, and waits.
"""

from __future__ import annotations

import functools
import signal
import threading
from typing import TYPE_CHECKING, Final

import dramatiq
import structlog

from processor.errors import DatabaseUnavailable, DatabaseUnsafe
from processor.storage import connections, migrations
from processor.tracing import spans
from workers.collector import rest_collector
from workers.doorbell.check import RedisCheck
from workers.doorbell.names import Names
from workers.doorbell.ring import ACTOR_NAME, Doorbell
from workers.metrics import WorkerMetrics, keep_in_files, served
from workers.worker import heartbeat, sweep
from workers.worker.assignments import Assignments
from workers.worker.broker import WakingBroker
from workers.worker.drain import Drainer
from workers.worker.heartbeat import OwnershipThread
from workers.worker.sweep import Sweep

if TYPE_CHECKING:
    from processor.settings import Settings
    from processor.storage.migrations import Installation

#: The threads on which Dramatiq calls the actor, which only marks a partition. Each waits while Redis finishes the
#: message.
ACTOR_THREADS: Final = 4
#: The interval at which an idle thread of Dramatiq checks for its end, in milliseconds.
DRAMATIQ_IDLE_MS: Final = 1_000
#: The pause between two tries to reach PostgreSQL at the start, in seconds.
START_RETRY_SECONDS: Final = 0.5
#: The time that a stop waits for the batch under way, and for Dramatiq's threads, in seconds.
BATCH_END_SECONDS: Final = 2.5
DRAMATIQ_END_SECONDS: Final = 1.5

log = structlog.get_logger(__name__)


def run_worker(settings: Settings) -> int:
    """
    Drain until SIGTERM or SIGINT. Then finish the batch under way and release the partitions. Returns 0.

    Called on the main thread. Raises SchemaError if the schema does not match, DatabaseUnsafe if a setting of the
    server breaks a promise. Raises ServerError if the port of the metrics is taken.
    """
    rest_collector()
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    installation = _installation(settings.worker_database_url, stop)
    if installation is None:
        return 0
    keep_in_files(settings)
    metrics = WorkerMetrics()
    spans.begin("worker")
    with served(settings, metrics.registry):
        worker = WorkerProcess(settings, installation, metrics)
        worker.start()
        stop.wait()
        worker.stop()
    spans.end()
    return 0


class WorkerProcess:
    """The parts of a worker process, and the order in which they start and stop."""

    def __init__(self, settings: Settings, installation: Installation, metrics: WorkerMetrics) -> None:
        connect = functools.partial(connections.connect, settings.worker_database_url)
        names = Names(installation.id)
        self._assignments = Assignments()
        self._broker = WakingBroker(
            settings.redis_url,
            names,
            installation.partitions,
            self._assignments,
            self._on_ownership_changed,
        )
        self._check = RedisCheck(
            settings.redis_url,
            lambda: names,
            listener=self._broker.listener,
            on_change=self._on_redis_changed,
        )
        self._doorbell = Doorbell(settings.redis_url, lambda: names, self._check)
        self._drainer = Drainer(
            functools.partial(connect, application_name="teller worker drain"),
            self._assignments,
            self._doorbell,
            metrics,
        )
        self._ownership = OwnershipThread(
            functools.partial(
                connect,
                application_name="teller worker ownership",
                statement_timeout_ms=heartbeat.STATEMENT_TIMEOUT_MS,
            ),
            installation.partitions,
            self._assignments,
            self._doorbell,
            on_gain=self._gain,
        )
        self._sweep = Sweep(
            functools.partial(
                connect,
                application_name="teller worker sweep",
                statement_timeout_ms=sweep.STATEMENT_TIMEOUT_MS,
            ),
            self._drainer,
            self._assignments,
            self._doorbell,
            self._check,
            metrics,
        )
        # One actor for all queues: the message names the queue, its argument the partition.
        dramatiq.actor(queue_name=min(self._broker.queues), actor_name=ACTOR_NAME, broker=self._broker)(
            self._drainer.answer
        )
        self._dramatiq = dramatiq.Worker(
            self._broker, worker_threads=ACTOR_THREADS, worker_timeout=DRAMATIQ_IDLE_MS
        )

    def start(self) -> None:
        """Start all threads."""
        self._broker.listener.start()
        self._check.start()
        self._dramatiq.start()
        self._drainer.start()
        self._sweep.start()
        self._ownership.start()

    def stop(self) -> None:
        """
        Stop in order. A fault here loses nothing: leases expire, and rows stay in the inbox.
        """
        log.info("worker_stopping")
        self._drainer.stop()
        if not self._assignments.close(BATCH_END_SECONDS):
            log.warning("batch_left_behind")  # it ends with its connection, and another worker takes its rows
        self._ownership.stop()
        self._broker.end()
        self._broker.listener.stop()
        self._sweep.stop()
        self._check.stop()
        self._dramatiq.stop(timeout=int(DRAMATIQ_END_SECONDS * 1_000))
        self._doorbell.close()  # last: until here, threads notify and acknowledge
        log.info("worker_stopped")

    def _on_ownership_changed(self) -> None:
        self._ownership.wake()

    def _on_redis_changed(self) -> None:
        self._sweep.wake()

    def _gain(self, gained: set[int]) -> None:
        self._drainer.take_over(gained)
        self._broker.wake(gained)


def _installation(url: str, stop: threading.Event) -> Installation | None:
    """
    Read the installation when PostgreSQL is available. Returns None if `stop` is set before.

    Raises SchemaError, DatabaseUnsafe.
    """
    is_unavailable = False
    while not stop.is_set():
        try:
            with (
                connections.connect(url, application_name="teller worker") as connection,
                connections.faults(),
            ):
                return migrations.read_installation(connection)
        except DatabaseUnsafe:
            raise
        except DatabaseUnavailable as fault:
            if not is_unavailable:
                is_unavailable = True
                log.warning("database_unavailable", fault=str(fault))
            stop.wait(START_RETRY_SECONDS)
    return None
