"""
Results of the lab's page, so that each run has an address. Only the latest are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg.types.json import Jsonb

from lab.strategies import SQL
from processor.ids import new_id
from processor.storage import connections

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from processor.storage.connections import Connection

#: The number of results that are kept.
RESULTS_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result with its time."""

    document: dict[str, Any]
    at: datetime


def save(connection: Connection, document: dict[str, Any]) -> UUID:
    """Store a result and delete the oldest ones. Returns its id."""
    result = new_id()
    with connections.faults(), connection.transaction():
        connection.execute(SQL["save_result"], {"id": result, "document": Jsonb(document)})
        connection.execute(SQL["keep_latest"], {"most": RESULTS_MAX})
    return result


def read(connection: Connection, result: UUID) -> StoredResult | None:
    """Return a result, or None if it is not stored (or no longer)."""
    with connections.faults():
        rows = connection.execute(SQL["read_result"], {"id": result}).fetchall()
    return StoredResult(*rows[0]) if rows else None
