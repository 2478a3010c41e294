"""
One worker process: its parts, put together, from start to stop.

The composition root of `teller worker`. Nothing is asked of PostgreSQL or Redis that cannot wait until they
are there.
"""

from __future__ import annotations

import functools
import gc
import signal
import threading
from typing import TYPE_CHECKING, Final

import dramatiq
import structlog

from processor.errors import DatabaseUnavailable
from processor.storage import connections, migrations
from workers.doorbell.ring import ACTOR_NAME, Doorbell
from workers.worker import heartbeat as ownerships
from workers.worker import sweep as sweeps
from workers.worker.assignments import Lanes
from workers.worker.broker import WakingBroker
from workers.worker.drain import Drainer
from workers.worker.heartbeat import Ownership
from workers.worker.sweep import Sweep

if TYPE_CHECKING:
    from processor.settings import Settings

#: Threads that drain what was rung for. More than cores: they wait for PostgreSQL most of the time.
DRAIN_THREADS: Final = 4
#: How long an idle thread of Dramatiq's sleeps before it looks whether it shall end, in milliseconds.
DRAMATIQ_IDLE_MS: Final = 1_000
#: The pause between two tries to reach PostgreSQL at the start, in seconds.
START_RETRY_SECONDS: Final = 0.5
#: How long a stop waits for the batches under way, and for Dramatiq's threads, in seconds.
BATCH_END_SECONDS: Final = 2.5
DRAMATIQ_END_SECONDS: Final = 1.5

#: New objects after which the garbage collector looks at them: those of some full batches.
GARBAGE_OBJECTS: Final = 100_000

log = structlog.get_logger(__name__)


def rest_collector() -> None:
    """
    What is here now stays: the garbage collector need not walk it again, nor run in the middle of each batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


def run_worker(settings: Settings) -> int:
    """
    Drain until SIGTERM or SIGINT; then end the batches under way, give the partitions back, and return 0.
    Called on the main thread. Raises SchemaError when the database is not this Teller's.
    """
    rest_collector()
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    partition_count = _partition_count(settings.worker_database_url, stop)
    if partition_count is None:
        return 0
    worker = _Worker(settings, partition_count)
    worker.start()
    stop.wait()
    worker.stop()
    return 0


class _Worker:
    """The parts of a worker process, and the order in which they begin and end."""

    def __init__(self, settings: Settings, partition_count: int) -> None:
        connect = functools.partial(connections.connect, settings.worker_database_url)
        self._lanes = Lanes()
        self._doorbell = Doorbell(settings.redis_url)
        self._drainer = Drainer(
            functools.partial(connect, application_name="teller worker drain"), self._lanes, self._doorbell
        )
        self._ownership = Ownership(
            functools.partial(
                connect,
                application_name="teller worker ownership",
                statement_timeout_ms=ownerships.STATEMENT_TIMEOUT_MS,
            ),
            partition_count,
            self._lanes,
            self._doorbell,
            on_gain=self._gain,
        )
        self._broker = WakingBroker(settings.redis_url, partition_count, self._lanes, self._ownership.poke)
        self._sweep = Sweep(
            functools.partial(
                connect,
                application_name="teller worker sweep",
                statement_timeout_ms=sweeps.STATEMENT_TIMEOUT_MS,
            ),
            self._drainer,
            self._lanes,
            bell_works=lambda: not self._broker.listener.broken,
        )
        # One actor for all queues: the message names the queue, its argument the partition.
        dramatiq.actor(queue_name=min(self._broker.queues), actor_name=ACTOR_NAME, broker=self._broker)(
            self._drain
        )
        self._dramatiq = dramatiq.Worker(
            self._broker, worker_threads=DRAIN_THREADS, worker_timeout=DRAMATIQ_IDLE_MS
        )

    def start(self) -> None:
        self._broker.listener.start()
        self._dramatiq.start()
        self._sweep.start()
        self._ownership.start()

    def stop(self) -> None:
        """Nothing is lost whatever fails here: what is not given back runs out, what is not drained waits."""
        log.info("worker_stopping")
        self._drainer.stop()
        if not self._lanes.close(BATCH_END_SECONDS):
            log.warning("batch_left_behind")  # it dies with its connection, and somebody else takes it up
        self._ownership.stop()
        self._doorbell.close()
        self._broker.end()
        self._broker.listener.stop()
        self._sweep.stop()
        self._dramatiq.stop(timeout=int(DRAMATIQ_END_SECONDS * 1_000))
        log.info("worker_stopped")

    def _drain(self, partition: int) -> None:
        """
        The actor: apply what waits in a partition. Ringing twice is harmless: an empty inbox is a no-op. A partition
        that is ours no more is left to its owner, who looks when he claims it.
        """
        self._doorbell.acknowledge(partition)  # before the drain reads: a later commit notifies again
        _, more = self._drainer.drain(partition)
        if more:  # others get their turn, and a stop is never far away
            self._doorbell.notify(partition)

    def _gain(self, gained: set[int], waiting: list[int]) -> None:
        self._sweep.take(waiting)
        self._broker.wake(gained)


def _partition_count(url: str, stop: threading.Event) -> int | None:
    """Asked once, as soon as PostgreSQL is there; None when we were stopped before."""
    said = False
    while not stop.is_set():
        try:
            with (
                connections.connect(url, application_name="teller worker") as connection,
                connections.faults(),
            ):
                return migrations.read_installation(connection).partitions
        except DatabaseUnavailable as fault:
            if not said:
                said = True
                log.warning("database_away", fault=str(fault))
            stop.wait(START_RETRY_SECONDS)
    return None
