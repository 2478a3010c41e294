"""
The services of one API process: pool, intake, keys, waiters, doorbell, metrics.

They have connections and threads, so they are started in the process that serves, after the fork.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from api.web import deadline, routing, turns
from api.web.auth import LOOKUPS_AT_ONCE, Authenticator
from api.web.holds import Holds
from api.web.large_bodies import LargeBodies
from api.web.long_poll import Waiters
from api.web.request_metrics import RequestMetrics
from api.web.turns import Turns
from processor import disk
from processor.errors import DatabaseUnavailable, SchemaError
from processor.gateways.names import names as gateway_names
from processor.intake.intake import Intake, Receipt, Submission
from processor.reading import health, requests
from processor.settings import RATE_LIMIT
from processor.storage import connections, migrations, pools
from processor.storage.connections import Reconnecting
from workers.doorbell.announcements import Announcements
from workers.doorbell.check import RedisCheck
from workers.doorbell.condition import REMEDIES
from workers.doorbell.names import Names
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from uuid import UUID

    from processor.disk import Disk
    from processor.reading.health import Health, RowCounts
    from processor.reading.requests import Gauges
    from processor.records.documents import RequestRecord
    from processor.settings import Settings
    from processor.storage.connections import Connection
    from processor.storage.pools import Pool

#: The connections that reads of callers hold at the same time; intake has its own.
READS_AT_ONCE: Final = 16
#: Those of one client, so that others find connections while its reads are slow.
READS_OF_ONE_CLIENT: Final = READS_AT_ONCE // 4
#: One more is left for look-ups of keys, however slow the reads are. The threads that read for all waits, and look up
#: the keys in use, have connections of their own. Connections are opened when they are needed.
POOL_CONNECTIONS: Final = READS_AT_ONCE + LOOKUPS_AT_ONCE
#: The requests in views at the same time, and those of one client. More of one client would not end sooner, since
#: they share one interpreter. A request that waits for a decision or another server has left its place.
VIEWS_AT_ONCE: Final = 256
VIEWS_OF_ONE_CLIENT: Final = 3
#: Those of a client while no other one is active. Larger groups of intake are cheaper.
VIEWS_OF_A_CLIENT_ALONE: Final = 64
#: The bodies that are being read at the same time, and those of one client. Each holds a thread until it is complete.
#: The callers of a public route are one client.
BODIES_AT_ONCE: Final = 768
BODIES_OF_ONE_CLIENT: Final = 256
#: The limit of one read of the API.
STATEMENT_TIMEOUT_MS: Final = 2_500
#: The limit of one insert of intake. Beyond it, callers get a 503.
INTAKE_TIMEOUT_MS: Final = 2_500
#: PostgreSQL applies that limit. Without any answer, intake gives up this much later.
ANSWER_MARGIN_SECONDS: Final = 0.5
#: The time for which a reading of the health is reused, because `/readyz` and `/metrics` are public.
HEALTH_FRESH_SECONDS: Final = 1.0

#: Whether this thread has a connection of the pool.
_thread = threading.local()

log = structlog.get_logger()


class _NamesOf:
    """The names of the installation in Redis, read from the database once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._names: Names | None = None

    def if_read(self) -> Names:
        """Return the names if they were read. Raises DatabaseUnavailable."""
        if self._names is None:
            raise DatabaseUnavailable("the id of the installation was not read yet")
        return self._names

    def find(self) -> Names:
        """Return the names. Raises DatabaseUnavailable, SchemaError."""
        if self._names is None:
            with _lend(self._pool) as connection:
                self._names = Names(migrations.read_installation(connection).id)
        return self._names


class _LastHealth:
    """The last reading of the health, or None if it failed, and its time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.read_at = -math.inf
        self.health: Health | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one process. `close` ends their threads and connections."""

    settings: Settings
    pool: Pool
    #: The turns of callers for most of its connections.
    reads: Turns
    intake: Intake
    keys: Authenticator
    bodies: Turns
    large_bodies: LargeBodies
    views: Turns
    #: The refusals that are held back.
    holds: Holds
    #: The connection of the thread of `waiters`.
    waits: Reconnecting
    waiters: Waiters[RequestRecord]
    doorbell: Doorbell
    announcements: Announcements
    redis_check: RedisCheck
    metrics: RequestMetrics
    #: The gateways that resources may name.
    gateways: frozenset[str]
    _last_health: _LastHealth = field(default_factory=_LastHealth)

    @classmethod
    def start(cls, settings: Settings) -> Services:
        """
        Start all services. PostgreSQL and Redis need not be available yet.

        Raises SettingsError.
        """
        url = settings.api_database_url
        pool = pools.open_pool(
            url,
            application_name="teller api",
            size=POOL_CONNECTIONS,
            statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        )
        names = _NamesOf(pool)
        doorbell = Doorbell(settings.redis_url, names.find)
        waits = Reconnecting(lambda: _connect(url, "teller api waits"))
        waiters = Waiters(lambda ids: _read_requests(waits, ids), lambda record: record.is_settled)
        intake = Intake(
            lambda: _connect_to_own(url, settings.partitions),
            settings.partitions,
            settings.backlog_limit,
            doorbell.notify_all,
        )
        announcements = Announcements(settings.redis_url, names.find, waiters.wake, waiters.wake_all)
        redis_check = RedisCheck(
            settings.redis_url,
            names.if_read,
            listener=announcements.listener,
            on_change=lambda: _log_redis(redis_check),
        )
        services = cls(
            settings=settings,
            pool=pool,
            reads=Turns(READS_AT_ONCE, READS_OF_ONE_CLIENT),
            intake=intake,
            keys=Authenticator(
                lambda: _lend(pool),
                lambda: _connect(url, "teller api keys"),
                settings.rate_limit,
                settings.sign_in_limit,
                # An operator who sets another limit than the default limits a client alone, too.
                limits_alone=settings.rate_limit != RATE_LIMIT,
            ),
            bodies=Turns(BODIES_AT_ONCE, BODIES_OF_ONE_CLIENT),
            large_bodies=LargeBodies(),
            views=Turns(VIEWS_AT_ONCE, VIEWS_OF_ONE_CLIENT, share_alone=VIEWS_OF_A_CLIENT_ALONE),
            holds=Holds(),
            waits=waits,
            waiters=waiters,
            doorbell=doorbell,
            announcements=announcements,
            redis_check=redis_check,
            metrics=RequestMetrics(),
            gateways=gateway_names(settings),
        )
        intake.start()
        waiters.start()
        services.keys.start()
        announcements.start()
        redis_check.start()
        return services

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """
        Lend a connection for a few statements, within the deadline of the request and the share of its client.

        A thread has one at a time. Threads that wait for a second one while they have a first would wait for each
        other. Raises RuntimeError then, TooManyAtOnce, DatabaseUnavailable.
        """
        if getattr(_thread, "has_connection", False):
            raise RuntimeError("this request has a connection already: pass it on")
        client = turns.acting_for()
        with (
            contextlib.nullcontext() if client is None else self.reads.take(client),
            _lend(self.pool) as lent,
        ):
            _thread.has_connection = True
            try:
                yield lent
            finally:
                _thread.has_connection = False

    def accept(self, submissions: Sequence[Submission]) -> list[Receipt]:
        """
        Make requests durable (`Intake.accept`), within the deadline of the HTTP request.

        Raises DatabaseUnavailable.
        """
        with deadline.remaining() as seconds:
            return self.intake.accept(submissions, seconds)

    def request(self, request_id: UUID) -> RequestRecord:
        """Return a request of any client. Raises RequestNotFound, DatabaseUnavailable."""
        with self.connection() as connection:
            return requests.read_request(connection, request_id, None)[0]

    def gauges(self) -> tuple[Gauges, RowCounts] | None:
        """Return the counts for the metrics, or None if the database is unavailable."""
        try:
            with self.connection() as connection:
                return requests.read_gauges(connection), health.count_rows(connection)
        except DatabaseUnavailable:
            return None

    def health(self) -> Health | None:
        """Return the health of workers and couriers, at most a second old, or None if PostgreSQL does not answer."""
        last = self._last_health
        with last.lock:
            if time.monotonic() - last.read_at >= HEALTH_FRESH_SECONDS:
                last.health = self._read_health()
                last.read_at = time.monotonic()
            return last.health

    def disk(self) -> Disk | None:
        """Return the disk of the embedded servers, or None if there are none."""
        has_own = self.settings.embeds_postgres or self.settings.embeds_valkey
        return disk.read(self.settings.home) if has_own else None

    def has_little_disk(self) -> bool:
        """Return whether the disk of the embedded servers is nearly full."""
        found = self.disk()
        return found is not None and found.is_nearly_full

    def _read_health(self) -> Health | None:
        try:
            with self.connection() as connection:
                return health.read_health(connection)
        except DatabaseUnavailable as fault:
            log.warning("health_unknown", fault=str(fault))
            return None

    def close(self) -> None:
        """End all waits, finish accepted requests, and stop."""
        self.waiters.stop()
        self.waits.close()
        self.intake.stop()
        self.keys.stop()
        self.announcements.stop()
        self.doorbell.close()
        self.redis_check.stop()
        self.pool.close()


def _log_redis(check: RedisCheck) -> None:
    """Log a change of the condition of Redis. The listener logs that it is unavailable."""
    condition = check.condition
    if condition is None:
        log.info("redis_works")
    elif condition != "unavailable":
        log.warning("redis_impaired", condition=condition, detail=REMEDIES[condition])


@contextlib.contextmanager
def _lend(pool: Pool) -> Iterator[Connection]:
    with deadline.remaining() as seconds, pools.lend(pool, seconds) as connection:
        yield connection


def _connect(url: str, application_name: str) -> Connection:
    """Connect a thread of the process that reads for callers, so that it waits for no other read."""
    return connections.connect(
        url,
        application_name=application_name,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        answer_timeout_seconds=deadline.DEADLINE_SECONDS,
    )


def _read_requests(connection: Reconnecting, request_ids: Collection[UUID]) -> dict[UUID, RequestRecord]:
    try:
        with connections.faults():
            return requests.read_requests(connection.get(), request_ids)
    except DatabaseUnavailable:
        connection.close()
        raise


def _connect_to_own(url: str, partitions: int) -> Connection:
    """
    Connect intake to a database with the expected number of partitions.

    With another number, requests would enter the wrong partitions and be decided out of order.
    """
    connection = connections.connect(
        url,
        application_name="teller api intake",
        statement_timeout_ms=INTAKE_TIMEOUT_MS,
        answer_timeout_seconds=INTAKE_TIMEOUT_MS / 1_000 + ANSWER_MARGIN_SECONDS,
    )
    try:
        with connections.faults():
            migrations.check_partitions(migrations.read_installation(connection), partitions)
    except SchemaError as fault:
        connection.close()
        raise DatabaseUnavailable(str(fault)) from fault
    except DatabaseUnavailable:
        connection.close()
        raise
    return connection


Call = routing.Call[Services]
