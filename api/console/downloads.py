"""
Lists as files, CSV or JSON, with the filter of the page that offers them.
"""

from __future__ import annotations

import csv
import io
import json
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import UUID

from api.console.audit import AuditQuery
from api.console.failed import FailedQuery
from api.console.fields import PageQuery
from api.console.pages import Download, Pages, Visit
from api.console.request_list import RequestsQuery
from api.console.resources import ResourcesQuery
from api.console.webhooks import WebhooksQuery
from api.web.problems import NotFound
from processor.domain.amounts import NO_UNIT, format_amount
from processor.domain.roles import LAB_CLIENT
from processor.reading import failed, request_lists, requests
from processor.reading import webhooks as webhook_queries
from processor.reading.units import read_units
from processor.records import audit
from processor.records.audit import AuditFilter
from processor.visible import escaped_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from processor.records.documents import Document, RequestRecord
    from processor.records.pages import Page
    from processor.storage.connections import Connection

#: Rows of a file, and the time for them in seconds. The name of a file that ends there says so.
ROWS_MAX: Final = 10_000
SECONDS_MAX: Final = 10.0
#: Rows that one query reads.
AT_ONCE: Final = 100
#: A spreadsheet runs a cell that begins like this, so it gets an apostrophe in front.
FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")

pages = Pages("")


@pages.get("/requests.<form>", query=RequestsQuery)
def requests_file(visit: Visit, form: str) -> Download:
    """
    Return the requests that match.
    """
    query: RequestsQuery = visit.query
    chosen = query.as_filter().hiding_lab()
    with visit.services.connection() as connection:
        found, is_cut = _collect(
            lambda cursor: request_lists.list_requests(connection, None, chosen, AT_ONCE, cursor)
        )
        rows = _with_units(connection, found)
    return _file("requests", form, rows, is_cut=is_cut)


@pages.get("/failed.<form>", query=FailedQuery)
def failed_file(visit: Visit, form: str) -> Download:
    """
    Return the failed requests that match.
    """
    query: FailedQuery = visit.query
    chosen = query.as_filter()
    with visit.services.connection() as connection:
        found, is_cut = _collect(lambda cursor: failed.list_failed(connection, chosen, AT_ONCE, cursor))
        rows = _with_units(connection, found)
    return _file("failed", form, rows, is_cut=is_cut)


@pages.get("/audit.<form>", query=AuditQuery)
def audit_file(visit: Visit, form: str) -> Download:
    """
    Return the lines of the audit that match.
    """
    query: AuditQuery = visit.query
    request_id = None if query.request is None else UUID(query.request)
    chosen = AuditFilter(query.actor, query.action, request_id, query.since, query.until)
    with visit.services.connection() as connection:
        found, is_cut = _collect(lambda cursor: audit.list_audit(connection, chosen, AT_ONCE, cursor))
    return _file("audit", form, [one.document() for one in found], is_cut=is_cut)


@pages.get("/resources.<form>", query=ResourcesQuery)
def resources_file(visit: Visit, form: str) -> Download:
    """
    Return the resources that match.
    """
    query: ResourcesQuery = visit.query
    with visit.services.connection() as connection:
        found, is_cut = _collect(
            lambda cursor: requests.list_resources(
                connection, None, query.kind, AT_ONCE, cursor, without=LAB_CLIENT
            )
        )
    return _file("resources", form, [one.document() for one in found], is_cut=is_cut)


@pages.get("/webhooks.<form>", query=WebhooksQuery)
def webhooks_file(visit: Visit, form: str) -> Download:
    """
    Return the webhooks that match, without their secrets.
    """
    query: WebhooksQuery = visit.query
    with visit.services.connection() as connection:
        found, is_cut = _collect(
            lambda cursor: webhook_queries.list_webhooks(
                connection, query.client, AT_ONCE, cursor, state=query.state or None
            )
        )
    return _file("webhooks", form, [one.document() for one in found], is_cut=is_cut)


@pages.get("/resources/<resource>/entries.<form>", query=PageQuery)
def entries_file(visit: Visit, resource: str, form: str) -> Download:
    """
    Return the entries of a resource.
    """
    with visit.services.connection() as connection:
        record = requests.read_resource(connection, resource, None)
        if record is None:
            raise NotFound("there is no such resource")
        found, is_cut = _collect(
            lambda cursor: requests.list_resource_entries(connection, record, None, AT_ONCE, cursor)
        )
    unit = record.written_unit
    rows = [
        one.document()
        | {
            f"{name}_written": format_amount(getattr(one, name), unit)
            for name in ("amount", "available", "held")
        }
        for one in found
    ]
    return _file("entries", form, rows, is_cut=is_cut)


def _collect(read: Callable[[str | None], Page[Any]]) -> tuple[list[Any], bool]:
    """
    Read all pages of a list. Returns its rows, and whether ROWS_MAX or SECONDS_MAX came before its end.
    """
    found: list[Any] = []
    cursor: str | None = None
    end = time.monotonic() + SECONDS_MAX
    while True:
        part = read(cursor)
        found += part.rows
        cursor = part.next_cursor
        if cursor is None:
            return found[:ROWS_MAX], len(found) > ROWS_MAX
        if len(found) >= ROWS_MAX or time.monotonic() > end:
            return found[:ROWS_MAX], True


def _with_units(connection: Connection, found: Sequence[RequestRecord]) -> list[Document]:
    """
    Return requests with their client, and the amount as people write it.
    """
    units = read_units(connection, {one.resource_id for one in found})
    return [
        one.document()
        | {
            "client": one.client_id,
            "amount_written": None
            if one.amount is None
            else format_amount(one.amount, units.get(one.resource_id, NO_UNIT)),
        }
        for one in found
    ]


def _file(name: str, form: str, rows: Sequence[Document], *, is_cut: bool) -> Download:
    """
    Return rows as a file. The name of one that is cut has the number of its rows.
    """
    name = f"{name}-first-{len(rows)}" if is_cut else name
    if form == "json":
        text = escaped_json(json.dumps({"data": rows, "is_complete": not is_cut}, ensure_ascii=False))
        return Download(f"{name}.json", "application/json; charset=utf-8", text.encode())
    if form != "csv":
        _nowhere()
    return Download(f"{name}.csv", "text/csv; charset=utf-8", as_csv(rows).encode())


def _nowhere() -> NoReturn:
    raise NotFound("there is no such file: lists are CSV or JSON")


def as_csv(rows: Iterable[Document]) -> str:
    """
    Return documents as CSV with a header line. Objects and lists are JSON, and None is an empty cell.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return escaped_json(json.dumps(value, ensure_ascii=False))
    if isinstance(value, str) and value.startswith(FORMULAS):
        return f"'{value}"
    return value
