"""
Pools of connections, for reads and short writes on many threads.
"""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import psycopg
import psycopg_pool

from processor.storage import connections, sessions
from processor.storage.connections import CONNECT_TIMEOUT_SECONDS, Connection
from processor.storage.sessions import Session

#: The shortest answer timeout of a statement, in seconds.
LEAST_ANSWER_SECONDS: Final = 0.2
#: The seconds for which a pool tries to replace one connection. It doubles the pauses between tries, so with a longer
#: time it would pause for a minute when the server is back. Each client that waits for a connection begins anew.
RECONNECT_SECONDS: Final = 1.0


def _begin(connection: Session, url: str, statement_timeout_ms: int) -> None:
    connections.begin(connection, url, statement_timeout_ms)
    sessions.prefer_indexes(connection)


class Pool(psycopg_pool.ConnectionPool[Session]):
    """
    A pool that checks each connection before it is lent.

    A connection that is dead or has become read-only is closed together with all idle ones, because the fault is
    usually the server's. Connections that are lent at that time are closed when they come back. A connection whose
    commit waits for a standby counts as lent until the wait is over.
    """

    def __init__(self, url: str, statement_timeout_ms: int, **options: Any) -> None:
        self._draining = threading.Lock()
        self._last_drain = -math.inf
        self._unanswered: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self._settling: threading.Thread | None = None
        super().__init__(
            url,
            connection_class=Session,
            configure=lambda connection: _begin(connection, url, statement_timeout_ms),
            check=self._check_or_drain,
            **options,
        )

    def _check_or_drain(self, connection: Session) -> None:
        """Raises psycopg.Error if the connection must not be lent. It is closed then."""
        try:
            connections.check(connection)
        except psycopg.Error:
            connection.close()
            with self._draining:
                if (
                    connection.opened_at > self._last_drain
                ):  # another check may have found its siblings already
                    self._last_drain = time.monotonic()
                    self.drain()
            raise

    def give_back(self, connection: Session) -> None:
        """Return a connection that was lent, in whatever state it is."""
        if not connection.is_unanswered:
            self.putconn(connection)
            return
        self._unanswered.put(connection)
        with self._draining:
            if self._settling is None:
                self._settling = threading.Thread(target=self._settle, name="unanswered", daemon=True)
                self._settling.start()

    def _settle(self) -> None:
        """Close connections without an answer, one after the other. None is lent meanwhile in the place of one."""
        while True:
            connection = self._unanswered.get()
            connections.settle(connection)
            self.putconn(connection)


def open_pool(url: str, *, application_name: str, size: int, statement_timeout_ms: int) -> Pool:
    """
    Open a pool of at most `size` connections, which are opened when needed and checked before they are lent (`lend`).
    """
    return Pool(
        url,
        statement_timeout_ms,
        kwargs=connections.parameters(url, application_name),
        min_size=1,
        max_size=size,
        timeout=CONNECT_TIMEOUT_SECONDS,
        reconnect_timeout=RECONNECT_SECONDS,
        name=application_name,
        open=True,
    )


@contextlib.contextmanager
def lend(pool: Pool, within_seconds: float) -> Iterator[Connection]:
    """
    Lend a connection of the pool, for up to `within_seconds`. Raises DatabaseUnavailable.

    The time includes the wait for the connection. A statement without an answer is given up at its end, but not
    before LEAST_ANSWER_SECONDS.
    """
    asked_at = time.monotonic()
    with connections.faults():
        connection = pool.getconn(min(CONNECT_TIMEOUT_SECONDS, within_seconds))
        try:
            left = within_seconds - (time.monotonic() - asked_at)
            connection.answer_timeout_seconds = max(left, LEAST_ANSWER_SECONDS)
            yield connection
        finally:
            pool.give_back(connection)
