"""
The overview of the console: partitions and their inboxes, the course of a balance, and search.

For operators, who see all clients. Counts end at a limit, so the cost of a page does not grow with the backlog or
with the number of old requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from processor.reading import requests as stored_requests
from processor.records import documents
from processor.records.documents import RequestRecord, ResourceRecord
from processor.storage import connections, statements

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from processor.reading.requests import Gauges
    from processor.storage.connections import Connection

#: The limit of a badge.
BADGE_MAX: Final = 100
#: The limit of the backlog of one partition.
BACKLOG_MAX: Final = 100_000
#: Inbox rows of a partition that a page reads. The rows behind them are not broken down.
LINE_MAX: Final = 2_000
#: The newest requests of a resource that are searched for holds, which are seldom old.
RECENT_MAX: Final = 1_000
#: The hits of each sort that a search shows.
HITS_MAX: Final = 20
#: The pauses, and the failing webhooks, that the overview names.
NAMED_MAX: Final = 5

_ID = re.compile(r"[A-Za-z0-9._:~@-]{1,128}", re.ASCII)
_LIKE = re.compile(r"([%_\\])")

_SELECT_LISTS: Final = {
    "{request_columns}": documents.REQUEST_COLUMNS,
    "{resource_columns}": documents.RESOURCE_COLUMNS,
    "{is_unavailable}": stored_requests.SQL["is_unavailable"],
}


def _completed(text: str) -> str:
    for name, columns in _SELECT_LISTS.items():
        text = text.replace(name, columns)
    return text


SQL = {name: _completed(text) for name, text in statements.beside(__file__).items()}


class Badges(NamedTuple):
    """Counts for the navigation, each up to BADGE_MAX."""

    failed: int
    approvals: int


class PartitionSummary(NamedTuple):
    """A partition, its owner and its backlog."""

    id: int
    #: The number of requests that it has decided, ever.
    decided: int
    host: str | None
    pid: int | None
    #: None: no worker owns it.
    owner_alive: bool | None
    #: Rows in the inbox, and the first decisions among them, up to BACKLOG_MAX.
    backlog: int
    undecided: int
    oldest_seconds: float | None
    paused: bool

    @property
    def owner(self) -> str | None:
        """`host:pid` of its worker."""
        return None if self.host is None else f"{self.host}:{self.pid}"


class Pause(NamedTuple):
    """The pause of a partition."""

    partition: int
    since: datetime
    actor: str
    #: None: no reason was given.
    reason: str | None


class FailingWebhook(NamedTuple):
    """A webhook to which no try has succeeded since a time."""

    id: UUID
    client_id: str
    url: str
    since: datetime
    tries: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Pulse:
    """All partitions and the gauges, at one time."""

    at: datetime
    partitions: list[PartitionSummary]
    gauges: Gauges
    #: Counted up to `requests.GAUGE_MAX`.
    held: int
    badges: Badges
    #: The first NAMED_MAX of each.
    pauses: list[Pause]
    failing: list[FailingWebhook]
    #: The number of all that fail, up to BADGE_MAX.
    failing_count: int


class PartitionState(NamedTuple):
    """A partition, its owner, and its pause."""

    id: int
    decided: int
    drained_at: datetime
    host: str | None
    pid: int | None
    alive_until: datetime | None
    #: None: no worker owns it.
    owner_alive: bool | None
    owned_since: datetime
    paused_since: datetime | None
    paused_by: str | None
    #: Workers with a valid lease, of all partitions.
    living: int
    #: Rows in the inbox, up to BACKLOG_MAX.
    backlog: int

    @property
    def owner(self) -> str | None:
        """`host:pid` of its worker."""
        return None if self.host is None else f"{self.host}:{self.pid}"


class Standing(NamedTuple):
    """The rows of one resource in the inbox of a partition."""

    resource_id: str
    rows: int
    #: The place of its first row, from 1.
    first: int
    oldest_at: datetime


class Waiting(NamedTuple):
    """One row of the inbox of a partition."""

    #: Counted from 1, the next row.
    place: int
    verb: str
    leg: int
    since: datetime
    request_id: UUID
    kind: str
    account: str | None
    amount: int | None
    resource_id: str


@dataclass(frozen=True, slots=True)
class Line:
    """The first LINE_MAX rows of a partition's inbox."""

    rows: int
    resources: int
    #: The resource with the most rows is first.
    standings: list[Standing]

    @property
    def is_cut(self) -> bool:
        """Whether the inbox may have more rows."""
        return self.rows >= LINE_MAX


class BalancePoint(NamedTuple):
    """The quantities of a resource after one of its entries."""

    version: int
    at: datetime
    available: int
    held: int


def read_badges(connection: Connection) -> Badges:
    """Count for the navigation."""
    return Badges(*_one(connection, "read_badges", most=BADGE_MAX))


def read_pulse(connection: Connection) -> Pulse:
    """Read all partitions and the gauges."""
    gauges = stored_requests.read_gauges(connection)
    held, at = _one(connection, "count_held", most=stored_requests.GAUGE_MAX)
    partitions = [PartitionSummary(*row) for row in _all(connection, "read_partitions", most=BACKLOG_MAX)]
    failing = _all(connection, "read_failing_webhooks", most=BADGE_MAX, limit=NAMED_MAX)
    return Pulse(
        at,
        partitions,
        gauges,
        held,
        read_badges(connection),
        read_pauses(connection),
        [FailingWebhook(*row[:-1]) for row in failing],
        failing[0][-1] if failing else 0,
    )


def read_pauses(connection: Connection, partition: int | None = None, limit: int = NAMED_MAX) -> list[Pause]:
    """Read the first pauses, or the one of a partition."""
    rows = _all(connection, "read_pauses", partition=partition, limit=limit)
    return [Pause(*row) for row in rows]


def read_partition(connection: Connection, partition: int) -> PartitionState | None:
    """Return a partition, or None."""
    rows = _all(connection, "read_partition", partition=partition, most=BACKLOG_MAX)
    return PartitionState(*rows[0]) if rows else None


def read_line(connection: Connection, partition: int, limit: int) -> Line:
    """Read the inbox of a partition by resource, at most `limit` resources."""
    found = _all(connection, "read_line", partition=partition, most=LINE_MAX, limit=limit)
    rows, resources = found[0][-2:] if found else (0, 0)
    return Line(rows, resources, [Standing(*row[:-2]) for row in found])


def read_waiting(
    connection: Connection, partition: int, resource: str | None, limit: int
) -> tuple[list[Waiting], int]:
    """Read the next rows of a partition, for one resource or for all, and count them up to LINE_MAX."""
    rows = _all(
        connection,
        "read_waiting_in_line",
        partition=partition,
        resource=resource,
        most=LINE_MAX,
        limit=limit,
    )
    return [Waiting(*row[:-1]) for row in rows], rows[0][-1] if rows else 0


def count_held(connection: Connection, resource: str) -> tuple[int, int]:
    """Count, among the newest RECENT_MAX requests, those that wait for a gateway and those that failed."""
    held, failed = _one(connection, "count_held_of", resource=resource, most=RECENT_MAX)
    return held, failed


def read_breaker(connection: Connection, gateway: str) -> datetime | None:
    """Return the time until which an unavailable gateway is not called, also if it is over. None: it is available."""
    rows = _all(connection, "read_breaker", gateway=gateway)
    return rows[0][0] if rows else None


def read_balance(connection: Connection, resource: str, limit: int) -> list[BalancePoint]:
    """Read the quantities after each of the last entries, oldest first."""
    return [BalancePoint(*row) for row in _all(connection, "read_balance", resource=resource, limit=limit)]


def find_resources(connection: Connection, text: str) -> list[ResourceRecord]:
    """Find resources by the beginning of their id."""
    if not _ID.fullmatch(text):
        return []
    pattern = _LIKE.sub(r"\\\1", text) + "%"
    return [
        ResourceRecord(*row) for row in _all(connection, "find_resources", pattern=pattern, limit=HITS_MAX)
    ]


def find_by_key(connection: Connection, key: str) -> list[RequestRecord]:
    """Find requests by their idempotency key. Each client may have one."""
    return [RequestRecord(*row) for row in _all(connection, "find_by_key", key=key, limit=HITS_MAX)]


def find_by_account(connection: Connection, account: str) -> list[RequestRecord]:
    """Find the newest requests of accounts with this name, of all clients."""
    if not _ID.fullmatch(account):
        return []
    rows = _all(connection, "find_by_account", account=account, limit=HITS_MAX)
    return [RequestRecord(*row) for row in rows]


def _one(connection: Connection, name: str, **parameters: Any) -> tuple[Any, ...]:
    [row] = _all(connection, name, **parameters)
    return row


def _all(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connections.faults():
        return connection.execute(SQL[name], parameters).fetchall()
