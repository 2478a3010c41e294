"""
The audit: who did what, when and why.
"""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import AfterValidator

from api.console.failed import Moment
from api.console.pages import Page, Pages, Visit
from api.web.fields import Body, optional
from processor.records import audit
from processor.records.audit import AuditFilter

#: Lines of one page.
LISTED: Final = 50

pages = Pages("audit")


def _uuid(value: str) -> str:
    try:
        return str(UUID(value.strip()))
    except ValueError:
        raise ValueError("must be the id of a request") from None


class Wanted(Body):
    """Which lines, and which part of them."""

    actor: str = optional()
    action: str = optional()
    request: Annotated[str, AfterValidator(_uuid)] | None = optional()
    since: Moment = optional()
    until: Moment = optional()
    cursor: str = optional()


@pages.get("/audit", query=Wanted)
def list_audit(visit: Visit) -> Page:
    """Newest first."""
    wanted: Wanted = visit.query
    chosen = AuditFilter(
        wanted.actor,
        wanted.action,
        None if wanted.request is None else UUID(wanted.request),
        wanted.since,
        wanted.until,
    )
    with visit.services.connection() as connection:
        found = audit.list_audit(connection, chosen, LISTED, wanted.cursor)
        choices = audit.read_choices(connection)
    fields = wanted.model_dump(exclude={"cursor", "since", "until"}) | {
        "since": _as_sent(wanted.since),
        "until": _as_sent(wanted.until),
    }
    context = {"found": found, "fields": fields, "choices": choices, "later": wanted.cursor is not None}
    return Page("audit.html", context)


def _as_sent(moment: datetime | None) -> str | None:
    """As a browser's field has it: to the second, and without the offset."""
    return None if moment is None else moment.replace(tzinfo=None).isoformat(timespec="seconds")
