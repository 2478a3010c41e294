"""
Compares the ends of reservations with the commands that were sent for them.

A capture or release that was answered with 202 counts, and no other. Without one the hold expires, and not before its
time.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.faults.ledger_walk import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.faults.history import Command, Entry, History, Stored

#: The leg of the entry that releases the rest of a hold of which a part was captured.
REST_LEG = -1
#: The codes of reservations that ended by a release, and by their expiry.
RELEASED, EXPIRED = "released", "reservation_expired"


def check_reservations(history: History, entries_of: Mapping[str, list[Entry]]) -> Iterator[Violation]:
    """Return the violations in the ends of reservations."""
    commands: dict[str, list[Command]] = defaultdict(list)
    for command in history.commands:
        commands[command.request].append(command)
    for stored in history.requests:
        if stored.kind == "reservation" and stored.states:
            entries = entries_of.get(stored.id, [])
            yield from _accepted(stored, entries, commands[stored.id])
            yield from _unsent(stored, entries, commands[stored.id])
            yield from _times(stored, entries)
            yield from _captured(stored, entries)


def is_captured_in_part(stored: Stored, entries: Sequence[Entry]) -> bool:
    """Return whether a part of the hold was captured and the rest released, which ends the hold once."""
    ends = [entry for entry in entries if entry.kind in ("capture", "release")]
    kinds = sorted((entry.kind, entry.leg) for entry in ends)
    return (
        kinds == [("capture", 0), ("release", REST_LEG)] and sum(one.amount for one in ends) == stored.amount
    )


def _accepted(stored: Stored, entries: Sequence[Entry], commands: Sequence[Command]) -> Iterator[Violation]:
    """The first accepted command counts, and no second one is accepted."""
    accepted = [one for one in commands if one.accepted]
    if len(accepted) > 1:
        yield Violation("ended_twice", stored.id, f"{[one.verb for one in accepted]} were accepted")
    state = stored.states[-1]
    for one in accepted:
        if one.verb == "release" and state.code not in (RELEASED, "refunded_by_admin"):
            yield Violation(
                "release_ignored", stored.id, f"its release was accepted, and it is {stored.status}"
            )
        if one.verb == "capture" and stored.status in ("cancelled", "rejected"):
            yield Violation("capture_ignored", stored.id, f"its capture was accepted, and it is {state.code}")
        captured = sum(entry.amount for entry in entries if entry.kind == "capture")
        if one.verb == "capture" and captured not in (0, one.amount or stored.amount):
            yield Violation(
                "capture_wrong", stored.id, f"{one.amount or 'all'} was to be captured, and {captured} was"
            )


def _unsent(stored: Stored, entries: Sequence[Entry], commands: Sequence[Command]) -> Iterator[Violation]:
    """An end by a command is one that a client sent, though it may never have heard that it was accepted."""
    sent = {one.verb for one in commands if one.status is None or one.accepted}
    if stored.states[-1].code == RELEASED and "release" not in sent:
        yield Violation("ended_unasked", stored.id, "it was released, and no release was sent")
    if any(entry.kind == "capture" for entry in entries) and "capture" not in sent:
        yield Violation("ended_unasked", stored.id, "it was captured, and no capture was sent")


def _times(stored: Stored, entries: Sequence[Entry]) -> Iterator[Violation]:
    """An expiry comes after the time of the hold, which begins with the hold."""
    if stored.states[-1].code != EXPIRED:
        return
    held = min((entry.at_us for entry in entries if entry.kind == "hold"), default=None)
    ended = min((entry.at_us for entry in entries if entry.kind == "release"), default=None)
    if held is not None and ended is not None and ended - held < stored.details["ttl_seconds"] * 1_000_000:
        yield Violation("expired_early", stored.id, f"after {(ended - held) / 1e6:.3f} s")


def _captured(stored: Stored, entries: Sequence[Entry]) -> Iterator[Violation]:
    """A reservation shows the quantity that it captured."""
    captured = sum(entry.amount for entry in entries if entry.kind == "capture")
    if (stored.states[-1].captured or 0) != captured:
        yield Violation(
            "capture_wrong", stored.id, f"it shows {stored.states[-1].captured}, and its entries {captured}"
        )
