"""
Replays and refunds of many parked requests: begun here, done part by part in the background, and how far they are.
"""

from dataclasses import replace
from typing import Annotated, Final, NoReturn
from urllib.parse import urlencode
from uuid import UUID

from pydantic import Field

from api.console import bulk_runner
from api.console.failed import Filter, Moment, named
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit, read_fields
from api.web.fields import TEXT_CHARACTERS_MAX, Body, optional
from api.web.problems import Forbidden, NotFound
from processor.domain.roles import ADMINS
from processor.operations import bulk_actions
from processor.operations.bulk_actions import Action, BulkAction, Results
from processor.reading.failed import FailedFilter

#: Requests of one page.
LISTED: Final = 50

pages = Pages("failed")


class Beginning(Filter):
    """On which requests, why, and the number that the form was given."""

    number: UUID = Field(strict=False)
    #: What had failed when the preview was made.
    seen: Moment
    reason: Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX)]


class Part(Body):
    """Which part of its requests."""

    cursor: str = optional()


@pages.post("/failed/replay")
def replay(visit: Visit) -> Redirect:
    """All of them go back to the end of their queues."""
    return _begin(visit, "replay")


@pages.post("/failed/refund", roles=ADMINS)
def refund(visit: Visit) -> Redirect:
    """What all of them hold goes back."""
    return _begin(visit, "refund")


def _begin(visit: Visit, action: Action) -> Redirect:
    form = dict(visit.form)
    ids = form.pop("id", [])
    sent = read_fields(Beginning, form)
    said: dict[str, object] = {"selected": len(ids)} if ids else dict(sent.fields())
    chosen = FailedFilter(ids=named(ids)) if ids else sent.chosen()
    with visit.services.connection() as connection:
        bulk_actions.begin(
            connection, sent.number, action, replace(chosen, seen=sent.seen), said, sent.reason, visit.caller
        )
    # What is done in one part is done when the page comes; the rest goes on behind it.
    if bulk_runner.do_part(visit.services, sent.number):
        visit.memory.runner.go_on(visit.services, sent.number)
    return Redirect(f"{ROOT}/failed/actions/{sent.number}")


@pages.get("/failed/actions/<action>", query=Part)
def progress(visit: Visit, action: str) -> Page:
    """How far it is, and what became of each request."""
    number = _number(action)
    with visit.services.connection() as connection:
        found = bulk_actions.read(connection, number) or _none()
        results = Results() if found.finished_at is None else bulk_actions.count_results(connection, found)
        items = bulk_actions.list_items(connection, number, LISTED, visit.query.cursor)
    if found.finished_at is None:
        visit.memory.runner.go_on(visit.services, number)
    failed_again = f"{ROOT}/failed?" + urlencode({"since": f"{found.started_at:%Y-%m-%dT%H:%M:%S}"})
    context = {
        "action": found,
        "results": results,
        "items": items,
        "is_live": found.finished_at is None or results.under_way > 0,
        "failed_again": failed_again,
    }
    return Page("bulk_action.html", context)


@pages.post("/failed/actions/<action>/stop")
def stop(visit: Visit, action: str) -> Redirect:
    """No more is sent; what was sent takes its way."""
    number = _number(action)
    with visit.services.connection() as connection:
        found: BulkAction = bulk_actions.read(connection, number) or _none()
        if found.action == "refund" and not visit.may("admin"):
            raise Forbidden("only an admin can stop refunds: nothing was done")
        stopped = bulk_actions.stop(connection, number, visit.caller)
    text = "The action is stopped. Nothing more is sent." if stopped else "The action had already ended."
    return Redirect(f"{ROOT}/failed/actions/{number}", Notice(text))


def _number(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        _none()


def _none() -> NoReturn:
    raise NotFound("there is no such action")
