"""
Resources: the list, and one with its rules, what waits for it, why it does not move, and the way of its balance.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from api.console import charts
from api.console.formats import bounded
from api.console.pages import ROOT, Page, Pages, Visit
from api.web.fields import Body, optional
from api.web.problems import NotFound
from processor.domain.model import ResourceKind  # noqa: TC001 - pydantic looks it up
from processor.reading import overview as overview_queries
from processor.reading import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markupsafe import Markup

    from processor.reading.overview import BalancePoint, Line, PartitionState, Waiting
    from processor.records.documents import ResourceRecord

#: Rows of the list of resources, and of the lists on the page of one.
LISTED: Final = 50
SHOWN: Final = 20
#: Entries in the chart of a balance.
CHARTED: Final = 200

pages = Pages("resources")


class Wanted(Body):
    """Which resources, and which part of them."""

    kind: ResourceKind = optional()
    cursor: str = optional()


class Part(Body):
    """Which part of the entries."""

    cursor: str = optional()


@pages.get("/resources", query=Wanted)
def list_resources(visit: Visit) -> Page:
    """Newest first."""
    wanted: Wanted = visit.query
    with visit.services.connection() as connection:
        found = overview_queries.list_resources(connection, wanted.kind, LISTED, wanted.cursor)
    return Page("resources.html", {"found": found, "kind": wanted.kind, "later": wanted.cursor is not None})


@pages.get("/resources/<resource>", query=Part)
def one_resource(visit: Visit, resource: str) -> Page:
    """All about one."""
    with visit.services.connection() as connection:
        record = requests.read_resource(connection, resource, None)
        if record is None:
            raise NotFound("there is no such resource")
        state = overview_queries.read_partition(connection, record.partition)
        assert state is not None, "resources are in partitions that there are"  # noqa: S101
        situation = Situation(
            record,
            state,
            *overview_queries.read_waiting(connection, record.partition, resource, SHOWN),
            overview_queries.read_line(connection, record.partition, SHOWN),
            *overview_queries.count_held(connection, resource),
            None if record.gateway is None else overview_queries.read_breaker(connection, record.gateway),
        )
        entries = requests.list_resource_entries(connection, record, None, SHOWN, visit.query.cursor)
        balance = overview_queries.read_balance(connection, resource, CHARTED)
    return Page(
        "resource.html",
        {
            "resource": record,
            "state": state,
            "situation": situation,
            "entries": entries,
            "chart": _chart(record, balance),
            "balance": balance,
        },
    )


class Reason(NamedTuple):
    """Why a resource does not move, or what it waits for."""

    #: bad, wait, busy or quiet.
    tone: str
    text: str
    #: Where something can be done about it, and what that is called.
    address: str | None = None
    link: str | None = None

    @property
    def is_grave(self) -> bool:
        """Whether it does not pass by itself."""
        return self.tone in ("bad", "wait")


@dataclass(frozen=True, slots=True)
class Situation:
    """How a resource stands in its partition's line."""

    resource: ResourceRecord
    partition: PartitionState
    #: The first of its rows, and how many it has among the first console.LINE_MAX of the line.
    waiting: list[Waiting]
    waiting_count: int
    line: Line
    #: Requests that wait for the gateway's answer, and those that are parked, among the newest.
    held: int
    failed: int
    #: Until when its gateway is left alone.
    breaker: datetime | None

    @property
    def is_stopped(self) -> bool:
        """Whether something must be done before anything moves."""
        return any(reason.is_grave for reason in self.reasons())

    def reasons(self) -> list[Reason]:
        """Why nothing moves, the most telling first."""
        return [
            *self._of_the_partition(),
            *self._of_the_line(),
            *self._of_the_rules(),
            *self._of_the_gateway(),
        ]

    def _of_the_partition(self) -> Iterator[Reason]:
        lane = self.partition
        if lane.paused_since is not None:
            yield Reason(
                "wait",
                f"Partition {lane.id} is paused since {lane.paused_since:%Y-%m-%d %H:%M} UTC, by {lane.paused_by}. "
                "It accepts requests, but decides none.",
                "#do",
                "Resume",
            )
        if lane.living == 0:
            yield Reason(
                "bad", "No worker is running, so no request is decided. Start one with teller worker."
            )
        elif lane.owner is None:
            yield Reason("wait", f"No worker owns partition {lane.id}. One claims it within seconds.")
        elif not lane.owner_alive:
            yield Reason(
                "wait", f"The worker {lane.owner} does not respond. Another worker takes over within seconds."
            )

    def _of_the_line(self) -> Iterator[Reason]:
        if self.waiting:
            ahead = self.waiting[0].place - 1
            what = (
                "This resource is next"
                if ahead == 0
                else f"{ahead:,} {'row is' if ahead == 1 else 'rows are'} ahead of this resource"
            )
            yield Reason("busy", f"{what} in the queue.")
        elif self.line.is_cut:
            yield Reason(
                "busy",
                f"None of the first {overview_queries.LINE_MAX:,} rows in the queue is for this resource.",
            )

    def _of_the_rules(self) -> Iterator[Reason]:
        one, now = self.resource, datetime.now(UTC)
        if one.closed_at is not None:
            yield Reason("quiet", "The resource is closed. Requests are rejected with resource_closed.")
        if one.starts_at is not None and one.starts_at > now:
            yield Reason(
                "quiet", f"Until {one.starts_at:%Y-%m-%d %H:%M} UTC, requests are rejected with not_started."
            )
        if one.ends_at is not None and one.ends_at <= now:
            yield Reason(
                "quiet", f"Since {one.ends_at:%Y-%m-%d %H:%M} UTC, requests are rejected with ended."
            )

    def _of_the_gateway(self) -> Iterator[Reason]:
        one = self.resource
        if self.breaker is not None:
            until = f"{self.breaker:%H:%M:%S} UTC"
            yield Reason(
                "wait", f"The gateway {one.gateway} does not answer: calls are paused until {until}."
            )
        if self.held:
            yield Reason(
                "busy", f"{_requests(self.held, 'is', 'are')} held until the gateway {one.gateway} answers."
            )
        if self.failed:
            yield Reason(
                "bad",
                f"{_requests(self.failed, 'has', 'have')} failed, to be replayed or refunded.",
                f"{ROOT}/failed?resource={one.id}",
                "Show",
            )


def _requests(count: int, singular: str, plural: str) -> str:
    """
    Return the beginning of a sentence, such as "3 requests have". The count ends at RECENT_MAX.
    """
    if count == 1:
        return f"One request {singular}"
    return f"{bounded(count, overview_queries.RECENT_MAX)} requests {plural}"


def _chart(resource: ResourceRecord, balance: list[BalancePoint]) -> Markup | None:
    if not balance:
        return None
    available = [point.available for point in balance]
    description = (
        f"available after each of the last {len(balance)} entries: from {available[0]:,} to {available[-1]:,}, "
        f"between {min(available):,} and {max(available):,}"
    )
    series = [("first", available)]
    if any(point.held for point in balance):
        series.append(("second", [point.held for point in balance]))
    return charts.steps(f"Balance of {resource.id}", description, series)
