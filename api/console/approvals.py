"""
Requests that wait for approval. The forms of this page use the routes of `requests`.
"""

from typing import Final

from api.console.fields import PageQuery
from api.console.pages import Page, Pages, Visit
from processor.reading import request_detail

#: Requests on one page.
LISTED: Final = 25

pages = Pages("approvals")


@pages.get("/approvals", query=PageQuery)
def list_approvals(visit: Visit) -> Page:
    """
    List them, the longest wait first.
    """
    query: PageQuery = visit.query
    with visit.services.connection() as connection:
        found = request_detail.list_awaiting(connection, LISTED, query.cursor)
    context = {"found": found, "own": visit.caller.client, "later": query.cursor is not None}
    return Page("approvals.html", context)
