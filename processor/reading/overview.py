"""
What the console shows beyond what the API reads: the lanes, who waits in them and why, the way of a balance, search.

Reads only, for those who see everything; each function one or a few statements on a connection that the caller
lends. Counts end at a limit, so that no page costs more as the backlog and the past grow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from processor.reading import requests as stored_requests
from processor.records import documents
from processor.records.documents import RequestRecord, ResourceRecord
from processor.records.pages import Page, page, read_cursor
from processor.storage import connections, statements

if TYPE_CHECKING:
    from uuid import UUID

    from processor.reading.requests import Gauges
    from processor.storage.connections import Connection

#: Badges count up to here.
BADGE_MAX: Final = 100
#: Rows that wait are counted up to here for each partition.
BACKLOG_MAX: Final = 100_000
#: Of a partition's line, so many rows are looked at: what stands further back is not told apart.
LINE_MAX: Final = 2_000
#: Of a resource's requests, so many are looked at: what is held is seldom old.
RECENT_MAX: Final = 1_000
#: Hits that a search shows of each sort.
HITS_MAX: Final = 20

_ID = re.compile(r"[A-Za-z0-9._:~@-]{1,128}", re.ASCII)
_LIKE = re.compile(r"([%_\\])")

_SELECT_LISTS: Final = {
    "{request_columns}": documents.REQUEST_COLUMNS,
    "{resource_columns}": documents.RESOURCE_COLUMNS,
}


def _completed(text: str) -> str:
    for name, columns in _SELECT_LISTS.items():
        text = text.replace(name, columns)
    return text


SQL = {name: _completed(text) for name, text in statements.beside(__file__).items()}


class Badges(NamedTuple):
    """What somebody should look at, each counted up to BADGE_MAX."""

    failed: int
    approvals: int


class Lane(NamedTuple):
    """A partition at a glance."""

    id: int
    #: How many requests it has decided, ever.
    decided: int
    host: str | None
    pid: int | None
    #: None: nobody owns it.
    owner_alive: bool | None
    #: Rows that wait, and those among them that are first decisions; up to BACKLOG_MAX.
    backlog: int
    undecided: int
    oldest_seconds: float | None
    paused: bool

    @property
    def owner(self) -> str | None:
        """`host:pid` of who should drain it."""
        return None if self.host is None else f"{self.host}:{self.pid}"


@dataclass(frozen=True, slots=True)
class Pulse:
    """All lanes at one moment, and what else somebody should know then."""

    at: datetime
    lanes: list[Lane]
    gauges: Gauges
    #: Counted up to queries.GAUGE_MAX.
    held: int
    badges: Badges


class PartitionState(NamedTuple):
    """A partition with who should drain it, and who paused it."""

    id: int
    decided: int
    drained_at: datetime
    host: str | None
    pid: int | None
    alive_until: datetime | None
    #: None: nobody owns it.
    owner_alive: bool | None
    owned_since: datetime
    paused_since: datetime | None
    paused_by: str | None
    #: Workers that live, of all partitions.
    living: int
    #: Rows that wait, counted up to BACKLOG_MAX.
    backlog: int

    @property
    def owner(self) -> str | None:
        """`host:pid` of who should drain it."""
        return None if self.host is None else f"{self.host}:{self.pid}"


class Standing(NamedTuple):
    """A resource in a partition's line."""

    resource_id: str
    rows: int
    #: The place of its first row, from 1.
    first: int
    oldest_at: datetime


class Waiting(NamedTuple):
    """One row of a partition's line."""

    #: From 1: the next.
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
    #: Those with most rows first.
    standings: list[Standing]

    @property
    def is_cut(self) -> bool:
        """Whether more may stand behind."""
        return self.rows >= LINE_MAX


class BalancePoint(NamedTuple):
    """What a resource had after one of its entries."""

    version: int
    at: datetime
    available: int
    held: int


def read_badges(connection: Connection) -> Badges:
    """For the navigation."""
    return Badges(*_one(connection, "read_badges", most=BADGE_MAX))


def read_pulse(connection: Connection) -> Pulse:
    """How all partitions are."""
    gauges = stored_requests.read_gauges(connection)
    held, at = _one(connection, "count_held", most=stored_requests.GAUGE_MAX)
    lanes = [Lane(*row) for row in _all(connection, "read_lanes", most=BACKLOG_MAX)]
    return Pulse(at, lanes, gauges, held, read_badges(connection))


def read_partition(connection: Connection, partition: int) -> PartitionState | None:
    """One of them; None: there is none of this number."""
    rows = _all(connection, "read_partition", partition=partition, most=BACKLOG_MAX)
    return PartitionState(*rows[0]) if rows else None


def read_line(connection: Connection, partition: int, limit: int) -> Line:
    """Who stands in a partition's line; `limit`: that many resources."""
    found = _all(connection, "read_line", partition=partition, most=LINE_MAX, limit=limit)
    rows, resources = found[0][-2:] if found else (0, 0)
    return Line(rows, resources, [Standing(*row[:-2]) for row in found])


def read_waiting(
    connection: Connection, partition: int, resource: str | None, limit: int
) -> tuple[list[Waiting], int]:
    """What a partition does next, for one resource or for all of them; and how many these are, up to LINE_MAX."""
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
    """Of its newest RECENT_MAX requests: how many wait for a gateway's answer, and how many are parked."""
    held, failed = _one(connection, "count_held_of", resource=resource, most=RECENT_MAX)
    return held, failed


def read_breaker(connection: Connection, gateway: str) -> datetime | None:
    """Until when a gateway is left alone, if it is."""
    rows = _all(connection, "read_breaker", gateway=gateway)
    return rows[0][0] if rows else None


def read_balance(connection: Connection, resource: str, limit: int) -> list[BalancePoint]:
    """What it had after each of its last entries, oldest first."""
    return [BalancePoint(*row) for row in _all(connection, "read_balance", resource=resource, limit=limit)]


def list_resources(
    connection: Connection, kind: str | None, limit: int, cursor: str | None
) -> Page[ResourceRecord]:
    """Resources of a kind or all, newest first. Raises CursorInvalid."""
    before_at, before_id = read_cursor(cursor, datetime.fromisoformat, str)
    parameters = {"kind": kind, "before_at": before_at, "before_id": before_id, "limit": limit + 1}
    filters = [SQL["filter_kind"]] if kind is not None else []
    filters += [SQL["filter_before"]] if cursor is not None else []
    statement = SQL["list_resources"].replace("{filters}", " AND ".join(filters) or "true")
    with connections.faults():
        rows = connection.execute(statement, parameters).fetchall()
    return page(
        [ResourceRecord(*row) for row in rows], limit, lambda found: (found.created_at.isoformat(), found.id)
    )


def find_resources(connection: Connection, text: str) -> list[ResourceRecord]:
    """Those whose id begins so."""
    if not _ID.fullmatch(text):
        return []
    pattern = _LIKE.sub(r"\\\1", text) + "%"
    return [
        ResourceRecord(*row) for row in _all(connection, "find_resources", pattern=pattern, limit=HITS_MAX)
    ]


def find_by_key(connection: Connection, key: str) -> list[RequestRecord]:
    """The requests that came with this idempotency key: each client may have one."""
    return [RequestRecord(*row) for row in _all(connection, "find_by_key", key=key, limit=HITS_MAX)]


def find_by_account(connection: Connection, account: str) -> list[RequestRecord]:
    """The newest requests of accounts of this name, whichever client's."""
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
