"""
Connections and pools.

All other modules of `processor` get their connections from here. `api` and `workers` do not import psycopg: a fault
of the infrastructure is raised as `errors.DatabaseUnavailable`.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus

from processor.errors import DatabaseUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]

#: First half of the advisory lock of a partition; the second half is the number of the partition.
LOCK_CLASS: Final = 0x7E11E4
#: First half of the advisory lock for registering webhooks, one at a time; the second half is a hash of the client.
WEBHOOK_LOCK: Final = 0x7E11E6
#: First half of the advisory lock with which the sandbox gateway performs one call of a key at a time.
SANDBOX_LOCK: Final = 0x7E11E7
#: Seconds to wait for a connection. Together with the statement timeout after it, the API answers 503 within 3 s.
CONNECT_TIMEOUT_SECONDS: Final = 2
#: Seconds that the check of a connection may take before it is lent: less than one, for the same 3 s.
CHECK_TIMEOUT_SECONDS: Final = 0.8
#: The shortest answer timeout of a statement, in seconds.
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
)  # it repeats each failed attempt; our own log has one line for all


class _Connection(Connection):
    """
    A connection that does not wait for ever.

    The timeouts of PostgreSQL have no effect while the server is suspended or the network is cut. Then the client
    ends the wait, and closes the connection, whose state is unknown.
    """

    #: Seconds that one statement, or one pipeline, may stay without an answer; None: no limit.
    answer_timeout_seconds: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """
        Wait as psycopg does, for up to the answer timeout. Raises OperationalError after that.
        """
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
    Open a connection in autocommit mode, with UTC as its time zone. Raises DatabaseUnavailable.

    Without autocommit, psycopg's `transaction()` would be nested in one that an earlier SELECT began.
    """
    with faults():
        connection = _Connection.connect(url, **_parameters(application_name, statement_timeout_ms))
        connection.answer_timeout_seconds = answer_timeout_seconds
        return connection


class Reconnecting:
    """A connection for one thread at a time. It is opened for its first use, and again after `close`."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None

    def get(self) -> Connection:
        """Return the connection. Opens one if there is none. Raises DatabaseUnavailable."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def close(self) -> None:
        """Close the connection, if there is one. After a fault, the state of a connection is undefined."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def open_pool(url: str, *, application_name: str, size: int, statement_timeout_ms: int) -> Pool:
    """
    Open a pool of at most `size` connections, which are opened when needed and checked before they are lent (`lend`).
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
    Lend a connection of the pool, for up to `within_seconds`. Raises DatabaseUnavailable.

    The time includes the wait for the connection. A statement without an answer is given up at its end, but not
    before LEAST_ANSWER_SECONDS.
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
    Turn a fault of the infrastructure (no connection, server shutdown, timeout) into DatabaseUnavailable.

    Other errors are about the statement, and pass.
    """
    try:
        yield
    except INFRASTRUCTURE as fault:
        raise DatabaseUnavailable(first_line(fault)) from fault


def first_line(fault: BaseException) -> str:
    """
    Return the first line of an error's message, or the name of its class if it has none.
    """
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
