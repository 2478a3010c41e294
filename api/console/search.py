"""
The search for a request id, an idempotency key, an account or a resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from pydantic import Field

from api.console.pages import ROOT, Page, Pages, Redirect, Visit
from api.web.fields import Body
from processor.errors import RequestNotFound
from processor.reading import overview as overview_queries
from processor.reading import requests
from processor.reading.units import read_units

if TYPE_CHECKING:
    from processor.records.documents import RequestRecord
    from processor.storage.connections import Connection

pages = Pages("search")


class SearchQuery(Body):
    """The search term."""

    q: Annotated[str, Field(max_length=255)] = ""


@pages.get("/search", query=SearchQuery)
def search(visit: Visit) -> Page | Redirect:
    """
    Redirect to the only hit, or list all hits.
    """
    text = visit.query.q.strip()
    with visit.services.connection() as connection:
        request = _request(connection, text)
        resources = overview_queries.find_resources(connection, text) if text else []
        by_key = overview_queries.find_by_key(connection, text) if text else []
        by_account = overview_queries.find_by_account(connection, text) if text else []
        shown = [*by_key, *by_account, *([request] if request else [])]
        units = read_units(connection, (one.resource_id for one in shown))
    resources = [one for one in resources if one.id == text] or resources
    if request is not None and not (resources or by_key or by_account):
        return Redirect(f"{ROOT}/requests/{request.id}")
    if not by_account and len(resources) + len(by_key) == 1:
        return Redirect(
            f"{ROOT}/resources/{resources[0].id}" if resources else f"{ROOT}/requests/{by_key[0].id}"
        )
    return Page(
        "search.html",
        {
            "text": text,
            "request": request,
            "resources": resources,
            "by_key": by_key,
            "by_account": by_account,
            "units": units,
            "most": overview_queries.HITS_MAX,
        },
    )


def _request(connection: Connection, text: str) -> RequestRecord | None:
    try:
        found = requests.read_request(connection, UUID(text), None)
    except (ValueError, RequestNotFound):
        return None
    return found[0]
