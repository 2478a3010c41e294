"""
The search for a request id, an idempotency key, an account or a resource.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlencode
from uuid import UUID

from pydantic import Field

from api.console.pages import ROOT, Page, Pages, Redirect, Visit
from api.web.fields import Body
from processor.errors import Archived, RequestNotFound
from processor.reading import overview as overview_queries
from processor.reading import request_lists, requests
from processor.reading.request_lists import RequestFilter, ids_from
from processor.reading.units import read_units

if TYPE_CHECKING:
    from processor.records.documents import RequestRecord
    from processor.records.pages import Page as Hits
    from processor.storage.connections import Connection

#: The least beginning of an id that the search takes for one. The first ten digits are of the same hour.
PREFIX_CHARACTERS_MIN: Final = 8

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
        others = _others(connection, text) if text and not (request or by_key) else []
        shown = [*by_key, *by_account, *([request] if request else [])]
        shown += [row for _, hits, _ in others for row in hits.rows]
        units = read_units(connection, (one.resource_id for one in shown))
    resources = [one for one in resources if one.id == text] or resources
    if request is not None and not (resources or by_key or by_account):
        return Redirect(f"{ROOT}/requests/{request.id}")
    other_hits = [row for _, hits, _ in others for row in hits.rows]
    if not (resources or by_key or by_account) and len(other_hits) == 1:
        return Redirect(f"{ROOT}/requests/{other_hits[0].id}")
    if not (by_account or other_hits) and len(resources) + len(by_key) == 1:
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
            "others": others,
            "other_hits": other_hits,
            "units": units,
            "most": overview_queries.HITS_MAX,
        },
    )


def _others(connection: Connection, text: str) -> list[tuple[str, Hits[RequestRecord], str]]:
    """
    Find requests by the beginning of their id, and by a value of their metadata. Returns title, hits and filter.
    """
    asked = [("Requests with this metadata", "metadata", RequestFilter(metadata=text))]
    if len(text) >= PREFIX_CHARACTERS_MIN:
        with contextlib.suppress(ValueError):
            ids_from(text)
            asked.append(("Requests whose id begins like this", "id", RequestFilter(prefix=text)))
    most = overview_queries.HITS_MAX
    return [
        (title, request_lists.list_requests(connection, None, chosen, most, None), urlencode({name: text}))
        for title, name, chosen in asked
    ]


def _request(connection: Connection, text: str) -> RequestRecord | None:
    try:
        found = requests.read_request(connection, UUID(text), None)
    except (ValueError, RequestNotFound, Archived):
        return None
    return found[0]
