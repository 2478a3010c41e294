"""
Saturation: which partitions have as much waiting as they may, so that intake can say no.

Looks off the request path, so that accepting costs the same however much waits.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from processor.errors import DatabaseUnavailable
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: How often it looks, in seconds, and the part of the time it may spend on looking.
INTERVAL_SECONDS: Final = 1.0
SHARE_OF_TIME: Final = 0.1
#: Bytes of the smallest inbox row with its header and line pointer: the inbox has at most its size divided by
#: this many rows.
SMALLEST_INBOX_ROW_BYTES: Final = 76

SQL = statements.beside(__file__)
log = structlog.get_logger()


class Saturation:
    """
    Keeps `partitions` up to date on a thread of its own: those with `backlog_limit` inbox rows or more.
    """

    def __init__(self, connect: Callable[[], Connection], backlog_limit: int) -> None:
        self._connect = connect
        self._backlog_limit = backlog_limit
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saturation", daemon=True)
        self.partitions: frozenset[int] = frozenset()

    def start(self) -> None:
        """Begin to look; once."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def _run(self) -> None:
        pause = INTERVAL_SECONDS
        while not self._stopping.wait(pause):
            started = time.monotonic()
            try:
                with connections.faults():
                    self._connection = self._connection or self._connect()
                    self.partitions = _saturated(self._connection, self._backlog_limit)
            except DatabaseUnavailable:
                self._forget_connection()  # whoever accepts finds out, too
            except Exception:
                log.exception("saturation_fault")
                self._forget_connection()
            pause = max(INTERVAL_SECONDS, (time.monotonic() - started) / SHARE_OF_TIME)
        self._forget_connection()

    def _forget_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _saturated(connection: Connection, limit: int) -> frozenset[int]:
    """Reads the inbox only when its size says that a partition could be over the limit."""
    [(at_most,)] = connection.execute(
        SQL["estimate_inbox"], {"row_bytes": SMALLEST_INBOX_ROW_BYTES}
    ).fetchall()
    if at_most < limit:
        return frozenset()
    backlogs = connection.execute(SQL["read_backlogs"]).fetchall()
    return frozenset(partition for partition, waiting in backlogs if waiting >= limit)
