"""
Requests that are not in the database: each has left for a file, or does not exist for its reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processor.errors import Archived, RequestNotFound
from processor.storage import connections, statements

if TYPE_CHECKING:
    from uuid import UUID

    from processor.storage.connections import Connection

SQL: Final = statements.beside(__file__)


def missing(connection: Connection, request_id: UUID, client: str | None) -> Archived | RequestNotFound:
    """
    Return the error for a request that was not found. `client` is its reader; None sees all.

    Raises DatabaseUnavailable.
    """
    with connections.faults():
        row = connection.execute(SQL["find"], {"id": request_id, "client": client}).fetchone()
    if row is None:
        return RequestNotFound(request_id)
    return Archived(f"request {request_id} is in the archive, in the file {row[0]}", row[0])
