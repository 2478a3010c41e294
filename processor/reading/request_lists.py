"""
Lists of requests, newest first, whose time is limited whatever the filter.

A page walks one index. If no request of the walk fills the page, another index may reach further back, and the walk
that reaches furthest counts. A page may thus have fewer requests than asked, or none, and a cursor to the next page.
"""

import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.ids import first_id_at
from processor.records import documents
from processor.records.documents import RequestRecord
from processor.records.pages import Page, page, partial_page, read_cursor
from processor.storage import statements
from processor.storage.connections import Connection

#: The rows of one walk.
WALKED_MAX: Final = 5_000
#: The rows of one walk over an account name of all clients, for each client.
WALKED_OF_EACH_CLIENT_MAX: Final = 200
#: The fields of a filter that each row of a walk is held against. The others bound the walk.
FILTERS: Final = ("status", "kind", "resource", "account", "code", "client", "key", "amount", "metadata")
#: The statuses whose requests have an index of their own. Few requests are in them.
INDEXED_STATUSES: Final = frozenset({"refunded", "cancelled", "failed"})

SQL = {
    name: text.replace("{request_columns}", documents.REQUEST_COLUMNS)
    for name, text in statements.beside(__file__).items()
}


_HEX_DIGITS: Final = 32
_PREFIX: Final = re.compile(r"[0-9a-f]{1,32}", re.ASCII | re.IGNORECASE)


class IdRange(NamedTuple):
    """The ids from `lower` on, and before `upper`. None: no bound."""

    lower: UUID | None = None
    upper: UUID | None = None

    def within(self, other: "IdRange") -> "IdRange":
        """Return the ids that are in both."""
        lowers = [one for one in (self.lower, other.lower) if one is not None]
        uppers = [one for one in (self.upper, other.upper) if one is not None]
        return IdRange(max(lowers, default=None), min(uppers, default=None))

    @property
    def is_empty(self) -> bool:
        """Whether no id is in it."""
        return self.lower is not None and self.upper is not None and self.lower >= self.upper


def ids_from(prefix: str) -> IdRange:
    """Return the range of the ids that begin with these digits, with or without hyphens. Raises ValueError."""
    digits = prefix.replace("-", "")
    if not _PREFIX.fullmatch(digits):
        raise ValueError("must be the beginning of an id, such as 019aa9c2-f1c4")
    bits = 4 * (_HEX_DIGITS - len(digits))
    after = int(digits, 16) + 1 << bits
    return IdRange(UUID(digits.ljust(_HEX_DIGITS, "0")), UUID(int=after) if after < 1 << 128 else None)


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """The requests that a list shows; None: all."""

    status: str | None = None
    kind: str | None = None
    resource: str | None = None
    account: str | None = None
    #: The code of its failure, rejection, cancellation or refund.
    code: str | None = None
    client: str | None = None
    #: The idempotency key, of which each client may have one request.
    key: str | None = None
    amount: int | None = None
    #: A text, number or truth value of its metadata, at any depth.
    metadata: str | None = None
    #: The beginning of its id.
    prefix: str | None = None
    #: Accepted from `since` on, and before `until`.
    since: datetime | None = None
    until: datetime | None = None

    def ids(self) -> IdRange:
        """Return the range of ids that `prefix`, `since` and `until` leave. Raises ValueError for a wrong prefix."""
        lower = None if self.since is None else first_id_at(self.since)
        upper = None if self.until is None else first_id_at(self.until)
        found = IdRange(lower, upper)
        return found if self.prefix is None else found.within(ids_from(self.prefix))

    def walks(self) -> list[str]:
        """Return the indexes that have all matching requests. The first is likely to have the fewest others."""
        client = self.client
        if self.key is not None:
            return ["walk_key_of_all_clients" if client is None else "walk_key"]
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
    List requests, newest first. `client` is the reader; None sees all. Raises CursorInvalid, and ValueError for a
    wrong prefix.

    A page with a cursor may have fewer requests than `limit`.
    """
    [before] = read_cursor(cursor, UUID)
    ids = chosen.ids().within(IdRange(upper=before))
    if ids.is_empty or (client is not None and chosen.client not in (None, client)):
        return Page([], None)
    chosen = replace(chosen, client=client or chosen.client)
    parameters: dict[str, Any] = asdict(chosen)
    filters = [SQL[f"filter_{name}"] for name in FILTERS if parameters[name] is not None]
    parameters |= {"lower": ids.lower, "upper": ids.upper, "limit": limit + 1}
    bounds = [SQL[name] for name in ("lower", "upper") if parameters[name] is not None]
    range_of_ids = " AND ".join(bounds) or "true"
    furthest: tuple[UUID, list[RequestRecord]] | None = None
    for walk in chosen.walks():
        # Only the conditions in use, so that the planner picks the index of each.
        statement = (
            SQL["list_requests"]
            .replace("{walk}", SQL[walk])
            .replace("{filters}", "\n       AND ".join(filters) or "true")
            .replace("{range}", range_of_ids)
            .replace("{range_of_decisions}", range_of_ids.replace("id ", "request_id "))
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
