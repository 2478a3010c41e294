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

from processor.domain.model import STATUSES
from processor.domain.roles import LAB_CLIENT
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
#: The rows that a count of a status looks at.
COUNTED_MAX: Final = 10_000
#: The fields of a filter that each row of a walk is held against. The others bound the walk.
FILTERS: Final = (
    "status",
    "kind",
    "resource",
    "account",
    "code",
    "client",
    "key",
    "amounts",
    "metadata",
    "without",
)
#: The statuses whose requests have an index of their own. Few requests are in them.
INDEXED_STATUSES: Final = frozenset({"refunded", "cancelled", "failed"})
#: The fields that each request of a walk has anyway.
_GIVEN_BY: Final = {
    "walk_client": {"client"},
    "walk_account": {"client", "account"},
    "walk_account_of_all_clients": {"account"},
    "walk_resource": {"resource"},
    "walk_processing": {"status"},
    "walk_status": {"status"},
    "walk_key": {"client", "key"},
    "walk_key_of_all_clients": {"key"},
}

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
    #: The amount in the smallest kind of a unit, by its number of decimals. None: no amount is written like that.
    amounts: tuple[int | None, ...] | None = None
    #: A text, number or truth value of its metadata, at any depth.
    metadata: str | None = None
    #: The beginning of its id.
    prefix: str | None = None
    #: Accepted from `since` on, and before `until`.
    since: datetime | None = None
    until: datetime | None = None
    #: Not of this client.
    without: str | None = None

    def hiding_lab(self) -> "RequestFilter":
        """Return the filter without the requests of the race lab, unless it asks for some client or resource."""
        return self if self.client or self.resource else replace(self, without=LAB_CLIENT)

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
    parameters = _parameters(chosen, ids) | {"limit": limit + 1}
    furthest: tuple[UUID, list[RequestRecord]] | None = None
    for walk in chosen.walks():
        of_each = walk == "walk_account_of_all_clients"
        parameters["walked"] = WALKED_OF_EACH_CLIENT_MAX if of_each else WALKED_MAX
        rows = connection.execute(_statement("list_requests", walk, parameters), parameters).fetchall()
        found = [RequestRecord(*columns) for _, *columns in rows if columns[0] is not None]
        end: UUID | None = rows[0][0]
        if end is None:
            return page(found, limit, lambda record: (str(record.id),))
        if furthest is None or end < furthest[0]:
            furthest = end, found
    assert furthest is not None  # noqa: S101 - there is a walk for each filter
    return partial_page(furthest[1], (str(furthest[0]),))


@dataclass(frozen=True, slots=True)
class Counts:
    """The requests of each status that match a filter, without its own status."""

    by_status: dict[str, int]
    #: The statuses of which there may be more.
    more: frozenset[str]


def count_requests(connection: Connection, chosen: RequestFilter) -> Counts:
    """
    Count the matching requests of each status, among COUNTED_MAX rows of an index.

    Statuses with an index of their own are counted there if that is not enough. Raises ValueError for a wrong prefix.
    """
    ids = chosen.ids()
    if ids.is_empty:
        return Counts({}, frozenset())
    everything = replace(chosen, status=None)
    by_status, is_cut = _count(connection, everything, ids)
    more = set(STATUSES) if is_cut else set()
    for status in sorted(more & (INDEXED_STATUSES | {"processing"})):
        found, is_cut = _count(connection, replace(everything, status=status), ids)
        by_status[status] = found.get(status, 0)
        more -= set() if is_cut else {status}
    return Counts(by_status, frozenset(more))


def _count(connection: Connection, chosen: RequestFilter, ids: IdRange) -> tuple[dict[str, int], bool]:
    """Count by status in the first walk of a filter. Also returns whether the walk ended before its index did."""
    [walk, *_] = chosen.walks()
    parameters = _parameters(chosen, ids) | {"walked": COUNTED_MAX}
    rows = connection.execute(_statement("count_requests", walk, parameters), parameters).fetchall()
    [walked] = [count for status, count in rows if status is None]
    return {status: count for status, count in rows if status is not None}, walked >= COUNTED_MAX


def _parameters(chosen: RequestFilter, ids: IdRange) -> dict[str, Any]:
    amounts = None if chosen.amounts is None else list(chosen.amounts)
    return asdict(chosen) | {"amounts": amounts, "lower": ids.lower, "upper": ids.upper}


def _statement(name: str, walk: str, parameters: dict[str, Any]) -> str:
    """Return a statement with only the conditions in use, so that the planner picks the index of each."""
    given = _GIVEN_BY.get(walk, set())
    filters = [SQL[f"filter_{one}"] for one in FILTERS if parameters[one] is not None and one not in given]
    bounds = [SQL[bound] for bound in ("lower", "upper") if parameters[bound] is not None]
    range_of_ids = " AND ".join(bounds) or "true"
    return (
        SQL[name]
        .replace("{walk}", SQL[walk])
        .replace("{filters}", "\n       AND ".join(filters) or "true")
        .replace("{range}", range_of_ids)
        .replace("{range_of_decisions}", range_of_ids.replace("id ", "request_id "))
    )


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
