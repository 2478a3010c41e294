"""
Reservations that are held: until when, and their release.
"""

from typing import Final

from api.console.fields import PageQuery, ReasonBackForm
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit
from api.console.requests import await_decision
from api.web.parsing import read_id
from processor.operations import reservations
from processor.operations.reservations import NotHeld
from processor.reading import reservations as held

#: Reservations on one page.
LISTED: Final = 50

pages = Pages("reservations")


@pages.get("/reservations", query=PageQuery)
def list_reservations(visit: Visit) -> Page:
    """
    List them, the first to expire first.
    """
    query: PageQuery = visit.query
    with visit.services.connection() as connection:
        found = held.list_held(connection, LISTED, query.cursor)
    return Page("reservations.html", {"found": found, "later": query.cursor is not None})


@pages.post("/requests/<request>/release")
def release(visit: Visit, request: str) -> Redirect:
    """
    Release a reservation.
    """
    request_id, form = read_id(request, "request"), visit.read(ReasonBackForm)
    back = form.page_or(f"{ROOT}/requests/{request_id}")
    try:
        with visit.services.connection() as connection:
            _, command = reservations.release(connection, request_id, visit.caller, form.reason)
    except NotHeld:
        return Redirect(back, Notice("The request is no longer held.", "failed"))
    visit.services.doorbell.notify(command.partition)
    await_decision(visit, request_id)
    return Redirect(back, Notice("The release is accepted, and is decided in its turn."))
