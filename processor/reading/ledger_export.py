"""
The entries and balances of one snapshot, for files that other programs read.

The memory of an export does not grow with the number of entries.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.domain.amounts import Unit
from processor.errors import Archived, TellerError
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The rows that each cursor fetches at once.
FETCHED_ROWS: Final = 2_000

SQL: Final = statements.beside(__file__)


class ResourcesMissing(TellerError):
    """An export names resources that do not exist."""

    code = "resource_not_found"


class ExportedResource(NamedTuple):
    """A resource, with its quantities before the first entry of the period and after its last one."""

    id: str
    kind: str
    unit: Unit
    created_at: datetime
    available_before: int
    held_before: int
    available: int
    held: int


class ExportedEntry(NamedTuple):
    """An entry. `client` and `account` name the account, if it has one."""

    resource_id: str
    version: int
    kind: str
    request_id: UUID
    client: str
    account: str | None
    amount: int
    available: int
    held: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class LedgerExport:
    """The ledger of a period: the resources in the order of their ids, and their entries in the same order."""

    #: The time of the snapshot.
    at: datetime
    #: The greatest possible number of entries.
    entries_max: int
    resources: Iterator[ExportedResource]
    entries: Iterator[ExportedEntry]
    #: The last time of which entries are in the archive; None: none has left. Resources begin with their checkpoints.
    archived_until: datetime | None


@contextmanager
def open_export(
    connection: Connection,
    resources: list[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[LedgerExport]:
    """
    Read the entries from `since` on and before `until`, of these resources (None: of all), in one transaction.

    A resource without entries in the period is included, except if it was opened later. Entries in the archive are
    left out. Raises ResourcesMissing, DatabaseUnavailable; Archived if `until` is a time of such entries.
    """
    parameters: dict[str, Any] = {"resources": resources, "since": since, "until": until}
    with connections.faults(), connection.transaction():
        connection.execute(SQL["take_snapshot"])
        missing = connection.execute(SQL["missing_resources"], {"resources": resources or []}).fetchall()
        if missing:
            raise ResourcesMissing("there is no resource " + ", ".join(name for (name,) in missing))
        [(archived_until,)] = connection.execute(SQL["archived_until"], parameters).fetchall()
        if until is not None and archived_until is not None and until <= archived_until:
            raise Archived(f"entries up to {archived_until:%Y-%m-%dT%H:%M:%S.%fZ} are in the archive", None)
        [(entries_max,)] = connection.execute(SQL["count"], parameters).fetchall()
        [(at,)] = connection.execute("SELECT now()").fetchall()
        with connection.cursor(name="resources") as found, connection.cursor(name="entries") as entries:
            for cursor, name in ((found, "read_resources"), (entries, "read_entries")):
                cursor.itersize = FETCHED_ROWS
                cursor.execute(SQL[name], parameters)
            yield LedgerExport(
                at,
                entries_max,
                (
                    ExportedResource(name, kind, Unit(unit, decimals), *rest)
                    for name, kind, unit, decimals, *rest in found
                ),
                (ExportedEntry(*row) for row in entries),
                archived_until,
            )
