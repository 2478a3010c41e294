"""
Requests, their entries and events, resources, and gauges.

`client` is the reader. A client sees its own objects and the resources for all; None sees everything.
Other objects do not exist for it. Lists are newest first, and their cursors stay valid while rows are added.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, get_args
from uuid import UUID

from processor.archive.lookup import missing
from processor.domain.kinds import KINDS
from processor.domain.model import ResourceKind
from processor.domain.rules.amendments import RULES, parsed
from processor.errors import Archived
from processor.records import documents
from processor.records.documents import Document, EntryRecord, RequestRecord, ResourceRecord, timestamp
from processor.records.pages import Page, identifier, page, partial_page, read_cursor, row_number
from processor.storage import statements
from processor.storage.connections import Connection

#: The limit of `position`. It is exact below.
POSITION_MAX: Final = 1_000
#: The entries of a resource, or the requests of a client, that one page of entries looks at.
WALKED_MAX: Final = 5_000
#: The limit of each gauge.
GAUGE_MAX: Final = 10_000


_BEHIND_ALL: Final = 2**63 - 1
_OPERATORS_KINDS: Final = ", ".join(
    f"'{name}'" for name, kind in KINDS.items() if not kind.gives_back and "client" not in kind.roles
)
_RULE_KINDS: Final = ", ".join(f"'{name}'" for name, kind in KINDS.items() if kind.opens or kind.amends)

_SELECT_LISTS = {
    "{operators_kinds}": _OPERATORS_KINDS,
    "{rule_kinds}": _RULE_KINDS,
    "{request_columns}": documents.REQUEST_COLUMNS,
    "{request_tables}": documents.REQUEST_TABLES,
    "{resource_columns}": documents.RESOURCE_COLUMNS,
    "{entry_columns}": documents.ENTRY_COLUMNS,
}


def _completed(text: str) -> str:
    for name, columns in _SELECT_LISTS.items():
        text = text.replace(name, columns)
    return text.replace("{is_unavailable}", _QUERIES["is_unavailable"])


_QUERIES = statements.beside(__file__)
SQL = {name: _completed(text) for name, text in _QUERIES.items()}


@dataclass(frozen=True, slots=True)
class Gauges:
    """Counts that may need an operator, each up to GAUGE_MAX."""

    failed: int
    paid_after_refund: int
    deliveries_pending: int
    #: For each gateway, the time until which calls are paused, maybe past. None: it answers, or has no calls.
    breakers: dict[str, datetime | None]


class Place(NamedTuple):
    """The place of a request that is queued."""

    #: The number of rows ahead of it in its partition, at most POSITION_MAX.
    position: int
    #: The first partition of its legs that is paused. Until it is resumed, the request waits.
    paused: int | None

    @property
    def tag(self) -> str:
        """A text that differs between two places."""
        return str(self.position) if self.paused is None else f"{self.position}-paused-{self.paused}"

    def document(self) -> Document:
        """Return the fields that the document of the request has in addition."""
        fields: Document = {"position": self.position}
        if self.paused is not None:
            fields["waiting_for"] = {"partition": self.paused, "paused": True}
        return fields


def read_request(
    connection: Connection, request_id: UUID, client: str | None
) -> tuple[RequestRecord, Place | None]:
    """
    Return a request that `client` may see (None sees all), and its place while it is queued.

    Raises RequestNotFound, Archived.
    """
    parameters = {"id": request_id, "client": client, "position_limit": POSITION_MAX}
    row = connection.execute(SQL["read_request"], parameters).fetchone()
    if row is None:
        raise missing(connection, request_id, client)
    *columns, position, paused = row
    return RequestRecord(*columns), None if position is None else Place(position, paused)


def read_requests(connection: Connection, request_ids: Collection[UUID]) -> dict[UUID, RequestRecord]:
    """Return these requests by their ids. The callers have checked that they may see them."""
    rows = connection.cursor(binary=True).execute(SQL["read_requests"], {"ids": list(request_ids)}).fetchall()
    return {row[0]: RequestRecord(*row) for row in rows}


def list_request_entries(
    connection: Connection, request_id: UUID, client: str | None, limit: int, cursor: str | None
) -> Page[EntryRecord]:
    """
    List the entries of a request and its refunds. The caller has checked that `client` may see the request.

    Raises CursorInvalid.
    """
    before_at, before_resource, before_version = read_cursor(
        cursor, datetime.fromisoformat, identifier, row_number
    )
    rows = connection.execute(
        SQL["list_request_entries"],
        {
            "id": request_id,
            "client": client,
            "before_at": before_at,
            "before_resource": before_resource,
            "before_version": before_version,
            "limit": limit + 1,
        },
    ).fetchall()
    return page(
        [EntryRecord(*row) for row in rows],
        limit,
        lambda entry: (entry.created_at.isoformat(), entry.resource_id, str(entry.version)),
    )


def read_events(connection: Connection, request_id: UUID, *, traces: bool) -> list[Document]:
    """List the events of a request, oldest first. The caller has checked that it may see the request."""
    rows = connection.execute(SQL["read_events"], {"id": request_id, "traces": traces}).fetchall()
    return [
        {"at": timestamp(at), "status": status, "stage": stage, "actor": actor, "detail": detail}
        | ({} if trace is None else {"trace": trace})
        for at, status, stage, actor, detail, trace, _version in rows
    ]


def read_resource(connection: Connection, resource_id: str, client: str | None) -> ResourceRecord | None:
    """Return a resource as it is now, or None."""
    row = connection.execute(SQL["read_resource"], {"id": resource_id, "client": client}).fetchone()
    return None if row is None else ResourceRecord(*row)


def read_resource_at(
    connection: Connection, resource_id: str, client: str | None, at: datetime
) -> ResourceRecord | None:
    """
    Return a resource as it was at a time, or None if it did not exist then.

    Quantities come from its entries, and rules from its opening and its amendments. A client may see it if it can use
    the resource now, and could use it then. Raises Archived if entries of that time have left.
    """
    now = read_resource(connection, resource_id, client)
    if now is None or now.created_at > at:
        return None
    parameters = {"id": resource_id, "at": at}
    checkpoint = connection.execute(SQL["read_last_checkpoint"], parameters).fetchone()
    if checkpoint is not None and at < checkpoint[0]:
        raise Archived(
            f"the entries of {resource_id} up to {timestamp(checkpoint[0])} are in the archive", None
        )
    state = connection.execute(SQL["read_state_at"], parameters).fetchone()
    version, available, held = state or (0, 0, 0)
    rules: dict[str, Any] = dict.fromkeys(RULES.values()) | {"overdraft": 0}
    for (details,) in connection.execute(SQL["read_rules_until"], parameters).fetchall():
        changes = dict(details or {})
        changes.pop("kind", None)
        rules |= parsed(changes)
    if client is not None and rules["client_id"] not in (None, client):
        return None
    closed_at = now.closed_at if now.closed_at is not None and now.closed_at <= at else None
    return now._replace(version=version, available=available, held=held, closed_at=closed_at, **rules)


def list_resources(
    connection: Connection,
    client: str | None,
    kind: str | None,
    limit: int,
    cursor: str | None,
    *,
    without: str | None = None,
) -> Page[ResourceRecord]:
    """
    List resources of a kind (None: of all), newest first. A client sees those for all and its own.

    `without` leaves out those of another client. Raises CursorInvalid.
    """
    before_at, before_id = read_cursor(cursor, datetime.fromisoformat, identifier)
    before = "true" if before_id is None else SQL["before_resource"]
    # One of a few statements, so that the planner picks the index of each.
    name = "list_resources_of_client" if client is not None else "list_resources"
    if client is None and kind is not None:
        name = "list_resources_of_kind"
    rows = connection.execute(
        SQL[name].replace("{before}", before),
        {
            "client": client,
            "kind": kind,
            "without": without,
            "kinds": list(get_args(ResourceKind)) if kind is None else [kind],
            "before_at": before_at,
            "before_id": before_id,
            "limit": limit + 1,
        },
    ).fetchall()
    return page(
        [ResourceRecord(*row) for row in rows], limit, lambda found: (found.created_at.isoformat(), found.id)
    )


def list_resource_entries(
    connection: Connection, resource: ResourceRecord, client: str | None, limit: int, cursor: str | None
) -> Page[EntryRecord]:
    """
    List the entries of a resource, newest first. If the resource is for all, a client sees those of its own requests.

    The client of a resource sees all its entries. Those of clients before it show neither account nor request.
    Raises CursorInvalid.
    """
    [before] = read_cursor(cursor, row_number)
    parameters = {
        "id": resource.id,
        "client": client,
        "before": _BEHIND_ALL if before is None else before,
        "limit": limit + 1,
        "walked": WALKED_MAX,
    }
    if client is not None and resource.client_id != client:
        return _list_own_entries(connection, parameters, limit)
    name = "list_resource_entries" if client is None else "list_entries_of_own_resource"
    rows = connection.execute(SQL[name], parameters).fetchall()
    return page([EntryRecord(*row) for row in rows], limit, lambda entry: (str(entry.version),))


def _list_own_entries(connection: Connection, parameters: dict[str, Any], limit: int) -> Page[EntryRecord]:
    """
    List the entries of one client's requests on a resource for all, newest first.

    Walks the entries of the resource. If others have most of them, it walks the requests of the client instead. If
    these are too many, too, the page is partial.
    """
    end: int | None = None
    found: list[EntryRecord] = []
    for name in ("list_own_entries_by_resource", "list_own_entries_by_client"):
        rows = connection.execute(SQL[name], parameters).fetchall()
        if not rows or rows[0][0] is None:
            entries = [EntryRecord(*columns) for _, *columns in rows if columns[0] is not None]
            return page(entries, limit, lambda entry: (str(entry.version),))
        if end is None:
            end, found = rows[0][0], [EntryRecord(*columns) for _, *columns in rows if columns[0] is not None]
    return partial_page(found, (str(end),))


def read_gauges(connection: Connection) -> Gauges:
    """Read the gauges, each from a partial index."""
    [row] = connection.execute(SQL["read_gauges"], {"most": GAUGE_MAX}).fetchall()
    failed, paid_after_refund, deliveries_pending, open_until = row
    breakers = {
        name: None if text is None else datetime.fromisoformat(text) for name, text in open_until.items()
    }
    return Gauges(failed, paid_after_refund, deliveries_pending, breakers)
