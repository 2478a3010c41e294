"""
The audit: each act of an operator, with its time and reason.

An act and its line are written in one transaction.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from processor.records.documents import Document, timestamp
from processor.records.pages import Page, page, read_cursor, row_number
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The actors, and the actions, that the console's filter offers.
CHOICES_MAX: Final = 100

SQL = statements.beside(__file__)


class AuditLine(NamedTuple):
    """An act that is still to be written."""

    actor: str
    action: str
    #: The request that the act is about.
    request_id: UUID | None
    reason: str | None
    detail: Document | None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A line of the audit."""

    id: int
    at: datetime
    actor: str
    action: str
    request_id: UUID | None
    reason: str | None
    detail: dict[str, Any] | None

    def document(self) -> Document:
        """Return the line as the API shows it."""
        return {
            "id": self.id,
            "at": timestamp(self.at),
            "actor": self.actor,
            "action": self.action,
            "request": None if self.request_id is None else str(self.request_id),
            "reason": self.reason,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """The lines that a list shows; None: all."""

    actor: str | None = None
    action: str | None = None
    request: UUID | None = None
    #: From `since` on, and before `until`.
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """The actors and actions that the audit has, the first CHOICES_MAX of each."""

    actors: list[str]
    actions: list[str]


def note(
    connection: Connection,
    actor: str,
    action: str,
    request_id: UUID | None,
    reason: str | None,
    detail: Document | None = None,
) -> None:
    """Write a line, in the caller's transaction. Raises DatabaseUnavailable."""
    parameters = {
        "actor": actor,
        "action": action,
        "request_id": request_id,
        "reason": reason,
        "detail": None if detail is None else Jsonb(detail),
    }
    with connections.faults():
        connection.execute(SQL["note"], parameters)


def list_audit(
    connection: Connection, wanted: AuditFilter, limit: int, cursor: str | None
) -> Page[AuditRecord]:
    """List lines of the audit, newest first. Raises CursorInvalid, DatabaseUnavailable."""
    before_at, before_id = read_cursor(cursor, datetime.fromisoformat, row_number)
    parameters: dict[str, Any] = {
        "actor": wanted.actor,
        "action": wanted.action,
        "request": wanted.request,
        "since": wanted.since,
        "until": wanted.until,
    }
    # Only the conditions in use, so that the planner picks the index of each.
    filters = [SQL[f"filter_{name}"] for name, value in parameters.items() if value is not None]
    filters += [SQL["filter_before"]] if cursor is not None else []
    statement = SQL["list_audit"].replace("{filters}", " AND ".join(filters) or "true")
    parameters |= {"before_at": before_at, "before_id": before_id, "limit": limit + 1}
    with connections.faults():
        rows = connection.execute(statement, parameters).fetchall()
    return page([AuditRecord(*row) for row in rows], limit, lambda line: (line.at.isoformat(), str(line.id)))


def read_choices(connection: Connection) -> Choices:
    """Read the choices that the filter offers. Raises DatabaseUnavailable."""
    with connections.faults():
        actors = connection.execute(SQL["distinct_actors"], {"most": CHOICES_MAX}).fetchall()
        actions = connection.execute(SQL["distinct_actions"], {"most": CHOICES_MAX}).fetchall()
    return Choices([name for (name,) in actors], [name for (name,) in actions])
