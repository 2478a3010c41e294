"""
Requests that wait for approval. The forms of this page use the routes of `requests`.
"""

from typing import Final

from api.console.fields import PageQuery
from api.console.pages import Page, Pages, Visit
from processor.reading import request_detail, request_lists, requests
from processor.reading.request_lists import RequestFilter
from processor.reading.units import read_units
from processor.records.documents import RequestRecord, ResourceRecord
from processor.storage.connections import Connection

#: Requests on one page.
LISTED: Final = 25
#: The last requests of its account that are shown with each.
PAST: Final = 5

pages = Pages("approvals")


@pages.get("/approvals", query=PageQuery)
def list_approvals(visit: Visit) -> Page:
    """
    List them, the longest wait first.
    """
    query: PageQuery = visit.query
    with visit.services.connection() as connection:
        found = request_detail.list_awaiting(connection, LISTED, query.cursor)
        facts = {one.request.id: _facts_of(connection, one.request) for one in found.rows}
        units = read_units(connection, {one.resource_id for _, past in facts.values() for one in past})
    context = {
        "found": found,
        "facts": facts,
        "units": units,
        "own": visit.caller.client,
        "later": query.cursor is not None,
    }
    return Page("approvals.html", context)


def _facts_of(
    connection: Connection, request: RequestRecord
) -> tuple[ResourceRecord | None, list[RequestRecord]]:
    """
    Return what a verdict needs: the resource as it is now, and the last requests of the account before this one.
    """
    resource = requests.read_resource(connection, request.resource_id, None)
    if request.account is None:
        return resource, []
    chosen = RequestFilter(client=request.client_id, account=request.account)
    past = request_lists.list_requests(connection, None, chosen, PAST + 1, None).rows
    return resource, [one for one in past if one.id != request.id][:PAST]
