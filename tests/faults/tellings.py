"""
Who had to be told of what, who is written down to be told, and who was.

An event is that a request came to a new status; each subscriber of its client is told of it under one name.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.faults.retelling import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.history import History

    #: Subscriber, request and version.
    Event = tuple[str, str, int]


def check_tellings(history: History) -> Iterator[Violation]:
    """What is wrong with what subscribers were told."""
    expected = _expected(history)
    yield from _deliveries(history, expected)
    yield from _messages(history, expected)


def _expected(history: History) -> dict[Event, str]:
    """The type of each event that a subscriber had to be told of."""
    expected: dict[Event, str] = {}
    for subscriber in history.subscribers:
        for stored in history.requests:
            if stored.client != subscriber.client:
                continue
            was = "processing"
            for state in stored.states:
                event = f"request.{state.status}"
                wanted = subscriber.events is None or event in subscriber.events
                if state.status not in ("processing", was) and wanted:
                    expected[subscriber.id, stored.id, state.version] = event
                was = state.status
    return expected


def _deliveries(history: History, expected: dict[Event, str]) -> Iterator[Violation]:
    """One row for each event, and none for what never was."""
    rows: dict[Event, list[str]] = defaultdict(list)
    for row in history.deliveries:
        rows[row.subscriber, row.request, row.version].append(row.type)
    for key in expected.keys() | rows.keys():
        event, found = expected.get(key), rows.get(key, [])
        if event is None:
            yield Violation("told_wrong", key[1], f"{found} is to be told, which never was")
        elif found != [event]:
            code = "told_twice" if len(found) > 1 else "not_told"
            yield Violation(code, key[1], f"for {event} in version {key[2]} there are {found}")


def _messages(history: History, expected: dict[Event, str]) -> Iterator[Violation]:
    """Each event arrived, under one name that no other event has, and said what is true."""
    names: dict[Event, set[str]] = defaultdict(set)
    named: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for told in history.told:
        key = (told.subscriber, told.request, told.version)
        names[key].add(told.event)
        named[told.event].add((told.request, told.version))
        true = expected.get(key)
        if (told.type, f"request.{told.status}") != (true, true):
            yield Violation(
                "told_wrong", told.request, f"{told.type} with {told.status}, where {true} is true"
            )
    for key, event in expected.items():
        if not names[key]:
            yield Violation("not_told", key[1], f"{event} in version {key[2]} never arrived")
        if len(names[key]) > 1:
            yield Violation("told_under_two_names", key[1], f"{event} as {sorted(names[key])}")
    for name, events in named.items():
        if len(events) > 1:
            yield Violation("told_under_one_name", name, f"names {len(events)} events")
