"""
Connections.

All other modules of `processor` get their connections from here, or from `pools`. `api` and `workers` do not import
psycopg: a fault of the infrastructure is raised as `errors.DatabaseUnavailable`.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg import errors as server
from psycopg.conninfo import conninfo_to_dict

from processor.errors import DatabaseUnavailable
from processor.settings import Address
from processor.storage import sessions
from processor.storage.sessions import Session

Connection = sessions.Connection

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
#: The age of its last check from which a thread's own connection is checked again, in seconds. A server or a proxy
#: may have closed it meanwhile, or the server may have become a standby.
CHECK_AFTER_SECONDS: Final = 1.0
#: The interval at which the server is asked whether a commit without an answer waits for a standby, in seconds.
STANDBY_LOOK_SECONDS: Final = 0.5
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
        connection = Session.connect(url, **parameters(url, application_name))
        try:
            begin(connection, url, statement_timeout_ms)
        except BaseException:
            connection.close()
            raise
        connection.answer_timeout_seconds = answer_timeout_seconds
        return connection


def begin(connection: Session, url: str, statement_timeout_ms: int | None) -> None:
    """Prepare a new connection for use. Raises DatabaseUnsafe, psycopg.Error. The caller closes it then."""
    connection.url = url
    connection.application_name = connection.info.get_parameters()["application_name"]
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
                check(self._connection)
            except psycopg.Error:
                self._connection.close()  # a check commits nothing, so nothing waits
                self._connection = None
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
        """
        Close the connection, if there is one. After a fault, the state of a connection is undefined.

        Returns only when its last commit no longer waits for a standby (`settle`).
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            settle(connection)


def settle(connection: Connection) -> None:
    """
    Close a connection. One whose commit waits for a synchronous standby is closed when the wait is over.

    The wait would go on in the server without the connection. So a process that closed it and tried again would use
    one more session of the server with each try.
    """
    while isinstance(connection, Session) and connection.is_unanswered and not connection.closed:
        if connection.has_input(STANDBY_LOOK_SECONDS):
            break
        with contextlib.suppress(DatabaseUnavailable):  # it may wait: ask again
            if not _waits_for_standby(connection):
                break
    connection.close()


def _waits_for_standby(connection: Session) -> bool:
    """Ask the server, over another connection. Raises DatabaseUnavailable."""
    asking = connect(
        connection.url, application_name="teller standby", answer_timeout_seconds=CHECK_TIMEOUT_SECONDS
    )
    with contextlib.closing(asking), faults():
        [(waits,)] = asking.execute(
            sessions.SQL["waits_for_standby"],
            {
                "backend_pid": connection.info.backend_pid,
                "is_pooled": connection.prepare_threshold is None,
                "application_name": connection.application_name,
            },
        ).fetchall()
        return bool(waits)


def check(connection: Connection) -> None:
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


def parameters(url: str, application_name: str) -> dict[str, Any]:
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
