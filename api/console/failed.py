"""
Failed requests: the list with its filter, and the preview of a replay or refund.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import urlencode
from uuid import UUID

from api.console.fields import Moment, field_value
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit, read_fields
from api.web.fields import Body, optional
from api.web.parsing import read_id
from api.web.problems import Invalid
from processor.ids import new_id
from processor.operations import bulk_actions, failed_requests
from processor.reading import failed
from processor.reading.failed import FailedFilter
from processor.reading.units import read_units
from processor.storage.connections import Connection

#: Requests on one page.
LISTED: Final = 50
#: Bulk actions on the page.
RECENT: Final = 5
#: Requests in a preview.
PREVIEWED: Final = 5
#: The causes of a failed request, and their titles.
CODES: Final = (
    ("gateway_unreachable", "Gateway unreachable"),
    ("gateway_misconfigured", "Gateway misconfigured"),
    ("processor_error", "Processor error"),
)

pages = Pages("failed")


class FailedForm(Body):
    """The filter of failed requests."""

    code: str = optional()
    resource: str = optional()
    account: str = optional()
    client: str = optional()
    since: Moment = optional()
    until: Moment = optional()

    def as_filter(self) -> FailedFilter:
        """
        Return the filter for queries. An empty field does not filter.
        """
        return FailedFilter(**{name: value or None for name, value in self._values().items()})

    def as_fields(self) -> dict[str, str]:
        """
        Return the fields that filter, as texts for an address or a form.
        """
        return {
            name: field_value(value) if isinstance(value, datetime) else value
            for name, value in self._values().items()
            if value
        }

    def _values(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in FailedForm.model_fields}
        return {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}


class FailedQuery(FailedForm):
    """The filter of failed requests, and the page."""

    cursor: str = optional()
    #: The time of a page that asks whether requests have failed since.
    seen: Moment | None = optional()


class PreviewForm(FailedForm):
    """The filter of failed requests, and the action to preview."""

    action: Literal["replay", "refund"]


@pages.get("/failed", query=FailedQuery)
def list_failed(visit: Visit) -> Page:
    """
    List the failed requests that match, the last to fail first, and the last bulk actions.
    """
    query: FailedQuery = visit.query
    chosen = query.as_filter()
    with visit.services.connection() as connection:
        found = failed.list_failed(connection, chosen, LISTED, query.cursor)
        summary = failed.sum_up(connection, chosen)
        recent = bulk_actions.list_actions(connection, RECENT)
        units = read_units(connection, (one.resource_id for one in found.rows))
        seen = query.seen or bulk_actions.read_now(connection)
        newer = 0 if query.seen is None else _count_since(connection, chosen, seen)
    for action in recent:
        if action.finished_at is None:  # the process that ran it may have ended
            visit.memory.runner.go_on(visit.services, action.id)
    fields = query.as_fields()
    context = {
        "found": found,
        "summary": summary,
        "units": units,
        "recent": recent,
        "fields": fields,
        "shown": dict.fromkeys(FailedForm.model_fields) | fields,
        "query": urlencode(fields),
        "newer": newer,
        "watch": urlencode(fields | {"seen": seen.isoformat()}),
        "codes": CODES,
        "later": query.cursor is not None,
    }
    return Page("failed.html", context)


def _count_since(connection: Connection, chosen: FailedFilter, seen: datetime) -> int:
    """
    Count the requests that match and have failed since a time.
    """
    since = seen if chosen.since is None else max(seen, chosen.since)
    return failed.sum_up(connection, replace(chosen, since=since)).requests


@pages.get("/failed/preview", query=PreviewForm)
def preview(visit: Visit) -> Page:
    """
    Preview an action on all requests that match.
    """
    query: PreviewForm = visit.query
    return _preview(visit, query, None)


@pages.post("/failed/preview")
def preview_selected(visit: Visit) -> Page | Redirect:
    """
    Preview an action on the requests that were selected. Their ids are repeated fields `id`.
    """
    fields = dict(visit.form)
    ids = fields.pop("id", [])
    form = read_fields(PreviewForm, fields)
    if not ids:
        filters = form.as_fields()
        return Redirect(
            f"{ROOT}/failed" + (f"?{urlencode(filters)}" if filters else ""),
            Notice("No request was selected. Select some, or use the buttons for all matches.", "failed"),
        )
    return _preview(visit, form, read_ids(ids))


def read_ids(texts: list[str]) -> tuple[UUID, ...]:
    """
    Read the ids of selected requests. Raises NotFound, or Invalid for more than a page of them.
    """
    if len(texts) > LISTED:
        raise Invalid.at("/id", f"at most {LISTED} requests can be selected")
    return tuple(read_id(text, "request") for text in texts)


def _preview(visit: Visit, form: PreviewForm, ids: tuple[UUID, ...] | None) -> Page:
    if form.action == "refund":
        failed_requests.require_refunder(visit.caller.role)
    with visit.services.connection() as connection:
        seen = bulk_actions.read_now(connection)
        chosen = FailedFilter(ids=ids, seen=seen) if ids else replace(form.as_filter(), seen=seen)
        summary = failed.sum_up(connection, chosen)
        first = failed.list_failed(connection, chosen, PREVIEWED, None)
        units = read_units(connection, (one.resource_id for one in first.rows))
    fields = form.as_fields()
    context: dict[str, Any] = {
        "action": form.action,
        "summary": summary,
        "first": first.rows,
        "units": units,
        "fields": fields,
        "query": urlencode(fields),
        "ids": ids,
        "seen": seen,
        # The id of the action is made here, so that a form that is sent twice begins one action.
        "number": new_id(),
    }
    return Page("failed_preview.html", context)
