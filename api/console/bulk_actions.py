"""
Replays and refunds of many failed requests. They run part by part in the background; a page shows their progress.
"""

from dataclasses import replace
from typing import Annotated, Final
from urllib.parse import urlencode
from uuid import UUID

from pydantic import Field

from api.console import bulk_runner
from api.console.failed import FailedForm, read_ids
from api.console.fields import Moment, PageQuery, field_value
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit, read_fields
from api.web.fields import TEXT_CHARACTERS_MAX
from api.web.parsing import read_id
from processor.domain.kinds import KINDS
from processor.operations import bulk_actions
from processor.operations.bulk_actions import Action, Results
from processor.reading.failed import FailedFilter
from processor.reading.units import read_units

#: Requests on one page.
LISTED: Final = 50

pages = Pages("failed")


class BulkForm(FailedForm):
    """The requests that were previewed, the reason, and the id that the preview gave to the action."""

    number: UUID = Field(strict=False)
    #: The time of the preview. Requests that failed later are not included.
    seen: Moment
    reason: Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX)]


@pages.post("/failed/replay")
def replay(visit: Visit) -> Redirect:
    """
    Replay all requests that were previewed.
    """
    return _begin(visit, "replay")


@pages.post("/failed/refund", roles=KINDS["refund"].roles)
def refund(visit: Visit) -> Redirect:
    """
    Refund all requests that were previewed.
    """
    return _begin(visit, "refund")


def _begin(visit: Visit, action: Action) -> Redirect:
    fields = dict(visit.form)
    ids = fields.pop("id", [])
    form = read_fields(BulkForm, fields)
    description: dict[str, object] = {"selected": len(ids)} if ids else dict(form.as_fields())
    chosen = replace(FailedFilter(ids=read_ids(ids)) if ids else form.as_filter(), seen=form.seen)
    with visit.services.connection() as connection:
        bulk_actions.begin(connection, form.number, action, chosen, description, form.reason, visit.caller)
    # The answer includes the first part. The other parts run in the background.
    if bulk_runner.do_part(visit.services, form.number):
        visit.memory.runner.go_on(visit.services, form.number)
    return Redirect(f"{ROOT}/failed/actions/{form.number}")


@pages.get("/failed/actions/<action>", query=PageQuery)
def progress(visit: Visit, action: str) -> Page:
    """
    Show the progress, and the result of each request.
    """
    action_id = read_id(action, "action")
    with visit.services.connection() as connection:
        found = bulk_actions.read(connection, action_id)
        results = Results() if found.finished_at is None else bulk_actions.count_results(connection, found)
        items = bulk_actions.list_items(connection, action_id, LISTED, visit.query.cursor)
        units = read_units(connection, (one.resource_id for one in items.rows))
    if found.finished_at is None:
        visit.memory.runner.go_on(visit.services, action_id)
    context = {
        "action": found,
        "results": results,
        "items": items,
        "units": units,
        "is_live": found.finished_at is None or results.under_way > 0,
        "failed_again": f"{ROOT}/failed?" + urlencode({"since": field_value(found.started_at)}),
    }
    return Page("bulk_action.html", context)


@pages.post("/failed/actions/<action>/stop")
def stop(visit: Visit, action: str) -> Redirect:
    """
    Stop an action. Requests that were sent before are decided.
    """
    action_id = read_id(action, "action")
    with visit.services.connection() as connection:
        stopped = bulk_actions.stop(connection, action_id, visit.caller)
    text = "The action is stopped. Nothing more is sent." if stopped else "The action had already ended."
    return Redirect(f"{ROOT}/failed/actions/{action_id}", Notice(text))
