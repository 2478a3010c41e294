"""
Compares expected notifications with the stored rows and the messages that arrived.

An event is a request's change to a new status, or a refund of a part of it. Each subscriber of its client receives it
under one id.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.faults.ledger_walk import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.history import History

    #: A subscriber, a request and a version.
    Event = tuple[str, str, int]


PARTIALLY_REFUNDED = "request.partially_refunded"


def check_notifications(history: History) -> Iterator[Violation]:
    """Return the violations in the notifications of subscribers."""
    expected = _expected(history)
    yield from _deliveries(history, expected)
    yield from _messages(history, expected)


def _expected(history: History) -> dict[Event, str]:
    """Return the type of each event that a subscriber must receive."""
    expected: dict[Event, str] = {}
    for subscriber in history.subscribers:
        for stored in history.requests:
            if stored.client != subscriber.client:
                continue
            was = ("processing", 0)
            for state in stored.states:
                in_part = state.status == "completed" and state.refunded > 0
                event = PARTIALLY_REFUNDED if in_part else f"request.{state.status}"
                wanted = subscriber.events is None or event in subscriber.events
                now = (state.status, state.refunded)
                if now not in (was, ("processing", 0)) and wanted:
                    expected[subscriber.id, stored.id, state.version] = event
                was = now
    return expected


def _deliveries(history: History, expected: dict[Event, str]) -> Iterator[Violation]:
    """There is one row for each event, and no other."""
    rows: dict[Event, list[str]] = defaultdict(list)
    for row in history.deliveries:
        rows[row.subscriber, row.request, row.version].append(row.type)
    for key in expected.keys() | rows.keys():
        event, found = expected.get(key), rows.get(key, [])
        if event is None:
            yield Violation("notified_wrongly", key[1], f"{found} is to be delivered, and never happened")
        elif found != [event]:
            code = "notified_twice" if len(found) > 1 else "not_notified"
            yield Violation(code, key[1], f"for {event} in version {key[2]} there are {found}")


def _messages(history: History, expected: dict[Event, str]) -> Iterator[Violation]:
    """Each event arrived under one id of its own, with its true status."""
    names: dict[Event, set[str]] = defaultdict(set)
    named: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for message in history.messages:
        key = (message.subscriber, message.request, message.version)
        names[key].add(message.event)
        named[message.event].add((message.request, message.version))
        true = expected.get(key)
        status = "completed" if true == PARTIALLY_REFUNDED else (true or "").removeprefix("request.")
        if (message.type, message.status) != (true, status):
            yield Violation(
                "notified_wrongly",
                message.request,
                f"{message.type} with {message.status}, where {true} is true",
            )
    for key, event in expected.items():
        if not names[key]:
            yield Violation("not_notified", key[1], f"{event} in version {key[2]} never arrived")
        if len(names[key]) > 1:
            yield Violation("event_under_two_ids", key[1], f"{event} as {sorted(names[key])}")
    for name, events in named.items():
        if len(events) > 1:
            yield Violation("events_under_one_id", name, f"is the id of {len(events)} events")
