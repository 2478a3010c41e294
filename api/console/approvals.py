"""
Withdrawals that wait for another person's approval. What is said about them goes where their own page sends it.
"""

from typing import Final

from api.console.pages import Page, Pages, Visit
from api.web.fields import Body, optional
from processor.reading import request_detail

#: Requests of one page.
LISTED: Final = 25

pages = Pages("approvals")


class Wanted(Body):
    """Which part of them."""

    cursor: str = optional()


@pages.get("/approvals", query=Wanted)
def list_approvals(visit: Visit) -> Page:
    """Who waits for the longest comes first."""
    wanted: Wanted = visit.query
    with visit.services.connection() as connection:
        found = request_detail.list_awaiting(connection, LISTED, wanted.cursor)
    context = {"found": found, "own": visit.caller.client, "later": wanted.cursor is not None}
    return Page("approvals.html", context)
