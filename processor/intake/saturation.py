"""
Saturation: the partitions whose backlog has reached its limit, so that intake refuses more requests for them.

A thread of its own measures it, so that the cost of accepting does not grow with the backlog. The same thread notes
whether commits wait for a synchronous standby.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from processor.errors import DatabaseUnavailable
from processor.storage import connections, statements
from processor.storage.connections import Connection, Reconnecting

#: The pause between two measurements, and the share of time that measuring may take.
INTERVAL_SECONDS: Final = 1.0
SHARE_OF_TIME: Final = 0.1
#: A commit that takes longer counts as waiting for a standby.
STANDBY_WAIT_SECONDS: Final = 1.0
#: The size of the smallest inbox row with its header and line pointer. The size of the inbox divided by it is the
#: largest number of rows.
SMALLEST_INBOX_ROW_BYTES: Final = 76

SQL = statements.beside(__file__)
log = structlog.get_logger()


class Saturation:
    """
    Keeps `partitions` up to date on a thread of its own: those with `backlog_limit` inbox rows or more.
    """

    def __init__(self, connect: Callable[[], Connection], backlog_limit: int) -> None:
        self._backlog_limit = backlog_limit
        self._connection = Reconnecting(connect)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saturation", daemon=True)
        self.partitions: frozenset[int] = frozenset()
        #: When the commit began that has no answer yet, by the monotonic clock.
        self._commit_began: float | None = None

    @property
    def waits_for_standby(self) -> bool:
        """Whether a commit waits for a synchronous standby."""
        began = self._commit_began
        return began is not None and time.monotonic() - began > STANDBY_WAIT_SECONDS

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()

    def _run(self) -> None:
        pause = INTERVAL_SECONDS
        while not self._stopping.wait(pause):
            try:
                self._commit()
                started = time.monotonic()
                with connections.faults():
                    self.partitions = _saturated(self._connection.get(), self._backlog_limit)
                pause = max(INTERVAL_SECONDS, (time.monotonic() - started) / SHARE_OF_TIME)
            except DatabaseUnavailable:
                self._connection.close()  # accepting fails too, and reports it
            except Exception:
                log.exception("saturation_fault")
                self._connection.close()
            self._commit_began = None
        self._connection.close()

    def _commit(self) -> None:
        """Commit nothing, as durably as a request. Raises DatabaseUnavailable."""
        connection = self._connection.get()
        self._commit_began = time.monotonic()
        await_standby(connection)
        self._commit_began = None


def await_standby(connection: Connection) -> None:
    """
    Wait until a synchronous standby, if there is one, has all that this connection can read.

    Raises DatabaseUnavailable.
    """
    with connections.faults():
        connection.execute(SQL["await_standby"])


def _saturated(connection: Connection, limit: int) -> frozenset[int]:
    """Return the saturated partitions. Reads the inbox only if its size allows one."""
    [(at_most,)] = connection.execute(
        SQL["estimate_inbox"], {"row_bytes": SMALLEST_INBOX_ROW_BYTES}
    ).fetchall()
    if at_most < limit:
        return frozenset()
    backlogs = connection.execute(SQL["read_backlogs"]).fetchall()
    return frozenset(partition for partition, waiting in backlogs if waiting >= limit)
