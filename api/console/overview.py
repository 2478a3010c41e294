"""
The first page: how much comes in and is decided, what waits and what is wrong, and every partition at a glance.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from api.console import charts, rates
from api.console.formats import bounded
from api.console.pages import ROOT, Page, Pages, Visit
from processor.reading import overview as overview_queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markupsafe import Markup

    from processor.reading.overview import PartitionSummary, Pulse

#: What waits for longer is worth a look, and for longer than that something is wrong, in seconds.
BEHIND_SECONDS: Final = 2.0
STUCK_SECONDS: Final = 10.0
#: A chart shows at least so much, in seconds.
WINDOW_SECONDS_MIN: Final = 20.0

pages = Pages("overview")


class Matter(NamedTuple):
    """Something that somebody should look at."""

    #: bad or wait.
    tone: str
    text: str
    #: Where to look.
    address: str | None = None
    partitions: tuple[int, ...] = ()


@pages.get("")
def overview(visit: Visit) -> Page:
    """Everything at a glance."""
    pulse, samples = visit.memory.rates.look(visit.services.connection, time.monotonic())
    now, flow = samples[-1], rates.rates_of(samples)
    latest = flow[-1] if flow else None
    return Page(
        "overview.html",
        {
            "now": now,
            "latest": latest,
            "capped": any(lane.backlog >= overview_queries.BACKLOG_MAX for lane in pulse.partitions),
            "cells": [(lane, state_of(lane)) for lane in pulse.partitions],
            "workers": workers_of(pulse.partitions),
            "matters": matters_of(pulse),
            "charts": {
                "accepted": _chart("Accepted per second", [(r.at, r.accepted) for r in flow]),
                "decided": _chart("Decided per second", [(r.at, r.decided) for r in flow], "good"),
                "waiting": _chart("Waiting in queues", [(s.at, s.waiting) for s in samples]),
                "oldest": _chart("Oldest waiting", [(s.at, s.oldest_seconds) for s in samples], "wait"),
                "failed": _chart("Failed", [(s.at, s.failed) for s in samples], "bad"),
                "held": _chart("Waiting for gateways", [(s.at, s.held) for s in samples]),
            },
        },
    )


def state_of(lane: PartitionSummary) -> str:
    """How a partition looks: paused, stuck, behind, working or idle; the first that applies."""
    waiting_seconds = lane.oldest_seconds or 0.0
    if lane.paused:
        return "paused"
    if lane.backlog and (waiting_seconds > STUCK_SECONDS or not lane.owner_alive):
        return "stuck"
    if waiting_seconds > BEHIND_SECONDS:
        return "behind"
    return "working" if lane.backlog else "idle"


def workers_of(lanes: Sequence[PartitionSummary]) -> dict[str, int]:
    """Which workers live, and how many partitions each drains."""
    return dict(sorted(Counter(lane.owner for lane in lanes if lane.owner and lane.owner_alive).items()))


def matters_of(pulse: Pulse) -> list[Matter]:
    """What somebody should look at, the worst first."""
    found = [*_of_the_requests(pulse), *_of_the_partitions(pulse.partitions)]
    return sorted(found, key=lambda matter: matter.tone != "bad")


def _of_the_requests(pulse: Pulse) -> Iterator[Matter]:
    gauges = pulse.gauges
    if paid := gauges.paid_after_refund:
        what = "one request after its" if paid == 1 else f"{bounded(paid)} requests after their"
        yield Matter("bad", f"A gateway paid {what} refund.")
    if parked := gauges.failed:
        what = "One request has" if parked == 1 else f"{bounded(parked)} requests have"
        yield Matter("bad", f"{what} failed, to be replayed or refunded.", f"{ROOT}/failed")
    if approvals := pulse.badges.approvals:
        what = (
            "One withdrawal waits"
            if approvals == 1
            else f"{bounded(approvals, overview_queries.BADGE_MAX)} withdrawals wait"
        )
        yield Matter("wait", f"{what} for approval.", f"{ROOT}/approvals")
    for gateway, is_open in sorted(gauges.breakers.items()):
        if is_open:
            yield Matter("wait", f"The gateway {gateway} does not answer, and is left alone for a moment.")


def _of_the_partitions(lanes: Sequence[PartitionSummary]) -> Iterator[Matter]:
    in_state: dict[str, list[int]] = {}
    for lane in lanes:
        in_state.setdefault(state_of(lane), []).append(lane.id)
    if not workers_of(lanes):
        yield Matter("bad", "No worker is running, so accepted requests wait. Start one with teller worker.")
    for tone, state, word in (
        ("bad", "stuck", "Stuck"),
        ("wait", "paused", "Paused"),
        ("wait", "behind", "Behind"),
    ):
        if state in in_state:
            yield Matter(tone, f"{word}: partition", partitions=tuple(in_state[state]))


def _chart(title: str, points: list[tuple[float, float]], tone: str = "accent") -> Markup:
    """Of the time that was looked at; at the beginning a little more, so that it is seen to grow."""
    values = [value for _, value in points] or [0]
    end = points[-1][0] if points else 0.0
    begin = min(points[0][0], end - WINDOW_SECONDS_MIN) if points else -WINDOW_SECONDS_MIN
    description = f"between {min(values):,.0f} and {max(values):,.0f} in the last {end - begin:.0f} seconds"
    return charts.area(title, description, points, (begin, end), tone)
