"""
The way to PostgreSQL: connections, pools, named queries, the schema and its version.

Everything else in `processor/` gets its connection from here and its SQL from `processor/`.
Nobody outside `processor/` imports psycopg: faults leave as `errors.DatabaseUnavailable`.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus

from processor.errors import DatabaseUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]

#: First half of the advisory lock of a partition; the second is its number.
LOCK_CLASS: Final = 0x7E11E4
#: First half of the advisory lock under which a client registers webhooks, one at a time; the second is its hash.
WEBHOOK_LOCK: Final = 0x7E11E6
#: First half of the advisory lock under which the sandbox gateway does one call of a key at a time.
SANDBOX_LOCK: Final = 0x7E11E7
#: Seconds to wait for a connection: with a statement timeout after it, an API answers 503 within 3 s.
CONNECT_TIMEOUT_SECONDS: Final = 2
#: Seconds that a connection of a pool may take to show that it lives, before it is lent: less than a second beyond
#: the wait for one, for the same 3 s.
CHECK_TIMEOUT_SECONDS: Final = 0.8
#: Seconds that a statement is given in any case.
LEAST_ANSWER_SECONDS: Final = 0.2

#: Errors after which the same work may be tried again on a fresh connection: the statement is not at fault.
INFRASTRUCTURE = (
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
    except INFRASTRUCTURE as fault:
        raise DatabaseUnavailable(first_line(fault)) from fault


def first_line(fault: BaseException) -> str:
    """The first line of an error's message, or its class if it has none."""
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
