"""
The causes of a failure: the calls of the gateway, and the traceback.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from processor.records.documents import Document, timestamp
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)


class Attempt(NamedTuple):
    """One call of a gateway."""

    started_at: datetime
    ended_at: datetime | None
    status: int | None
    outcome: str | None
    error: str | None

    def document(self) -> Document:
        """Return the call as operators see it."""
        fields: Document = self._asdict()
        return fields | {"started_at": timestamp(self.started_at), "ended_at": timestamp(self.ended_at)}


def read_trace(connection: Connection, request_id: UUID) -> str | None:
    """Return the traceback of a failed request, or None. Raises DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_trace"], {"id": request_id}).fetchone()
    return None if row is None else row[0]


def read_attempts(connection: Connection, request_id: UUID) -> list[Attempt]:
    """List the calls of its gateway, oldest first. Raises DatabaseUnavailable."""
    with connections.faults():
        return [Attempt(*row) for row in connection.execute(SQL["read_attempts"], {"id": request_id})]
