"""
Reservations that are held, the first to expire first, for operators.
"""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from processor.domain.amounts import NO_UNIT, format_amount
from processor.reading.units import read_units
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
    """A reservation that is held, and until when."""

    expires_at: datetime
    request: RequestRecord
    #: The resources that it holds, each with the amount as people write it.
    amounts: list[tuple[str, str]]


def list_held(connection: Connection, limit: int, cursor: str | None) -> Page[HeldRequest]:
    """
    List the reservations of all clients that are held. Those whose capture or release was accepted are left out.

    Raises CursorInvalid, DatabaseUnavailable.
    """
    after, after_id = read_cursor(cursor, datetime.fromisoformat, UUID)
    parameters = {"after": after, "after_id": after_id, "limit": limit + 1}
    with connections.faults():
        rows = connection.execute(SQL["list_held"], parameters).fetchall()
    held = [(at, RequestRecord(*row)) for at, *row in rows]
    units = read_units(connection, [leg.resource_id for _, request in held for leg in request.takes])
    found = [
        HeldRequest(
            at,
            request,
            [
                (leg.resource_id, format_amount(leg.quantity, units.get(leg.resource_id, NO_UNIT)))
                for leg in request.takes
            ],
        )
        for at, request in held
    ]
    return page(found, limit, lambda one: (one.expires_at.isoformat(), str(one.request.id)))
