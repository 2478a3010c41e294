"""
Lists of requests, newest first, whose time is limited whatever the filter.

A page walks one index. If no request of the walk fills the page, another index may reach further back, and the walk
that reaches furthest counts. A page may thus have fewer requests than asked, or none, and a cursor to the next page.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from processor.records import documents
from processor.records.documents import RequestRecord
from processor.records.pages import Page, page, partial_page, read_cursor
from processor.storage import statements
from processor.storage.connections import Connection

#: The rows of one walk.
WALKED_MAX: Final = 5_000
#: The rows of one walk over an account name of all clients, for each client.
WALKED_OF_EACH_CLIENT_MAX: Final = 200
#: The statuses whose requests have an index of their own. Few requests are in them.
INDEXED_STATUSES: Final = frozenset({"refunded", "cancelled", "failed"})

SQL = {
    name: text.replace("{request_columns}", documents.REQUEST_COLUMNS)
    for name, text in statements.beside(__file__).items()
}


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """The requests that a list shows; None: all."""

    status: str | None = None
    kind: str | None = None
    resource: str | None = None
    account: str | None = None
    #: The code of its failure, rejection, cancellation or refund.
    code: str | None = None

    def walks(self, client: str | None) -> list[str]:
        """Return the indexes that have all matching requests. The first is likely to have the fewest others."""
        found = []
        if self.status == "processing":
            found.append("walk_processing")
        elif self.status in INDEXED_STATUSES:
            found.append("walk_status")
        if self.account is not None:
            found.append("walk_account_of_all_clients" if client is None else "walk_account")
        if self.resource is not None:
            found.append("walk_resource")
        if client is not None and self.account is None:
            found.append("walk_client")
        return found or ["walk_all"]


def list_requests(
    connection: Connection, client: str | None, chosen: RequestFilter, limit: int, cursor: str | None
) -> Page[RequestRecord]:
    """
    List requests, newest first. `client` is the reader; None sees all. Raises CursorInvalid.

    A page with a cursor may have fewer requests than `limit`.
    """
    [before] = read_cursor(cursor, UUID)
    parameters: dict[str, Any] = {**asdict(chosen), "client": client}
    filters = [SQL[f"filter_{name}"] for name, value in parameters.items() if value is not None]
    parameters |= {"before": before, "limit": limit + 1}
    furthest: tuple[UUID, list[RequestRecord]] | None = None
    for walk in chosen.walks(client):
        # Only the conditions in use, so that the planner picks the index of each.
        statement = (
            SQL["list_requests"]
            .replace("{walk}", SQL[walk])
            .replace("{filters}", "\n       AND ".join(filters) or "true")
            .replace("{before}", "true" if before is None else SQL["before"])
            .replace("{before_decision}", "true" if before is None else SQL["before_decision"])
        )
        of_each = walk == "walk_account_of_all_clients"
        parameters["walked"] = WALKED_OF_EACH_CLIENT_MAX if of_each else WALKED_MAX
        rows = connection.execute(statement, parameters).fetchall()
        found = [RequestRecord(*columns) for _, *columns in rows if columns[0] is not None]
        end: UUID | None = rows[0][0]
        if end is None:
            return page(found, limit, lambda record: (str(record.id),))
        if furthest is None or end < furthest[0]:
            furthest = end, found
    assert furthest is not None  # noqa: S101 - there is a walk for each filter
    return partial_page(furthest[1], (str(furthest[0]),))


def list_all(
    connection: Connection, client: str | None, chosen: RequestFilter, limit: int
) -> list[RequestRecord]:
    """Return up to `limit` of the newest requests, from as many pages as it takes."""
    found: list[RequestRecord] = []
    cursor: str | None = None
    while True:
        part = list_requests(connection, client, chosen, limit - len(found), cursor)
        found += part.rows
        cursor = part.next_cursor
        if cursor is None or len(found) >= limit:
            return found
