"""
The retention of deliveries and attempts: rows that are old enough are removed, a part of a table at a time.
"""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from processor.ids import first_id_at
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The rows of a part. A part takes a few milliseconds, so other statements do not wait for it.
PART_ROWS: Final = 1_000

SQL: Final = statements.beside(__file__)


def remove_deliveries(connection: Connection, days: int, after: int) -> tuple[int, int | None]:
    """
    Remove old deliveries among the next ones after an id, except pending ones.

    Returns the number that was removed, and the id to go on from; None: the rest is not old. Raises
    DatabaseUnavailable.
    """
    with connections.faults():
        [(last, is_old, removed)] = connection.execute(
            SQL["remove_deliveries"], {"days": days, "after": after, "limit": PART_ROWS}
        ).fetchall()
    return removed, last if is_old else None


def remove_attempts(connection: Connection, days: int, after: UUID) -> tuple[int, UUID | None]:
    """
    Remove old attempts of the next requests after an id.

    Returns the number that was removed, and the id to go on from; None: there is no older request. Raises
    DatabaseUnavailable.
    """
    bound = first_id_at(datetime.now(UTC) - timedelta(days=days))
    with connections.faults():
        [(last, _, removed)] = connection.execute(
            SQL["remove_attempts"], {"days": days, "after": after, "bound": bound, "limit": PART_ROWS}
        ).fetchall()
    return removed, last
