"""
The way to PostgreSQL: connections, pools, named queries, the schema and its version.

Everything else in `processor/` gets its connection from here and its SQL from `processor/sql/`.
Nobody outside `processor/` imports psycopg: faults leave as `errors.DatabaseUnavailable`.
"""

import contextlib
import functools
import importlib.resources
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus

from processor.errors import DatabaseUnavailable, SchemaError

Connection = psycopg.Connection[tuple[Any, ...]]

#: The schema that this code works with; `schema.sql` describes it.
SCHEMA_VERSION: Final = 2
#: The oldest PostgreSQL that has what the queries use.
OLDEST_SERVER: Final = 15
#: First half of the advisory lock of a partition; the second is its number.
LOCK_CLASS: Final = 0x7E11E4
#: First half of the advisory lock under which a client registers webhooks, one at a time; the second is its hash.
WEBHOOK_LOCK: Final = 0x7E11E6
#: First half of the advisory lock under which the sandbox gateway does one call of a key at a time.
SANDBOX_LOCK: Final = 0x7E11E7
#: First half of the advisory lock that lets one migration run at a time.
MIGRATION_LOCK: Final = 0x7E11E5
#: Seconds to wait for a connection: with a statement timeout after it, an API answers 503 within 3 s.
CONNECT_TIMEOUT_SECONDS: Final = 2
#: Seconds that a connection of a pool may take to show that it lives, before it is lent: less than a second beyond
#: the wait for one, for the same 3 s.
CHECK_TIMEOUT_SECONDS: Final = 0.8
#: Seconds that a statement is given in any case.
LEAST_ANSWER_SECONDS: Final = 0.2
#: How many partitions a database may have.
MOST_PARTITIONS: Final = 1024

# Errors after which the same work may be tried again on a fresh connection: the fault is not in what was asked.
_INFRASTRUCTURE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,  # a transaction that PostgreSQL ended: idle for too long, or read-only after a failover
    psycopg_pool.PoolTimeout,
    psycopg_pool.PoolClosed,
)

logging.getLogger("psycopg.pool").setLevel(
    logging.ERROR
)  # it repeats each failed attempt; our own line says it once


class _Connection(Connection):
    """
    A connection that does not wait for ever. PostgreSQL's own timeouts are of no use when it is stopped, or the way
    to it is cut: then only we can end the wait, and the connection with it: nobody knows what it is in the middle of.
    """

    #: How long one statement, or one pipeline, may go unanswered, in seconds; None: for ever.
    answer_timeout_seconds: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """What psycopg does whenever it waits. Raises OperationalError when it was too long."""
        try:
            return super().wait(gen, interval, self.answer_timeout_seconds if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # no answer, not even an error
                self.pgconn.finish()
            raise


Pool = psycopg_pool.ConnectionPool[_Connection]


@dataclass(frozen=True, slots=True)
class Installation:
    """What `teller migrate` fixed for ever in this database."""

    schema_version: int
    partitions: int


def connect(
    url: str,
    *,
    application_name: str,
    statement_timeout_ms: int | None = None,
    answer_timeout_seconds: float | None = None,
) -> Connection:
    """
    A connection in autocommit mode (else psycopg's `transaction()` nests in one that a stray SELECT
    began), speaking UTC. Raises DatabaseUnavailable.
    """
    with faults():
        connection = _Connection.connect(url, **_parameters(application_name, statement_timeout_ms))
        connection.answer_timeout_seconds = answer_timeout_seconds
        return connection


def open_pool(url: str, *, application_name: str, size: int, statement_timeout_ms: int) -> Pool:
    """
    At most `size` connections, made when they are needed, checked before they are lent (`lend`).
    """
    return psycopg_pool.ConnectionPool(
        url,
        connection_class=_Connection,
        kwargs=_parameters(application_name, statement_timeout_ms),
        min_size=1,
        max_size=size,
        timeout=CONNECT_TIMEOUT_SECONDS,
        check=_check,
        name=application_name,
        open=True,
    )


def _check(connection: _Connection) -> None:
    connection.answer_timeout_seconds = CHECK_TIMEOUT_SECONDS
    connection.execute("")


@contextlib.contextmanager
def lend(pool: Pool, within_seconds: float) -> Iterator[Connection]:
    """
    A connection of the pool. A statement that is not answered so long after the connection was asked for, or a
    little longer if it was long waited for, is given up. Raises DatabaseUnavailable.
    """
    asked_at = time.monotonic()
    with faults(), pool.connection(timeout=min(CONNECT_TIMEOUT_SECONDS, within_seconds)) as connection:
        left = within_seconds - (time.monotonic() - asked_at)
        connection.answer_timeout_seconds = max(left, LEAST_ANSWER_SECONDS)
        yield connection


def _parameters(application_name: str, statement_timeout_ms: int | None) -> dict[str, Any]:
    options = "-c timezone=UTC"
    if statement_timeout_ms is not None:
        options += f" -c statement_timeout={statement_timeout_ms}"
    return {
        "autocommit": True,
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "options": options,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """
    Turn a fault of the infrastructure (no connection, server going down, timeout) into
    DatabaseUnavailable. Everything else passes: it says something about the statement.
    """
    try:
        yield
    except _INFRASTRUCTURE as fault:
        raise DatabaseUnavailable(first_line(fault)) from fault


def first_line(fault: BaseException) -> str:
    """The first line of an error's message, or its class if it has none."""
    return str(fault).strip().partition("\n")[0] or type(fault).__name__


@functools.cache
def queries(module: str) -> dict[str, str]:
    """
    The named queries of `processor/sql/<module>.sql`: blocks headed by a line `-- name --`.
    """
    text = importlib.resources.files("processor").joinpath("sql", f"{module}.sql").read_text()
    parts = re.split(r"^-- (\w+) --\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def migrate(url: str, partitions: int) -> str:
    """
    Bring the database to SCHEMA_VERSION; does nothing when it is there. Returns one line that says
    what was done.

    Raises SchemaError when the server is too old, or the database belongs to a newer Teller or has
    another number of partitions; DatabaseUnavailable when it cannot be reached.
    """
    with connect(url, application_name="teller migrate") as connection, faults(), connection.transaction():
        server = connection.info.server_version // 10_000
        if server < OLDEST_SERVER:
            raise SchemaError(f"PostgreSQL {server} is too old: Teller needs {OLDEST_SERVER} or newer")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        if _is_migrated(connection):
            check_partitions(read_installation(connection), partitions)
            return f"the schema is at version {SCHEMA_VERSION} already; {partitions} partitions"
        connection.execute(_schema(partitions))
        return f"made the schema, version {SCHEMA_VERSION}, with {partitions} partitions"


def _schema(partitions: int) -> bytes:
    text = (Path(__file__).resolve().parent.parent / "schema.sql").read_text()
    return (
        text.replace(":partitions", str(partitions)).replace(":schema_version", str(SCHEMA_VERSION)).encode()
    )


def _is_migrated(connection: Connection) -> bool:
    return connection.execute("SELECT to_regclass('installation') IS NOT NULL").fetchall() == [(True,)]


def read_installation(connection: Connection) -> Installation:
    """
    Which schema the database has. Raises SchemaError when it has none, an older or a newer one.
    """
    if not _is_migrated(connection):
        raise SchemaError("the database has no Teller schema yet: run `teller migrate`")
    [(version, partitions)] = connection.execute(
        "SELECT schema_version, partitions FROM installation"
    ).fetchall()
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"the database has schema version {version}, newer than this Teller's {SCHEMA_VERSION}: upgrade Teller"
        )
    if version < SCHEMA_VERSION:
        raise SchemaError(
            f"the database has schema version {version}, of a Teller before its first release, and this one needs"
            f" {SCHEMA_VERSION}: start with an empty database (without DATABASE_URL: with another TELLER_HOME)"
        )
    return Installation(version, partitions)


def check_partitions(installation: Installation, partitions: int) -> None:
    """Refuse settings that contradict the database. Raises SchemaError."""
    if installation.partitions != partitions:
        raise SchemaError(
            f"TELLER_PARTITIONS is {partitions}, but this database was made with {installation.partitions}:"
            " the number is fixed for the life of a database"
        )
