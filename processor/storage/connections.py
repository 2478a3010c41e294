"""
Connections and pools.

All other modules of `processor` get their connections from here. `api` and `workers` do not import psycopg: a fault
of the infrastructure is raised as `errors.DatabaseUnavailable`.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg import errors as server
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from processor.errors import DatabaseUnavailable
from processor.settings import Address
from processor.storage import sessions

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
#: The age of its last check from which a thread's own connection is checked again, in seconds. A server or a proxy
#: may have closed it meanwhile, or the server may have become a standby.
CHECK_AFTER_SECONDS: Final = 1.0
#: The seconds for which a pool tries to replace one connection. It doubles the pauses between tries, so with a longer
#: time it would pause for a minute when the server is back. Each client that waits for a connection begins anew.
RECONNECT_SECONDS: Final = 1.0
#: The time after which data that the server did not acknowledge ends a connection, in milliseconds.
UNACKNOWLEDGED_MS: Final = 10_000

#: Errors after which the same work may be tried again on a fresh connection: the statement is not at fault.
INFRASTRUCTURE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,  # a transaction that PostgreSQL ended: idle for too long, or read-only after a failover
    psycopg_pool.PoolTimeout,
    psycopg_pool.PoolClosed,
)
#: Errors of a statement that come from outside of it.
OUTSIDE = (
    # Rights or tables that are missing while an operator restores, grants or migrates.
    server.InsufficientPrivilege,
    server.InvalidCatalogName,
    server.InvalidSchemaName,
    server.UndefinedTable,
    server.UndefinedColumn,
    server.UndefinedFunction,
    server.UndefinedObject,
    server.FeatureNotSupported,  # a prepared statement whose table has changed
    # A prepared statement that is not there, or is another session's: a pooler stands in between.
    server.InvalidSqlStatementName,
    server.DuplicatePreparedStatement,
)

# Its warnings repeat what is raised: each failed attempt of a pool, and each end of a pipeline after a fault.
logging.getLogger("psycopg").setLevel(logging.ERROR)


class _Connection(Connection):
    """
    A connection that does not wait for ever.

    The timeouts of PostgreSQL have no effect while the server is suspended or the network is cut. Then the client
    ends the wait, and closes the connection, whose state is unknown.
    """

    #: Seconds that one statement, or one pipeline, may stay without an answer; None: no limit.
    answer_timeout_seconds: float | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        #: By the monotonic clock.
        self.opened_at = time.monotonic()

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


class Pool(psycopg_pool.ConnectionPool[_Connection]):
    """
    A pool that checks each connection before it is lent.

    A connection that is dead or has become read-only is closed together with all idle ones, because the fault is
    usually the server's. Connections that are lent at that time are closed when they come back.
    """

    def __init__(self, url: str, statement_timeout_ms: int, **options: Any) -> None:
        self._draining = threading.Lock()
        self._last_drain = -math.inf
        super().__init__(
            url,
            connection_class=_Connection,
            configure=lambda connection: _begin(connection, url, statement_timeout_ms),
            check=self._check_or_drain,
            **options,
        )

    def _check_or_drain(self, connection: _Connection) -> None:
        """Raises psycopg.Error if the connection must not be lent. It is closed then."""
        try:
            _check(connection)
        except psycopg.Error:
            connection.close()
            with self._draining:
                if (
                    connection.opened_at > self._last_drain
                ):  # another check may have found its siblings already
                    self._last_drain = time.monotonic()
                    self.drain()
            raise


def connect(
    url: str,
    *,
    application_name: str,
    statement_timeout_ms: int | None = None,
    answer_timeout_seconds: float | None = None,
) -> Connection:
    """
    Open a connection in autocommit mode, with the settings that Teller needs (`sessions.sql`).

    Without autocommit, psycopg's `transaction()` would be nested in one that an earlier SELECT began.
    Raises DatabaseUnavailable; DatabaseUnsafe if a setting of the server breaks a promise.
    """
    with faults():
        connection = _Connection.connect(url, **_parameters(url, application_name))
        try:
            _begin(connection, url, statement_timeout_ms)
        except BaseException:
            connection.close()
            raise
        connection.answer_timeout_seconds = answer_timeout_seconds
        return connection


def _begin(connection: _Connection, url: str, statement_timeout_ms: int | None) -> None:
    connection.answer_timeout_seconds = CONNECT_TIMEOUT_SECONDS
    is_pooled = isinstance(url, Address) and url.is_pooled
    sessions.begin(connection, is_pooled=is_pooled, statement_timeout_ms=statement_timeout_ms)


class Reconnecting:
    """
    A connection for one thread at a time. It is opened for its first use, and again after `close`.

    It is also opened again if it is found dead or read-only, so that the first use after a quiet time does not fail.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._checked_at = -math.inf

    def get(self) -> Connection:
        """
        Return the connection. Opens one if there is none, or if the one there is cannot be used.

        Raises DatabaseUnavailable.
        """
        if self._connection is not None and time.monotonic() - self._checked_at >= CHECK_AFTER_SECONDS:
            try:
                _check(self._connection)
            except psycopg.Error:
                self.close()
            else:
                self._checked_at = time.monotonic()
        if self._connection is None:
            self._connection = self._connect()
            self._checked_at = time.monotonic()
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
    return Pool(
        url,
        statement_timeout_ms,
        kwargs=_parameters(url, application_name),
        min_size=1,
        max_size=size,
        timeout=CONNECT_TIMEOUT_SECONDS,
        reconnect_timeout=RECONNECT_SECONDS,
        name=application_name,
        open=True,
    )


def _check(connection: Connection) -> None:
    """
    Check that the server answers, and lets this session write.

    Raises psycopg.Error. The caller closes the connection then.
    """
    before = getattr(connection, "answer_timeout_seconds", None)
    connection.answer_timeout_seconds = CHECK_TIMEOUT_SECONDS  # type: ignore[attr-defined]
    [(is_read_only,)] = connection.execute("SHOW transaction_read_only").fetchall()
    connection.answer_timeout_seconds = before  # type: ignore[attr-defined]
    if is_read_only != "off":
        raise psycopg.OperationalError("the server has become read-only")


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


def _parameters(url: str, application_name: str) -> dict[str, Any]:
    """
    Return the parameters of a connection. Those that the URL sets itself win, except for the timeout.

    No `options` are among them, because poolers refuse a start with them.
    """
    given = conninfo_to_dict(url)
    defaults = {
        "target_session_attrs": "read-write",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": UNACKNOWLEDGED_MS,
    }
    return {name: value for name, value in defaults.items() if name not in given} | {
        "autocommit": True,
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "client_encoding": "UTF8",
    }


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """
    Turn a fault of the infrastructure (no connection, timeout, missing rights) into DatabaseUnavailable.

    Other errors are about the statement, and pass.
    """
    try:
        yield
    except (*INFRASTRUCTURE, *OUTSIDE) as fault:
        raise DatabaseUnavailable(first_line(fault)) from fault


def first_line(fault: BaseException) -> str:
    """
    Return the first line of an error's message, or the name of its class if it has none.
    """
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
