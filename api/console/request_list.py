"""
The list of requests, with its filter. Requests that wait for an act of an operator have lists of their own, too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from urllib.parse import urlencode

from pydantic import AfterValidator

from api.console.fields import Moment, PageQuery, field_value
from api.console.pages import Page, Pages, Visit
from api.web.fields import OneOf, optional
from processor.domain.amounts import DECIMALS_MAX, read_amount
from processor.domain.kinds import KINDS
from processor.domain.model import STATUSES, Status
from processor.reading import request_lists
from processor.reading.request_lists import RequestFilter, ids_from
from processor.reading.units import read_units

#: Requests on one page.
LISTED: Final = 50

pages = Pages("requests")


def _stripped(value: str) -> str:
    return value.strip()


def _prefix(value: str) -> str:
    ids_from(value.strip())
    return value.strip()


def _amount(value: str) -> str:
    if all(read_amount(value, decimals) is None for decimals in range(DECIMALS_MAX + 1)):
        raise ValueError("must be an amount, such as 1,234.50")
    return value.strip()


Word = Annotated[str, AfterValidator(_stripped)]


class RequestsQuery(PageQuery):
    """The filter of the requests, and the page."""

    status: Status = optional()
    kind: Annotated[str, OneOf(KINDS)] = optional()
    resource: Word = optional()
    account: Word = optional()
    client: Word = optional()
    key: Word = optional()
    #: As pages show it. Each resource has its own number of decimals.
    amount: Annotated[str, AfterValidator(_amount)] | None = optional()
    metadata: Word = optional()
    #: The beginning of an id.
    id: Annotated[str, AfterValidator(_prefix)] = optional()
    since: Moment = optional()
    until: Moment = optional()

    def as_filter(self) -> RequestFilter:
        """
        Return the filter for queries.
        """
        decimals = range(DECIMALS_MAX + 1)
        return RequestFilter(
            self.status,
            self.kind,
            self.resource,
            self.account,
            client=self.client,
            key=self.key,
            amounts=None if self.amount is None else tuple(read_amount(self.amount, n) for n in decimals),
            metadata=self.metadata,
            prefix=self.id,
            since=self.since,
            until=self.until,
        )

    def as_fields(self) -> dict[str, str]:
        """
        Return the fields that filter, as texts for an address or a form.
        """
        values = self.model_dump(exclude={"cursor"}, exclude_none=True)
        return {
            name: field_value(value) if isinstance(value, datetime) else value
            for name, value in values.items()
        }


@pages.get("/requests", query=RequestsQuery)
def list_requests(visit: Visit) -> Page:
    """
    List the requests that match, newest first, with the number of each status.
    """
    query: RequestsQuery = visit.query
    chosen, fields = query.as_filter().hiding_lab(), query.as_fields()
    with visit.services.connection() as connection:
        found = request_lists.list_requests(connection, None, chosen, LISTED, query.cursor)
        counts = request_lists.count_requests(connection, chosen)
        units = read_units(connection, (one.resource_id for one in found.rows))
    others = {name: value for name, value in fields.items() if name != "status"}
    tabs = [(None, "All", urlencode(others))] + [
        (status, status.capitalize(), urlencode({**others, "status": status})) for status in STATUSES
    ]
    context = {
        "found": found,
        "counts": counts,
        "units": units,
        "fields": fields,
        "shown": dict.fromkeys(RequestsQuery.model_fields) | fields,
        "tabs": tabs,
        "kinds": list(KINDS),
        "later": query.cursor is not None,
        "is_partial": found.next_cursor is not None and len(found.rows) < LISTED,
    }
    return Page("requests.html", context)
