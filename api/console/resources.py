"""
Resources: the list, and one with its rules, its queue, the reasons why it waits, and the course of its balance.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from api.console import charts, troubles
from api.console.fields import Moment, PageQuery, field_value
from api.console.formats import bounded
from api.console.pages import ROOT, Page, Pages, Visit
from api.web.fields import optional
from api.web.problems import NotFound
from processor.domain.amounts import format_amount
from processor.domain.model import ResourceKind  # noqa: TC001 - pydantic looks it up
from processor.domain.roles import LAB_CLIENT
from processor.ids import new_id
from processor.reading import overview as overview_queries
from processor.reading import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markupsafe import Markup

    from processor.reading.overview import BalancePoint, Line, PartitionState, Pause, Waiting
    from processor.records.documents import ResourceRecord

#: Resources on one page of the list.
LISTED: Final = 50
#: Rows of each list on the page of one resource.
SHOWN: Final = 20
#: Entries in the chart of a balance.
CHARTED: Final = 200

pages = Pages("resources")


class ResourcesQuery(PageQuery):
    """The filter of the resources, and the page."""

    kind: ResourceKind = optional()


@pages.get("/resources", query=ResourcesQuery)
def list_resources(visit: Visit) -> Page:
    """
    List the resources that match, newest first.
    """
    query: ResourcesQuery = visit.query
    with visit.services.connection() as connection:
        found = requests.list_resources(
            connection, None, query.kind, LISTED, query.cursor, without=LAB_CLIENT
        )
    return Page("resources.html", {"found": found, "kind": query.kind, "later": query.cursor is not None})


class ResourceQuery(PageQuery):
    """The time at which a resource is shown, and the page of its entries."""

    #: None: now alone.
    at: Moment | None = optional()


@pages.get("/resources/<resource>", query=ResourceQuery)
def one_resource(visit: Visit, resource: str) -> Page:
    """
    Show a resource, its queue, its entries and its balance.
    """
    with visit.services.connection() as connection:
        record = requests.read_resource(connection, resource, None)
        if record is None:
            raise NotFound("there is no such resource")
        state = overview_queries.read_partition(connection, record.partition)
        assert state is not None, "each resource is in an existing partition"  # noqa: S101
        situation = QueueSituation(
            record,
            state,
            *overview_queries.read_waiting(connection, record.partition, resource, SHOWN),
            overview_queries.read_line(connection, record.partition, SHOWN),
            *overview_queries.count_held(connection, resource),
            None if record.gateway is None else overview_queries.read_breaker(connection, record.gateway),
            next(iter(overview_queries.read_pauses(connection, record.partition)), None),
        )
        entries = requests.list_resource_entries(connection, record, None, SHOWN, visit.query.cursor)
        balance = overview_queries.read_balance(connection, resource, CHARTED)
        at = visit.query.at
        then = None if at is None else requests.read_resource_at(connection, resource, None, at)
    return Page(
        "resource.html",
        {
            "resource": record,
            "units": {record.id: record.written_unit},
            "state": state,
            "situation": situation,
            "entries": entries,
            "chart": _chart(record, balance),
            "balance": balance,
            "key": new_id(),
            "at": at,
            "then": then,
            "at_field": None if at is None else field_value(at),
            "day_before": field_value(datetime.now(UTC) - timedelta(days=1)),
        },
    )


class Reason(NamedTuple):
    """A reason why requests for a resource wait or are rejected."""

    #: bad, wait, busy or quiet.
    tone: str
    text: str
    #: The page or section with the remedy, and the text of its link.
    address: str | None = None
    link: str | None = None

    @property
    def is_grave(self) -> bool:
        """
        Return whether an operator or a gateway must act.
        """
        return self.tone in ("bad", "wait")


@dataclass(frozen=True, slots=True)
class QueueSituation:
    """A resource in the queue of its partition."""

    resource: ResourceRecord
    partition: PartitionState
    #: Its first rows, and the number of its rows among the first LINE_MAX of the queue.
    waiting: list[Waiting]
    waiting_count: int
    line: Line
    #: The requests that wait for the gateway, and those that have failed, among the newest RECENT_MAX.
    held: int
    failed: int
    #: The time until which calls of its gateway are paused, also if it is over. None: the gateway answers.
    breaker: datetime | None
    #: The pause of the partition.
    pause: Pause | None

    @property
    def is_stopped(self) -> bool:
        """
        Return whether a grave reason exists.
        """
        return any(reason.is_grave for reason in self.reasons())

    def reasons(self) -> list[Reason]:
        """
        List the reasons: of the partition, its queue, the rules, the gateway.
        """
        return [
            *self._of_the_partition(),
            *self._of_the_line(),
            *self._of_the_rules(),
            *self._of_the_gateway(),
        ]

    def _of_the_partition(self) -> Iterator[Reason]:
        one = self.partition
        if self.pause is not None:
            yield Reason(
                "wait",
                f"Partition {one.id} has been paused {troubles.of_pause(self.pause)}. "
                "It accepts requests, but decides none.",
                "#do",
                "Resume",
            )
        if one.living == 0:
            yield Reason(
                "bad", "No worker is running, so no request is decided. Start one with teller worker."
            )
        elif one.owner is None:
            yield Reason("wait", f"No worker owns partition {one.id}. One claims it within seconds.")
        elif not one.owner_alive:
            yield Reason(
                "wait", f"The worker {one.owner} does not respond. Another worker takes over within seconds."
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
            yield Reason("wait", troubles.of_gateway(one.gateway or "", self.breaker))
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
    written = functools.partial(format_amount, unit=resource.written_unit)
    description = (
        f"available after each of the last {len(balance)} entries: from {written(available[0])}"
        f" to {written(available[-1])}, between {written(min(available))} and {written(max(available))}"
    )
    series = [("first", available)]
    if any(point.held for point in balance):
        series.append(("second", [point.held for point in balance]))
    return charts.steps(f"Balance of {resource.id}", description, series)
