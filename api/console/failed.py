"""
Parked requests: the list with its filter, and what an action on all that match would do.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BeforeValidator

from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit, read_fields
from api.web.fields import Body, optional
from api.web.parsing import read_id
from api.web.problems import Forbidden, Invalid
from processor.ids import new_id
from processor.operations import bulk_actions
from processor.reading import failed
from processor.reading.failed import FailedFilter

#: Requests of one page.
LISTED: Final = 50
#: Bulk actions that are shown below them.
RECENT: Final = 5
#: Why a request can have failed, and what that is called.
CODES: Final = (
    ("gateway_unreachable", "Gateway unreachable"),
    ("gateway_misconfigured", "Gateway misconfigured"),
    ("processor_error", "Processor error"),
)

pages = Pages("failed")


def moment(value: object) -> object:
    """A time without an offset, as browsers send it: it is meant in UTC. Raises ValueError."""
    if not isinstance(value, str):
        return value
    try:
        read = datetime.fromisoformat(value)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time, such as 2026-11-22T04:30") from None


Moment = Annotated[datetime, BeforeValidator(moment)]


class Filter(Body):
    """Which of them."""

    code: str = optional()
    resource: str = optional()
    account: str = optional()
    client: str = optional()
    since: Moment = optional()
    until: Moment = optional()

    def chosen(self) -> FailedFilter:
        """As the database is asked."""
        return FailedFilter(**{name: value or None for name, value in self._given().items()})

    def fields(self) -> dict[str, str]:
        """As they stand in an address, and in the fields of a form; only those that say something."""
        return {
            name: as_sent(value) if isinstance(value, datetime) else value
            for name, value in self._given().items()
            if value
        }

    def _given(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in Filter.model_fields}
        return {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}


class Wanted(Filter):
    """Which of them, and which part of the list."""

    cursor: str = optional()


class Previewed(Filter):
    """What shall be done to all that match."""

    action: Literal["replay", "refund"]


@pages.get("/failed", query=Wanted)
def list_failed(visit: Visit) -> Page:
    """Those that failed last come first."""
    wanted: Wanted = visit.query
    chosen = wanted.chosen()
    with visit.services.connection() as connection:
        found = failed.list_failed(connection, chosen, LISTED, wanted.cursor)
        summary = failed.sum_up(connection, chosen)
        recent = bulk_actions.list_actions(connection, RECENT)
    for action in recent:
        if action.finished_at is None:  # whoever was at it may be no more
            visit.memory.runner.go_on(visit.services, action.id)
    fields = wanted.fields()
    context = {
        "found": found,
        "summary": summary,
        "recent": recent,
        "fields": fields,
        "shown": dict.fromkeys(Filter.model_fields) | fields,
        "query": urlencode(fields),
        "codes": CODES,
        "later": wanted.cursor is not None,
    }
    return Page("failed.html", context)


@pages.get("/failed/preview", query=Previewed)
def preview(visit: Visit) -> Page:
    """What would be done to all that match, before anything is done."""
    wanted: Previewed = visit.query
    return _preview(visit, wanted.action, wanted, None)


@pages.post("/failed/preview")
def preview_selected(visit: Visit) -> Page | Redirect:
    """What would be done to those that were ticked: `id`, many times."""
    form = dict(visit.form)
    ids = form.pop("id", [])
    sent = read_fields(Previewed, form)
    if not ids:
        where = f"{ROOT}/failed" + (f"?{urlencode(sent.fields())}" if sent.fields() else "")
        return Redirect(
            where,
            Notice("No request was selected. Select some, or use the buttons for all matches.", "failed"),
        )
    return _preview(visit, sent.action, sent, named(ids))


def named(ids: list[str]) -> tuple[UUID, ...]:
    """The ids of a form. Raises NotFound, Invalid."""
    if len(ids) > LISTED:
        raise Invalid.at("/id", f"at most {LISTED} requests can be selected")
    return tuple(read_id(text, "request") for text in ids)


def _preview(visit: Visit, action: str, wanted: Filter, ids: tuple[UUID, ...] | None) -> Page:
    if action == "refund" and not visit.may("admin"):
        raise Forbidden("refunds need the role admin: nothing was done")
    with visit.services.connection() as connection:
        seen = bulk_actions.read_now(connection)
        chosen = FailedFilter(ids=ids, seen=seen) if ids else replace(wanted.chosen(), seen=seen)
        summary = failed.sum_up(connection, chosen)
        first = failed.list_failed(connection, chosen, 5, None)
    fields = wanted.fields()
    context: dict[str, Any] = {
        "action": action,
        "summary": summary,
        "first": first.rows,
        "fields": fields,
        "query": urlencode(fields),
        "ids": ids,
        "seen": seen,
        # Made here, so that a form that is sent twice begins once.
        "number": new_id(),
    }
    return Page("failed_preview.html", context)


def as_sent(value: datetime) -> str:
    """As a browser's field has it: to the second, without the offset."""
    return value.replace(tzinfo=None).isoformat(timespec="seconds")
