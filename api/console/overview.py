"""
The first page: rates, queues, problems, and every partition.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from api.console import charts, rates, troubles
from api.console.formats import bounded
from api.console.pages import ROOT, Page, Pages, Visit
from processor.reading import overview as overview_queries
from workers.doorbell.condition import REMEDIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from markupsafe import Markup

    from api.services import Services
    from processor.reading.overview import PartitionSummary, Pulse

#: A partition whose oldest row waits for longer is behind.
BEHIND_SECONDS: Final = 2.0
#: A partition whose oldest row waits for longer is stuck.
STUCK_SECONDS: Final = 10.0
#: The shortest time that a chart shows.
WINDOW_SECONDS_MIN: Final = 20.0

pages = Pages("overview")


class Matter(NamedTuple):
    """A state that needs an operator's attention."""

    #: bad or wait.
    tone: str
    text: str
    #: The page about it.
    address: str | None = None
    partitions: tuple[int, ...] = ()


@pages.get("")
def overview(visit: Visit) -> Page:
    """
    Show the rates, the queues, the problems and the partitions.
    """
    pulse, samples = visit.memory.rates.look(visit.services.connection, time.monotonic())
    now, flow = samples[-1], rates.rates_of(samples)
    latest = flow[-1] if flow else None
    return Page(
        "overview.html",
        {
            "now": now,
            "latest": latest,
            "capped": any(one.backlog >= overview_queries.BACKLOG_MAX for one in pulse.partitions),
            "cells": [(one, state_of(one)) for one in pulse.partitions],
            "workers": workers_of(pulse.partitions),
            "matters": matters_of(pulse, _of_the_system(visit.services)),
            "activity": visit.memory.rates.activity(visit.services.connection, time.monotonic()),
            "slowest": max(pulse.partitions, key=lambda one: one.oldest_seconds or 0.0).id,
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


def state_of(partition: PartitionSummary) -> str:
    """
    Return the first state that applies: paused, stuck, behind, working or idle.
    """
    waiting_seconds = partition.oldest_seconds or 0.0
    if partition.paused:
        return "paused"
    if partition.backlog and (waiting_seconds > STUCK_SECONDS or not partition.owner_alive):
        return "stuck"
    if waiting_seconds > BEHIND_SECONDS:
        return "behind"
    return "working" if partition.backlog else "idle"


def workers_of(partitions: Sequence[PartitionSummary]) -> dict[str, int]:
    """
    Return the live workers, and the number of partitions of each.
    """
    return dict(sorted(Counter(one.owner for one in partitions if one.owner and one.owner_alive).items()))


def matters_of(pulse: Pulse, others: Iterable[Matter] = ()) -> list[Matter]:
    """
    List the states that need an operator's attention, the worst first.
    """
    found = [*others, *_of_the_requests(pulse), *_of_the_webhooks(pulse), *_of_the_partitions(pulse)]
    return sorted(found, key=lambda matter: matter.tone != "bad")


def _of_the_requests(pulse: Pulse) -> Iterator[Matter]:
    gauges = pulse.gauges
    if paid := gauges.paid_after_refund:
        what = "one request after its" if paid == 1 else f"{bounded(paid)} requests after their"
        yield Matter("bad", f"A gateway paid {what} refund.")
    if failed := gauges.failed:
        what = "One request has" if failed == 1 else f"{bounded(failed)} requests have"
        yield Matter("bad", f"{what} failed, to be replayed or refunded.", f"{ROOT}/failed")
    if approvals := pulse.badges.approvals:
        what = (
            "One request waits"
            if approvals == 1
            else f"{bounded(approvals, overview_queries.BADGE_MAX)} requests wait"
        )
        yield Matter("wait", f"{what} for approval.", f"{ROOT}/approvals")
    for gateway, until in sorted(gauges.breakers.items()):
        if until is not None:
            yield Matter("wait", troubles.of_gateway(gateway, until))


def _of_the_system(services: Services) -> Iterator[Matter]:
    """List what `/readyz` names and the partitions do not show."""
    if services.intake.waits_for_standby():
        yield Matter("bad", "Commits wait for a synchronous standby, so no request is accepted.")
    if services.has_little_disk():
        yield Matter("bad", "The disk is nearly full. Without space, no request is accepted.")
    condition = services.redis_check.condition
    if condition is not None:
        yield Matter("wait", f"Redis carries no notifications: {REMEDIES[condition]}.")
    health = services.health()
    if health is not None and "couriers" in health.causes:
        yield Matter(
            "bad", "Gateway calls, deliveries or mails are overdue. Look for a courier that is dead."
        )
    for gateway, calls in {} if health is None else health.unanswered.items():
        yield Matter("wait", f"The gateway {gateway} left its last {calls} calls unanswered.")


def _of_the_webhooks(pulse: Pulse) -> Iterator[Matter]:
    for one in pulse.failing:
        state = troubles.of_webhook(one.since, one.tries, one.error)
        yield Matter("wait", f"A webhook of {one.client_id} has been {state}.", f"{ROOT}/webhooks/{one.id}")
    if more := pulse.failing_count - len(pulse.failing):
        count = bounded(more, overview_queries.BADGE_MAX - len(pulse.failing))
        text = f"{count} more {'webhook fails' if more == 1 else 'webhooks fail'}."
        yield Matter("wait", text, f"{ROOT}/webhooks?state=failing")


def _of_the_partitions(pulse: Pulse) -> Iterator[Matter]:
    partitions = pulse.partitions
    in_state: dict[str, list[int]] = {}
    for one in partitions:
        in_state.setdefault(state_of(one), []).append(one.id)
    if not workers_of(partitions):
        yield Matter("bad", "No worker is running, so accepted requests wait. Start one with teller worker.")
    for pause in pulse.pauses:
        where = f"{ROOT}/partitions/{pause.partition}"
        yield Matter(
            "wait", f"Partition {pause.partition} has been paused {troubles.of_pause(pause)}.", where
        )
    named = {pause.partition for pause in pulse.pauses}
    in_state["paused"] = [number for number in in_state.get("paused", []) if number not in named]
    for tone, state, word in (
        ("bad", "stuck", "Stuck"),
        ("wait", "paused", "Also paused"),
        ("wait", "behind", "Behind"),
    ):
        if in_state.get(state):
            yield Matter(tone, f"{word}: partition", partitions=tuple(in_state[state]))


def _chart(title: str, points: list[tuple[float, float]], tone: str = "accent") -> Markup:
    """
    Draw a chart of the samples. Its window is at least WINDOW_SECONDS_MIN, so that a new chart grows from the right.
    """
    values = [value for _, value in points] or [0]
    end = points[-1][0] if points else 0.0
    begin = min(points[0][0], end - WINDOW_SECONDS_MIN) if points else -WINDOW_SECONDS_MIN
    description = f"between {min(values):,.0f} and {max(values):,.0f} in the last {end - begin:.0f} seconds"
    return charts.area(title, description, points, (begin, end), tone)
