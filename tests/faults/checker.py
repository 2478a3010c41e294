"""
Decides whether a history is right: nothing lost, nothing doubled, no request overtaken, each event delivered.

It reads the clients' observations and the stored data, and nothing else. It returns every violation that it
finds.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from tests.faults.exchanges import check_exchanges
from tests.faults.history import legs_of
from tests.faults.ledger_walk import LedgerWalk, Violation, is_released_by_admin
from tests.faults.model import TAKING
from tests.faults.notifications import check_notifications
from tests.faults.reservations import check_reservations, is_captured_in_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.history import Asked, Entry, History, State, Stored

#: Final states. Only a completed request can still be refunded.
FINAL = frozenset({"completed", "rejected", "refunded", "cancelled"})
#: Allowed changes of a request's status.
MOVES = {
    ("processing", "completed"),
    ("processing", "rejected"),
    ("processing", "refunded"),
    ("processing", "cancelled"),
    ("processing", "failed"),
    ("processing", "processing"),
    ("failed", "processing"),
    ("failed", "completed"),
    ("failed", "refunded"),
    ("failed", "rejected"),
    ("failed", "failed"),
    ("completed", "completed"),
    ("completed", "refunded"),
    ("refunded", "refunded"),
}
#: Codes of failed requests in which no rule was at fault.
OUTSIDE = frozenset({"gateway_unreachable", "gateway_misconfigured"})
PAID_AFTER_REFUND = "paid_after_refund"


def check(history: History) -> list[Violation]:
    """Return every violation in a history, or nothing if it is right."""
    return [violation for rule in RULES for violation in rule(_Index(history))]


class _Index:
    """The history, indexed by request, key and resource."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.requests = {one.id: one for one in history.requests}
        self.by_key: dict[tuple[str, str], list[Stored]] = defaultdict(list)
        self.entries_of: dict[str, list[Entry]] = defaultdict(list)
        self.entries_in: dict[str, list[Entry]] = defaultdict(list)
        self.decided_in: dict[str, list[Stored]] = defaultdict(list)
        self.home_of: dict[str, int] = {}
        for one in history.requests:
            self.by_key[one.client, one.key].append(one)
            self.home_of[one.resource] = one.partition
            if one.states:
                for resource in one.resources:
                    self.decided_in[resource].append(one)
        for entry in history.entries:
            self.entries_of[entry.request].append(entry)
            self.entries_in[entry.resource].append(entry)


# ---------------------------------------------------------------- answers to clients


def _promises(index: _Index) -> Iterator[Violation]:
    """Each accepted request is stored once, as it was sent, and each refused one is not stored."""
    asked_for = set()
    for asked in index.history.asked:
        asked_for.add((asked.client, asked.key))
        found = index.by_key.get((asked.client, asked.key), [])
        name = f"{asked.client}/{asked.key}"
        if len(found) > 1:
            yield Violation("key_twice", name, f"made {len(found)} requests")
        answered = {one.request for one in asked.tries if one.accepted}
        if len(answered) > 1:
            yield Violation("key_twice", name, f"its client got {len(answered)} ids")
        for request in answered - {one.id for one in found}:
            yield Violation("lost", str(request), f"the key {name} was answered with it, and it is not there")
        if found and asked.tries[-1].refused and not answered:
            yield Violation(
                "refused_but_stored", found[0].id, f"the key {name} was answered {asked.tries[-1].status}"
            )
        for one in found:
            yield from _as_asked(asked, one)
    for key, found in index.by_key.items():
        if key not in asked_for:
            yield Violation("unasked", found[0].id, f"no client sent the key {'/'.join(key)}")


def _as_asked(asked: Asked, stored: Stored) -> Iterator[Violation]:
    for name in ("kind", "resource", "account", "amount", "refund_of"):
        meant, kept = getattr(asked, name), getattr(stored, name)
        if meant != kept:
            yield Violation("stored_wrong", stored.id, f"{name} is {kept!r}, and {meant!r} was sent")
    if legs_of(asked.legs) != stored.legs:
        yield Violation("stored_wrong", stored.id, f"its legs are {stored.legs}, and {asked.legs} were sent")
    statuses = {1: "processing"} | {state.version: state.status for state in stored.states}
    for one in asked.tries:
        if one.accepted and one.version is not None and statuses.get(one.version) != one.state:
            yield Violation(
                "answer_wrong",
                stored.id,
                f"its client got {one.state} as version {one.version}, which is {statuses.get(one.version)}",
            )
    if stored.shown is not None and stored.shown != (stored.status, max(statuses)):
        yield Violation("answer_wrong", stored.id, f"it is shown as {stored.shown}, and is {stored.status}")


# ---------------------------------------------------------------- states, and their numbers


def _states(index: _Index) -> Iterator[Violation]:
    """Each request reaches one end by allowed changes, or waits for an operator because of a gateway."""
    for stored in index.history.requests:
        if stored.status == "processing":
            stage = stored.states[-1].stage if stored.states else "queued"
            yield Violation("undecided", stored.id, f"it is {stage} of {stored.resource} at the end")
        before: State | None = None
        for version, state in enumerate(stored.states, start=2):
            yield from _move(stored, before, state, version)
            before = state


def _move(stored: Stored, before: State | None, state: State, version: int) -> Iterator[Violation]:
    was = before.status if before else "processing"
    if state.version != version:
        yield Violation("state_wrong", stored.id, f"version {state.version} follows {version - 1}")
    if (was, state.status) not in MOVES:
        code = "ended_twice" if was in FINAL else "state_wrong"
        yield Violation(
            code, stored.id, f"it was {was}, and became {state.status} in version {state.version}"
        )
    if state.status == "failed" and state.code not in OUTSIDE:
        yield Violation("failed_by_fault", stored.id, f"{state.code} in version {state.version}")
    if before is None:
        return
    if (state.sequence, state.decided_us) != (before.sequence, before.decided_us):
        yield Violation("sequence_wrong", stored.id, f"its number changed in version {state.version}")
    if state.refunded < before.refunded or state.at_us < before.at_us:
        yield Violation("state_wrong", stored.id, f"version {state.version} goes back")
    by_admin = state.code == "refunded_by_admin" and state.detail != PAID_AFTER_REFUND
    if by_admin and was not in ("failed", "completed"):
        yield Violation("refunded_while_open", stored.id, f"an admin refunded it while it was {was}")


def _times(index: _Index) -> Iterator[Violation]:
    """No request is decided before its acceptance or after the reading, by the one clock."""
    now_us = index.history.read_us
    for stored in index.history.requests:
        times = [state.at_us for state in stored.states]
        times += (entry.at_us for entry in index.entries_of[stored.id])
        if any(at < stored.created_us for at in times):
            yield Violation("time_wrong", stored.id, "it was decided before it was accepted")
        if now_us is not None and any(at > now_us for at in times):
            yield Violation("time_wrong", stored.id, "it was decided in the future")


def _sequences(index: _Index) -> Iterator[Violation]:
    """The decisions of a partition are numbered from 1 without a gap, each number once."""
    numbers: dict[int, list[int]] = defaultdict(list)
    for stored in index.history.requests:
        if stored.states:
            numbers[stored.partition].append(stored.states[0].sequence)
    for partition in numbers.keys() | index.history.sequences.keys():
        given = sorted(numbers[partition])
        last = index.history.sequences.get(partition, 0)
        if given == list(range(1, last + 1)):
            continue
        twice = {number for number, other in itertools.pairwise(given) if number == other}
        missing = set(range(1, last + 1)).difference(given)
        yield Violation(
            "sequence_wrong",
            f"partition {partition}",
            f"{len(given)} decisions up to {last}: twice {sorted(twice)[:3]}, missing {sorted(missing)[:3]}",
        )


def _order(index: _Index) -> Iterator[Violation]:
    """
    For one resource, a request answered before another was sent is decided before it.

    Decisions of one partition are compared by number, and entries by version. All are compared by time, also the
    refusals of requests with legs, whose number is of another partition. Equal times show no order.
    """
    asked_of = {(asked.client, asked.key): asked for asked in index.history.asked}
    spans: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for stored in index.history.requests:
        asked = asked_of.get((stored.client, stored.key))
        if asked is None or not stored.states:
            continue
        first, promised = stored.states[0], asked.promised
        answered = float("inf") if promised is None else promised.answered_at or float("inf")
        for resource in stored.resources:
            if index.home_of[stored.resource] == index.home_of.get(resource):
                spans[resource, "number"].append(Span(first.sequence, asked.sent_at, answered, stored.id))
            spans[resource, "time"].append(Span(first.decided_us, asked.sent_at, answered, stored.id))
        if not stored.failed_at_first:
            for entry in index.entries_of[stored.id]:
                if entry.kind in ("debit", "credit", "hold"):
                    span = Span(entry.version, asked.sent_at, answered, stored.id)
                    spans[entry.resource, "version"].append(span)
    for (resource, measure), found in spans.items():
        yield from _overtaken(resource, measure, found)


class Span(NamedTuple):
    """The place of a request among those of a resource, and the times between which it was accepted."""

    place: int
    sent: float
    answered: float
    request: str


def _overtaken(resource: str, measure: str, spans: list[Span]) -> Iterator[Violation]:
    latest, overtaker = float("-inf"), ""
    for _, group in itertools.groupby(sorted(spans), key=itemgetter(0)):
        same_place = list(group)
        for span in same_place:
            if span.answered < latest:
                yield Violation(
                    "overtaken",
                    span.request,
                    f"it was answered {latest - span.answered:.3f} s before {overtaker} was sent, "
                    f"which was decided before it, of {resource}, by {measure}",
                )
        for span in same_place:
            if span.sent > latest:
                latest, overtaker = span.sent, span.request


# ---------------------------------------------------------------- quantities


def _resources(index: _Index) -> Iterator[Violation]:
    """Each resource's history equals its sequential execution, and its entries add up to its state."""
    stored = {resource.id: resource for resource in index.history.resources}
    for name in sorted(stored.keys() | index.entries_in.keys() | index.decided_in.keys()):
        decided, entries = index.decided_in[name], index.entries_in[name]
        home = index.home_of.get(name)
        yield from LedgerWalk(name, decided, entries, stored.get(name), index.requests, home)


def _holds(index: _Index) -> Iterator[Violation]:
    """Each hold ends once, as its request does, and each refund gives back an amount that was taken."""
    back: dict[str, int] = defaultdict(int)
    for one in index.history.requests:
        if one.kind == "refund" and one.refund_of:
            back[one.refund_of] += sum(e.amount for e in index.entries_of[one.id] if e.kind == "credit")
    for stored in index.history.requests:
        if stored.kind not in TAKING:
            continue
        entries = index.entries_of[stored.id]
        kinds = [entry.kind for entry in entries]
        holds, ends = kinds.count("hold"), kinds.count("capture") + kinds.count("release")
        debits = kinds.count("debit")
        of_parts = is_captured_in_part(stored, entries)
        if ends > holds and not of_parts:
            yield Violation("hold_ended_twice", stored.id, f"its entries are {kinds}")
        if holds + debits > 1:
            yield Violation("taken_twice", stored.id, f"its entries are {kinds}")
        if holds and stored.status in FINAL and ends == 0:
            yield Violation("hold_left_open", stored.id, f"it is {stored.status}")
        if ends and stored.status in ("processing", "failed"):
            yield Violation("hold_ended_early", stored.id, f"it is {stored.status}; its entries are {kinds}")
        yield from _taken(stored, entries, back[stored.id])


def _taken(stored: Stored, entries: list[Entry], back: int) -> Iterator[Violation]:
    kinds = [entry.kind for entry in entries]
    taken = sum(entry.amount for entry in entries if entry.kind in ("debit", "capture"))
    if back > taken:
        yield Violation("refunded_too_much", stored.id, f"{back} is back of {taken}")
    released = "release" in kinds and not taken
    stated = stored.states[-1].refunded if stored.states else 0
    if stated != ((stored.amount or 0) if released and stored.status == "refunded" else back):
        yield Violation("refund_wrong", stored.id, f"it states {stated} as refunded, and its entries {back}")
    expected = {
        "completed": taken > back,
        "refunded": released or (taken > 0 and back == taken),
        "rejected": not kinds,
        "cancelled": not kinds or (stored.kind == "reservation" and released),
    }.get(stored.status, True)
    if not expected:
        yield Violation(
            "end_wrong", stored.id, f"it is {stored.status}; its entries are {kinds}, {back} is back"
        )


# ---------------------------------------------------------------- gateways and subscribers


def _payouts(index: _Index) -> Iterator[Violation]:
    """A gateway paid each completed request once, and nothing else without an admin's knowledge."""
    heard = set(index.history.heard)
    for stored in index.history.requests:
        kinds = {entry.kind for entry in index.entries_of[stored.id]}
        paid = index.history.payouts.get(stored.id, 0)
        if paid > 1:
            yield Violation("paid_twice", stored.id, f"{paid} payouts")
        asks_gateway = stored.kind != "reservation" or any(
            state.stage == "settling" for state in stored.states
        )
        if "capture" in kinds and asks_gateway and not paid:
            yield Violation("completed_not_paid", stored.id, "its hold was captured, and no gateway paid")
        is_recorded = "capture" in kinds or any(state.detail == PAID_AFTER_REFUND for state in stored.states)
        # A gateway may have paid a request that an admin refunded before any yes arrived. No record could show it.
        decided_blindly = stored.id not in heard and is_released_by_admin(stored)
        if paid and not is_recorded and stored.status != "failed" and not decided_blindly:
            yield Violation(
                "paid_and_refunded", stored.id, f"it is {stored.status}, was paid, and no admin was alerted"
            )
    for request in index.history.payouts.keys() - index.requests.keys():
        yield Violation("unasked", request, "a gateway paid it, and it is not there")


def _exchanges(index: _Index) -> Iterator[Violation]:
    """The legs of a request move all at once or not at all."""
    yield from check_exchanges(index.history, index.entries_of)


def _reservations(index: _Index) -> Iterator[Violation]:
    """Each reservation ends by its first accepted command, or else by its expiry."""
    yield from check_reservations(index.history, index.entries_of)


def _notifications(index: _Index) -> Iterator[Violation]:
    """Each subscriber receives each final status under one id, and the true one."""
    yield from check_notifications(index.history)


RULES: tuple[Callable[[_Index], Iterator[Violation]], ...] = (
    _promises,
    _states,
    _times,
    _sequences,
    _order,
    _resources,
    _holds,
    _exchanges,
    _reservations,
    _payouts,
    _notifications,
)
