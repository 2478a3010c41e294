"""
What the requests of one API process share: pool, intake, keys, waiters, doorbell, metrics.

Made in the process that serves, after the fork: it has connections and threads.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from redis import Redis

from api.web import deadline, routing
from api.web.auth import Authenticator
from api.web.long_poll import Waiters
from api.web.request_metrics import RequestMetrics
from processor.errors import DatabaseUnavailable, SchemaError
from processor.gateways import names as gateways
from processor.intake.intake import Intake, Receipt, Submission
from processor.reading import requests
from processor.storage import connections, migrations
from workers.doorbell.announcements import Announcements
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from processor.reading.requests import Gauges
    from processor.records.documents import RequestRecord
    from processor.settings import Settings
    from processor.storage.connections import Connection, Pool

#: Connections of one process for reads; intake has its own. Reads are short: more would only queue in PostgreSQL.
POOL_CONNECTIONS: Final = 8
#: No read of the API takes longer, in milliseconds.
STATEMENT_TIMEOUT_MS: Final = 2_500
#: An insert of intake that takes longer is given up, and its callers told to try again, in milliseconds.
INTAKE_TIMEOUT_MS: Final = 2_500
#: That timeout is PostgreSQL's; one that says nothing at all is given up so much later, in seconds.
SILENCE_SECONDS: Final = 0.5
#: A Redis that takes longer to answer counts as away.
REDIS_TIMEOUT_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Services:
    """See the module. `close` ends its threads and connections."""

    settings: Settings
    pool: Pool
    intake: Intake
    keys: Authenticator
    waiters: Waiters
    doorbell: Doorbell
    announcements: Announcements
    #: For the question whether Redis answers, alone.
    redis: Redis
    metrics: RequestMetrics
    #: The gateways that resources may name.
    gateways: frozenset[str]

    @classmethod
    def start(cls, settings: Settings) -> Services:
        """Open everything. Needs neither PostgreSQL nor Redis to be there yet. Raises SettingsError."""
        url = settings.api_database_url
        pool = connections.open_pool(
            url,
            application_name="teller api",
            size=POOL_CONNECTIONS,
            statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        )
        doorbell = Doorbell(settings.redis_url)
        waiters = Waiters()
        intake = Intake(
            lambda: _connect_to_own(url, settings.partitions),
            settings.partitions,
            settings.backlog_limit,
            doorbell.notify_all,
        )
        announcements = Announcements(settings.redis_url, waiters.wake, waiters.wake_all)
        services = cls(
            settings=settings,
            pool=pool,
            intake=intake,
            keys=Authenticator(lambda: _lend(pool), settings.rate_limit, settings.sign_in_limit),
            waiters=waiters,
            doorbell=doorbell,
            announcements=announcements,
            redis=Redis.from_url(
                settings.redis_url,
                socket_timeout=REDIS_TIMEOUT_SECONDS,
                socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            ),
            metrics=RequestMetrics(),
            gateways=gateways.names(settings),
        )
        intake.start()
        services.keys.start()
        announcements.start()
        return services

    def connection(self) -> contextlib.AbstractContextManager[Connection]:
        """
        A connection for a few statements, within the patience that the request has left. Raises DatabaseUnavailable.
        """
        return _lend(self.pool)

    def accept(self, submissions: Sequence[Submission]) -> list[Receipt]:
        """
        Make requests durable (`Intake.accept`), within the patience that the request has left. Raises
        DatabaseUnavailable.
        """
        with deadline.remaining() as seconds:
            return self.intake.accept(submissions, seconds)

    def request(self, request_id: UUID) -> RequestRecord:
        """Any client's request as it is now. Raises RequestNotFound, DatabaseUnavailable."""
        with self.connection() as connection:
            return requests.read_request(connection, request_id, None)[0]

    def gauges(self) -> Gauges | None:
        """What somebody should look at, for the metrics. None: the database is unavailable."""
        try:
            with self.connection() as connection:
                return requests.read_gauges(connection)
        except DatabaseUnavailable:
            return None

    def close(self) -> None:
        """Answer who waits, finish what was accepted, and end."""
        self.waiters.stop()
        self.intake.stop()
        self.keys.stop()
        self.announcements.stop()
        self.doorbell.close()
        self.redis.close()
        self.pool.close()


@contextlib.contextmanager
def _lend(pool: Pool) -> Iterator[Connection]:
    with deadline.remaining() as seconds, connections.lend(pool, seconds) as connection:
        yield connection


def _connect_to_own(url: str, partitions: int) -> Connection:
    """
    A connection for intake, to a database that was made with as many partitions as we hash into: a request
    in the wrong partition would be decided out of turn.
    """
    connection = connections.connect(
        url,
        application_name="teller api intake",
        statement_timeout_ms=INTAKE_TIMEOUT_MS,
        answer_timeout_seconds=INTAKE_TIMEOUT_MS / 1_000 + SILENCE_SECONDS,
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
