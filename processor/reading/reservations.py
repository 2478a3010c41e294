"""
Reservations that are held, the first to expire first, for operators.
"""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from processor.domain.amounts import Unit
from processor.records import documents
from processor.records.documents import RequestRecord
from processor.records.pages import Page, page, read_cursor
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL: Final = {
    name: text.replace("{request_columns}", documents.REQUEST_COLUMNS)
    for name, text in statements.beside(__file__).items()
}


class HeldRequest(NamedTuple):
    """A reservation that is held, and the unit of its resource."""

    unit: Unit
    expires_at: datetime
    request: RequestRecord


def list_held(connection: Connection, limit: int, cursor: str | None) -> Page[HeldRequest]:
    """
    List the reservations of all clients that are held. Those whose capture or release was accepted are left out.

    Raises CursorInvalid, DatabaseUnavailable.
    """
    after, after_id = read_cursor(cursor, datetime.fromisoformat, UUID)
    parameters = {"after": after, "after_id": after_id, "limit": limit + 1}
    with connections.faults():
        rows = connection.execute(SQL["list_held"], parameters).fetchall()
    found = [HeldRequest(Unit(unit, decimals), at, RequestRecord(*row)) for unit, decimals, at, *row in rows]
    return page(found, limit, lambda one: (one.expires_at.isoformat(), str(one.request.id)))
