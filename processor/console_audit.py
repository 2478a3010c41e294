"""
The audit as the console shows it: who did what, when and why, by any of these.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from processor import database
from processor.database import Connection
from processor.queries import AuditRecord, Page, page, read_cursor, row_number

#: Actors and actions to choose from.
CHOICES_MAX: Final = 100

SQL = database.queries("console_audit")


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which lines; None: all."""

    actor: str | None = None
    action: str | None = None
    request: UUID | None = None
    #: From this moment on, and before that one.
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """Who and what can be asked for, the first CHOICES_MAX of each."""

    actors: list[str]
    actions: list[str]


def list_audit(
    connection: Connection, wanted: AuditFilter, limit: int, cursor: str | None
) -> Page[AuditRecord]:
    """Lines of the audit, newest first. Raises CursorInvalid, DatabaseUnavailable."""
    before_at, before_id = read_cursor(cursor, datetime.fromisoformat, row_number)
    parameters: dict[str, Any] = {
        "actor": wanted.actor,
        "action": wanted.action,
        "request": wanted.request,
        "since": wanted.since,
        "until": wanted.until,
    }
    # Only the conditions that are asked for, so that each has the plan that its index gives it.
    filters = [SQL[f"filter_{name}"] for name, value in parameters.items() if value is not None]
    filters += [SQL["filter_before"]] if cursor is not None else []
    statement = SQL["list_audit"].replace("{filters}", " AND ".join(filters) or "true")
    parameters |= {"before_at": before_at, "before_id": before_id, "limit": limit + 1}
    with database.faults():
        rows = connection.execute(statement, parameters).fetchall()
    return page([AuditRecord(*row) for row in rows], limit, lambda line: (line.at.isoformat(), str(line.id)))


def read_choices(connection: Connection) -> Choices:
    """What the filter offers. Raises DatabaseUnavailable."""
    with database.faults():
        actors = connection.execute(SQL["distinct_actors"], {"most": CHOICES_MAX}).fetchall()
        actions = connection.execute(SQL["distinct_actions"], {"most": CHOICES_MAX}).fetchall()
    return Choices([name for (name,) in actors], [name for (name,) in actions])
