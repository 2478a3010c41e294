"""
Compares the entries of requests with legs with their legs: all of them in one transaction, or none.

These are exchanges, and refunds of exchanges. A refund has the opposite legs.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.faults.ledger_walk import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.faults.history import Entry, History, Leg, Stored

#: Kinds of requests whose legs take and give at once.
MOVING = ("exchange", "refund")


def check_exchanges(history: History, entries_of: Mapping[str, list[Entry]]) -> Iterator[Violation]:
    """Return the violations in exchanges and in their refunds."""
    undone = Counter(
        one.refund_of for one in history.requests if one.kind == "refund" and one.status == "completed"
    )
    requests = {one.id: one for one in history.requests}
    for stored in history.requests:
        if not stored.legs or stored.kind not in MOVING:
            continue
        entries = entries_of.get(stored.id, [])
        yield from _legs(stored, entries)
        yield from _transactions(stored, entries)
        if stored.kind == "refund":
            yield from _opposite(stored, requests.get(stored.refund_of or ""))
        elif undone[stored.id] != (stored.status == "refunded"):
            yield Violation(
                "exchange_refund_wrong",
                stored.id,
                f"it is {stored.status}, and {undone[stored.id]} refunds of it are completed",
            )


def _legs(stored: Stored, entries: list[Entry]) -> Iterator[Violation]:
    """A request that is done has one entry for each leg, and any other has none."""
    is_done = stored.status in ("completed", "refunded")
    for place, leg in enumerate(stored.legs):
        found = [(entry.kind, entry.amount, entry.leg) for entry in entries if entry.resource == leg.resource]
        expected = _entry_of(leg, place) if is_done else None
        if len(found) > 1:
            yield Violation("leg_twice", stored.id, f"leg {place}, {leg.resource}, has {found}")
        elif found and expected is None:
            yield Violation("leg_wrong", stored.id, f"it is {stored.status}, and leg {place} has {found}")
        elif not found and expected is not None:
            yield Violation("leg_left_out", stored.id, f"leg {place}, {leg.resource}, has no entry")
        elif found and found != [expected]:
            yield Violation("leg_wrong", stored.id, f"leg {place} has {found}, and {expected} is right")


def _entry_of(leg: Leg, place: int) -> tuple[str, int, int]:
    return ("credit", leg.give or 0, place) if leg.take is None else ("debit", leg.take, place)


def _transactions(stored: Stored, entries: list[Entry]) -> Iterator[Violation]:
    """The entries and the decision are of one transaction. A state that was superseded shows it no longer."""
    wrote = {entry.xact for entry in entries}
    last = stored.states[-1] if stored.states else None
    if entries and last is not None and last.status == "completed":
        wrote.add(last.xact)
    wrote.discard(None)
    if len(wrote) > 1:
        yield Violation(
            "exchange_split",
            stored.id,
            f"the transactions {sorted(one for one in wrote if one is not None)} wrote it",
        )


def _opposite(refund: Stored, original: Stored | None) -> Iterator[Violation]:
    legs = [] if original is None else [leg._replace(take=leg.give, give=leg.take) for leg in original.legs]
    if refund.legs != legs:
        yield Violation("exchange_refund_wrong", refund.id, f"its legs are not the opposite of {legs}")
