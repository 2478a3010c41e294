"""
The audit: every action except making requests, with its actor, time and reason.
"""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import AfterValidator

from api.console.fields import Moment, PageQuery, field_value
from api.console.pages import Page, Pages, Visit
from api.web.fields import optional
from processor.reading.units import read_units_of_requests
from processor.records import audit
from processor.records.audit import AuditFilter

#: Lines on one page.
LISTED: Final = 50

pages = Pages("audit")


def _uuid(value: str) -> str:
    try:
        return str(UUID(value.strip()))
    except ValueError:
        raise ValueError("must be the id of a request") from None


class AuditQuery(PageQuery):
    """The filter of the audit, and the page."""

    actor: str = optional()
    action: str = optional()
    request: Annotated[str, AfterValidator(_uuid)] | None = optional()
    since: Moment = optional()
    until: Moment = optional()


@pages.get("/audit", query=AuditQuery)
def list_audit(visit: Visit) -> Page:
    """
    List the lines that match, newest first.
    """
    query: AuditQuery = visit.query
    request_id = None if query.request is None else UUID(query.request)
    chosen = AuditFilter(query.actor, query.action, request_id, query.since, query.until)
    with visit.services.connection() as connection:
        found = audit.list_audit(connection, chosen, LISTED, query.cursor)
        choices = audit.read_choices(connection)
        about = [line.request_id for line in found.rows if line.request_id and line.detail]
        units = read_units_of_requests(connection, about)
    values = query.model_dump(exclude={"cursor"})
    fields = {
        name: field_value(value) if isinstance(value, datetime) else value for name, value in values.items()
    }
    context = {
        "found": found,
        "units": units,
        "fields": fields,
        "choices": choices,
        "later": query.cursor is not None,
    }
    return Page("audit.html", context)
