"""
Sessions on the server: their settings, their answer timeout, and commits whose wait for a standby was cancelled.

A session sets its settings itself where it is its own. Behind a pooler, they come with the role.
"""

import functools
import selectors
import time
from typing import Any, Final

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.errors import Diagnostic
from psycopg.pq import TransactionStatus

from processor.errors import DatabaseUnsafe
from processor.storage import statements

#: The settings of each role in its database, for sessions behind a pooler. `migrate` writes them.
ROLE_SETTINGS: Final = {
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "datestyle": "ISO, MDY",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "client_min_messages": "warning",
}
#: Their statement timeouts, in milliseconds. A batch sets its own in its transaction.
ROLE_TIMEOUTS_MS: Final = {
    "teller_api": 2_500,
    "teller_worker": 5_000,
    "teller_courier": 5_000,
    "teller_archive": 600_000,
}

#: The function of PostgreSQL in which a commit waits for a synchronous standby. Its messages are translated.
STANDBY_WAIT: Final = "SyncRepWaitForLSN"

Connection = psycopg.Connection[tuple[Any, ...]]

SQL = statements.beside(__file__)


class Session(Connection):
    """
    A connection that does not wait for ever, and whose commits are as durable as the server is configured.

    The timeouts of PostgreSQL have no effect while the server is suspended, the network is cut, or a commit waits for
    a standby. Then the client ends the wait. The outcome is unknown, and the connection is of no further use.
    """

    #: Seconds that one statement, or one pipeline, may stay without an answer; None: no limit.
    answer_timeout_seconds: float | None = None
    #: The address that it was opened with, and its name.
    url: str = ""
    application_name: str = ""
    #: A statement is still without an answer after the timeout.
    is_unanswered = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        #: By the monotonic clock.
        self.opened_at = time.monotonic()
        #: The warnings that a commit did not wait for its standby to the end.
        self._cancelled_waits: list[str] = []
        # Not a method, which would refer to the connection and keep it alive.
        self.add_notice_handler(functools.partial(_note_cancelled_wait, self._cancelled_waits))

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """
        Wait as psycopg does, for up to the answer timeout. Raises OperationalError after that.

        Also raises OperationalError if a commit did not wait for its standby to the end: its outcome is unknown.
        """
        if self.is_unanswered:
            raise psycopg.OperationalError("a statement before has no answer yet")
        self._cancelled_waits.clear()
        try:
            found = super().wait(gen, interval, self.answer_timeout_seconds if timeout is None else timeout)
        except psycopg.OperationalError as fault:
            has_no_answer = fault.sqlstate is None  # not even an error of the server
            self.is_unanswered = has_no_answer and self.pgconn.transaction_status == TransactionStatus.ACTIVE
            raise
        if self._cancelled_waits:
            raise psycopg.OperationalError(self._cancelled_waits[0])
        return found

    def has_input(self, within_seconds: float) -> bool:
        """Return whether the server has sent something, or closed the connection, within this time."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pgconn.socket, selectors.EVENT_READ)
            return bool(selector.select(within_seconds))


def _note_cancelled_wait(found: list[str], notice: Diagnostic) -> None:
    if notice.source_function == STANDBY_WAIT:
        found.append(notice.message_primary or STANDBY_WAIT)


def begin(connection: psycopg.Connection[Any], *, is_pooled: bool, statement_timeout_ms: int | None) -> None:
    """
    Set the settings of a new connection, and check them.

    A pooler gives its own process id in place of the server's. Behind one, no statement is prepared by name, because
    another session may get it. Raises DatabaseUnsafe, psycopg.Error.
    """
    rows = connection.execute(
        SQL["begin_session"],
        {
            "backend_pid": connection.info.backend_pid,
            "is_pooled": is_pooled,
            "statement_timeout_ms": statement_timeout_ms or 0,
        },
    ).fetchall()
    for is_own, is_fixed, name, value, found, _ in rows:
        if not is_own:
            connection.prepare_threshold = None
        if found == value:
            continue
        if is_fixed:
            raise DatabaseUnsafe(f"the setting {name} of PostgreSQL is {found}, and Teller needs {value}")
        user = connection.info.user
        remedy = (
            "run `teller migrate`"
            if user in ROLE_TIMEOUTS_MS
            else f"ALTER ROLE {user} SET {name} = '{value}'"
        )
        raise DatabaseUnsafe(
            f"behind a pooler, the setting {name} of the role {user} is {found}, and Teller needs {value}: {remedy}"
        )


def prefer_indexes(connection: psycopg.Connection[Any]) -> None:
    """
    Let the planner use indexes wherever there is one, for reads that all have one.

    Not behind a pooler, where another session may get the connection next. Raises psycopg.Error.
    """
    if connection.prepare_threshold is not None:
        connection.execute(SQL["prefer_indexes"])
