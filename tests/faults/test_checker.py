"""
The checker finds and names each kind of violation, added to a right history on purpose.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import pytest

from tests.faults.checker import check
from tests.faults.history import (
    Asked,
    Command,
    Delivery,
    Entry,
    History,
    Message,
    Resource,
    State,
    Stored,
    Subscriber,
    Try,
)
from tests.faults.model import TAKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHOP, ADMIN = "shop", "admin"
#: The id of the only subscriber.
HOOK = "hook"


class Record:
    """Writes a right history step by step. The caller chooses the steps."""

    def __init__(self) -> None:
        self.history = History(subscribers=[Subscriber(HOOK, SHOP)])
        self.now = 0
        #: The transaction of the next states and entries.
        self.xact: int | None = None
        self.sums: dict[str, tuple[int, int, int]] = {}

    def ask(
        self,
        name: str,
        kind: str,
        resource: str,
        account: str | None = None,
        amount: int | None = None,
        /,
        *,
        refund_of: str | None = None,
        unanswered: int = 0,
        partition: int = 0,
        **details: object,
    ) -> None:
        """Accept a request, after some tries without an answer."""
        client = SHOP if kind in (*TAKING, "exchange") else ADMIN
        tries = [Try(self._tick()) for _ in range(unanswered)]
        tries.append(Try(self._tick(), self._tick(), 202, name, "processing", 1))
        asked = Asked(client, f"key-{name}", kind, resource, account, amount, refund_of, tries)
        asked.legs = details.get("legs", [])  # type: ignore[assignment]
        stored = Stored(name, client, asked.key, kind, resource, partition, account, amount, refund_of)
        stored.details, stored.created_us = dict(details), self.now
        self.history.asked.append(asked)
        self.history.requests.append(stored)

    def come(self, name: str, status: str, code: str | None = None, **more: object) -> None:
        """Bring a request to a state, and notify its client."""
        stored = self.stored(name)
        was = stored.states[-1] if stored.states else None
        numbers = (
            (was.sequence, was.decided_us) if was else (self._next_number(stored.partition), self._tick())
        )
        stage = "settling" if status == "processing" else None
        state = State(len(stored.states) + 2, status, stage, code, 0, *numbers, self._tick(), xact=self.xact)
        stored.states.append(dataclasses.replace(state, **more))  # type: ignore[arg-type]
        state = stored.states[-1]
        is_news = was is None or (was.status, was.refunded) != (status, state.refunded)
        if status != "processing" and is_news and stored.client == SHOP:
            in_part = status == "completed" and state.refunded > 0
            event = (name, state.version, "request.partially_refunded" if in_part else f"request.{status}")
            self.history.deliveries.append(Delivery(*event, HOOK))
            self.history.messages.append(
                Message(HOOK, f"msg-{name}-{state.version}", event[2], *event[:2], status)
            )

    def post(
        self, name: str, kind: str, amount: int, resource: str, account: str | None = None, leg: int = 0
    ) -> None:
        """Write a ledger entry."""
        available, held, version = self.sums.get(resource, (0, 0, 0))
        moves = {"hold": (-1, 1), "capture": (0, -1), "release": (1, -1), "debit": (-1, 0), "credit": (1, 0)}
        available, held = available + moves[kind][0] * amount, held + moves[kind][1] * amount
        self.sums[resource] = available, held, version + 1
        entry = Entry(resource, version + 1, kind, name, account, amount, available, held, self._tick())
        entry.leg, entry.xact = leg, self.xact
        self.history.entries.append(entry)

    def pay(self, name: str) -> None:
        """Record a payment by the gateway."""
        self.history.payouts[name] = 1
        self.history.heard.append(name)

    def close(self) -> History:
        """Return the finished history."""
        self.history.resources = [Resource(name, *sums) for name, sums in self.sums.items()]
        self.history.read_us = self._tick()
        return self.history

    def stored(self, name: str) -> Stored:
        """Return a request by its name."""
        return next(one for one in self.history.requests if one.id == name)

    def _tick(self) -> int:
        self.now += 1
        return self.now

    def _next_number(self, partition: int) -> int:
        number = self.history.sequences.get(partition, 0) + 1
        self.history.sequences[partition] = number
        return number


def good() -> History:
    """Return a history of a coupon with a limit and a balance with a gateway, with one of everything."""
    record = Record()
    record.ask("open", "opening", "coupon", None, 2, kind="coupon", per_account_limit=1)
    record.come("open", "completed")
    record.post("open", "credit", 2, "coupon")
    for name, account, no in (
        ("a", "ada", None),
        ("again", "ada", "limit_reached"),
        ("b", "bob", None),
        ("c", "cyd", "fully_redeemed"),
    ):
        record.ask(name, "redemption", "coupon", account, 1, unanswered=1)
        record.come(name, "rejected" if no else "completed", no)
        if not no:
            record.post(name, "debit", 1, "coupon", account)

    record.ask("cash", "opening", "cash", None, 100, kind="balance", gateway="bank")
    record.come("cash", "completed")
    record.post("cash", "credit", 100, "cash")
    for name, amount in (("paid", 30), ("declined", 40), ("silent", 20)):
        record.ask(name, "withdrawal", "cash", "ada", amount)
        record.come(name, "processing")
        record.post(name, "hold", amount, "cash", "ada")
    record.ask("poor", "withdrawal", "cash", "ada", 11)
    record.come("poor", "rejected", "insufficient_funds")
    record.pay("paid")
    record.post("paid", "capture", 30, "cash", "ada")
    record.come("paid", "completed")
    record.post("declined", "release", 40, "cash", "ada")
    record.come("declined", "refunded", "gateway_declined", refunded=40)
    record.come("silent", "failed", "gateway_unreachable")

    record.ask("part", "refund", "cash", "ada", 10, refund_of="paid")
    record.come("part", "completed")
    record.come("paid", "completed", refunded=10)
    record.post("part", "credit", 10, "cash", "ada")
    record.ask("rest", "refund", "cash", "ada", refund_of="paid")
    record.come("rest", "completed")
    record.come("paid", "refunded", "refunded_by_admin", refunded=30)
    record.post("rest", "credit", 20, "cash", "ada")
    record.ask("free", "refund", "cash", "ada", refund_of="silent")
    record.come("free", "completed")
    record.post("silent", "release", 20, "cash", "ada")
    record.come("silent", "refunded", "refunded_by_admin", refunded=20)
    record.pay("silent")
    record.come("silent", "refunded", "refunded_by_admin", refunded=20, detail="paid_after_refund")

    record.ask("kept", "withdrawal", "cash", "bob", 5)
    record.come("kept", "processing")
    record.post("kept", "hold", 5, "cash", "bob")
    record.come("kept", "failed", "gateway_misconfigured")
    record.ask("gone", "redemption", "coupon", "dan", 1)
    record.come("gone", "cancelled", "cancelled_by_client")
    _trade(record)
    _reserve(record)
    return record.close()


def _trade(record: Record) -> None:
    """Add exchanges between partitions 1 and 2: two that are done, of which one is refunded, and two refused."""
    for name, kind, available, partition in (("purse", "points", 30, 1), ("mugs", "stock", 3, 2)):
        record.ask(name, "opening", name, None, available, kind=kind, partition=partition)
        record.come(name, "completed")
        record.post(name, "credit", available, name)
    for number, (name, refused) in enumerate(
        (("trade", None), ("back", None), ("sold", "mugs"), ("broke", "purse")), start=100
    ):
        record.xact = number
        take = 1 if refused != "mugs" else 3
        legs = [
            {"resource": "purse", "take": 40 if refused == "purse" else 10},
            {"resource": "mugs", "take": take},
        ]
        record.ask(name, "exchange", "purse", "ada", legs=legs, partition=1)
        if refused:
            code = "out_of_stock" if refused == "mugs" else "insufficient_points"
            record.come(name, "rejected", code, leg=1 if refused == "mugs" else 0)
            continue
        record.come(name, "completed")
        record.post(name, "debit", 10, "purse", "ada", 0)
        record.post(name, "debit", 1, "mugs", "ada", 1)
    record.xact = 200
    opposite = [{"resource": "purse", "give": 10}, {"resource": "mugs", "give": 1}]
    record.ask("undo", "refund", "purse", "ada", refund_of="back", legs=opposite, partition=1)
    record.come("undo", "completed")
    record.come("back", "refunded", "refunded_by_admin")
    record.post("undo", "credit", 10, "purse", "ada", 0)
    record.post("undo", "credit", 1, "mugs", "ada", 1)
    record.xact = None
    # In the other direction, so that a plain request is behind a later leg.
    for name in ("mug", "late"):
        record.ask(name, "redemption", "mugs", "bob", 2, partition=2)
        record.come(
            name, "completed" if name == "mug" else "rejected", None if name == "mug" else "out_of_stock"
        )
        if name == "mug":
            record.post(name, "debit", 2, "mugs", "bob")


def _reserve(record: Record) -> None:
    """Add reservations of seats: captured whole and in part, released, and expired."""
    record.ask("seats", "opening", "seats", None, 20, kind="seat", partition=3)
    record.come("seats", "completed")
    record.post("seats", "credit", 20, "seats")
    for name, verb, amount in (
        ("whole", "capture", 4),
        ("piece", "capture", 3),
        ("freed", "release", 4),
        ("lapsed", None, 4),
    ):
        record.ask(name, "reservation", "seats", "ada", 4, partition=3, ttl_seconds=1)
        record.come(name, "processing", stage="held")
        record.post(name, "hold", 4, "seats", "ada")
        if verb:
            record.history.commands.append(Command(name, verb, amount if name == "piece" else None, 202))
        else:
            record.now += 1_000_000
        if verb == "capture":
            record.post(name, "capture", amount, "seats", "ada")
            if amount < 4:
                record.post(name, "release", 4 - amount, "seats", "ada", -1)
            record.come(name, "completed", captured=amount)
        else:
            record.post(name, "release", 4, "seats", "ada")
            record.come(name, "cancelled", "released" if verb else "reservation_expired")
    record.history.commands.append(Command("lapsed", "capture", None, 409))


def test_a_good_history_is_good(tmp_path: Path) -> None:
    """
    Nothing is found in it, neither directly nor after a file.
    """
    history = good()
    assert check(history) == []

    history.save(tmp_path / "history.json.gz")

    assert History.load(tmp_path / "history.json.gz") == history


def _stored(history: History, name: str) -> Stored:
    return next(one for one in history.requests if one.id == name)


def _asked(history: History, name: str) -> Asked:
    return next(one for one in history.asked if one.key == f"key-{name}")


def _entry(history: History, name: str, kind: str) -> Entry:
    return next(one for one in history.entries if (one.request, one.kind) == (name, kind))


def _lose(history: History, name: str) -> None:
    history.requests.remove(_stored(history, name))


def _swap_numbers(history: History, one: str, other: str) -> None:
    first, second = _stored(history, one).states[0], _stored(history, other).states[0]
    first.sequence, second.sequence = second.sequence, first.sequence


def _undo(history: History, name: str, kind: str) -> Entry:
    """Remove the last entry of a ledger, whose resource then has the state before it."""
    entry = _entry(history, name, kind)
    history.entries.remove(entry)
    return entry


def _leg(history: History, name: str, resource: str) -> Entry:
    return next(one for one in history.entries if (one.request, one.resource) == (name, resource))


def _cut(history: History, name: str, resource: str) -> None:
    """Remove a leg as if it had never been written. Only the legs show it: the sums and versions are right."""
    lost = _leg(history, name, resource)
    history.entries.remove(lost)
    change = lost.amount if lost.kind == "debit" else -lost.amount
    for one in history.entries:
        if one.resource == resource and one.version > lost.version:
            one.version, one.available = one.version - 1, one.available + change
    for kept in history.resources:
        if kept.id == resource:
            kept.version, kept.available = kept.version - 1, kept.available + change


def _swap_versions(history: History, resource: str, one: str, other: str) -> None:
    """Let two entries of a ledger change places."""
    first, second = _leg(history, one, resource), _leg(history, other, resource)
    first.version, second.version = second.version, first.version


def _end_again(history: History, name: str, kind: str) -> None:
    """Write another end of a hold, at the end of its ledger."""
    [end] = [one for one in history.entries if one.request == name and one.kind in ("capture", "release")]
    _set(end, kind=kind)
    _again(history, name, kind)
    _set(end, kind="release" if kind == "capture" else "capture")


def _again(history: History, name: str, kind: str, resource: str | None = None) -> None:
    """Write an entry once more, at the end of its ledger."""
    entry = _entry(history, name, kind) if resource is None else _leg(history, name, resource)
    last = max(
        (one for one in history.entries if one.resource == entry.resource), key=lambda one: one.version
    )
    record = Record()
    record.sums[entry.resource], record.now = (last.available, last.held, last.version), last.at_us
    record.post(name, kind, entry.amount, entry.resource, entry.account)
    history.entries += record.history.entries
    for kept in history.resources:
        if kept.id == entry.resource:
            kept.available, kept.held, kept.version = record.sums[entry.resource]


def _hold_on(history: History, name: str) -> None:
    """Take back the end of a reservation."""
    _undo(history, name, "release")
    _pop_state(history, name)


def _set(of: object, **fields: object) -> None:
    for name, value in fields.items():
        setattr(of, name, value)


def _rename_account(history: History, name: str, account: str) -> None:
    for of in (_stored(history, name), _asked(history, name), _entry(history, name, "debit")):
        _set(of, account=account)


def _pop_state(history: History, name: str, times: int = 1, *, event: bool = True) -> None:
    for _ in range(times):
        state = _stored(history, name).states.pop()
        if not event:
            continue
        history.messages = [
            one for one in history.messages if (one.request, one.version) != (name, state.version)
        ]
        history.deliveries = [
            one for one in history.deliveries if (one.request, one.version) != (name, state.version)
        ]


def _fail(history: History, name: str) -> None:
    _set(_stored(history, name).states[-1], status="failed", code="processor_error")


#: Changes of a right history, and the violation that each must cause. Others may occur, too.
WRONGS: dict[str, tuple[str, Callable[[History], object]]] = {
    "an accepted request is not there": ("lost", lambda h: _lose(h, "c")),
    "a key made two requests": (
        "key_twice",
        lambda h: h.requests.append(dataclasses.replace(_stored(h, "c"), id="d")),
    ),
    "a client got two ids": (
        "key_twice",
        lambda h: _asked(h, "a").tries.append(Try(900, 901, 202, "b", "completed", 2)),
    ),
    "a request that no client sent": ("unasked", lambda h: h.asked.remove(_asked(h, "c"))),
    "a payout that no client asked for": ("unasked", lambda h: h.payouts.update(nobody=1)),
    "a refused request is there": (
        "refused_but_stored",
        lambda h: _set(_asked(h, "c"), tries=[Try(3, 4, 422)]),
    ),
    "another amount than was asked": ("stored_wrong", lambda h: _set(_asked(h, "c"), amount=2)),
    "a client got a wrong status": (
        "answer_wrong",
        lambda h: _asked(h, "c").tries.append(Try(900, 901, 200, "c", "completed", 2)),
    ),
    "it is shown with a wrong status": (
        "answer_wrong",
        lambda h: _set(_stored(h, "c"), shown=("completed", 2)),
    ),
    "a request that was never decided": ("undecided", lambda h: _pop_state(h, "gone")),
    "a request that is never settled": ("undecided", lambda h: _pop_state(h, "kept")),
    "two ends": (
        "ended_twice",
        lambda h: _stored(h, "c").states.append(
            dataclasses.replace(_stored(h, "c").states[-1], version=3, status="completed", code=None)
        ),
    ),
    "a version is missing": ("state_wrong", lambda h: _set(_stored(h, "c").states[0], version=3)),
    "a state that goes back": ("state_wrong", lambda h: _set(_stored(h, "paid").states[-1], refunded=5)),
    "failed though no gateway is at fault": ("failed_by_fault", lambda h: _fail(h, "gone")),
    "a number that changes": ("sequence_wrong", lambda h: _set(_stored(h, "kept").states[-1], sequence=99)),
    "a number twice": ("sequence_wrong", lambda h: _set(_stored(h, "gone").states[0], sequence=3)),
    "a number that is missing": ("sequence_wrong", lambda h: h.sequences.update({0: 99})),
    "refunded by an admin while the gateway was asked": (
        "refunded_while_open",
        lambda h: _stored(h, "silent").states.pop(1),
    ),
    "overtaken, both refused": ("overtaken", lambda h: _swap_numbers(h, "again", "c")),
    "overtaken, both completed": ("overtaken", lambda h: _swap_numbers(h, "a", "b")),
    "overtaken, entries in another order than numbers": (
        "order_broken",
        lambda h: _swap_numbers(h, "a", "b"),
    ),
    "refused though there was enough": (
        "decision_wrong",
        lambda h: _set(_stored(h, "again").states[0], code="fully_redeemed"),
    ),
    "refused with the wrong code": (
        "decision_wrong",
        lambda h: _set(_stored(h, "poor").states[0], code="out_of_stock"),
    ),
    "a leg is left out": ("leg_left_out", lambda h: _cut(h, "trade", "mugs")),
    "the first leg is left out": ("leg_left_out", lambda h: _cut(h, "trade", "purse")),
    "a leg of a refund is left out": ("leg_left_out", lambda h: _cut(h, "undo", "mugs")),
    "a leg twice": ("leg_twice", lambda h: _again(h, "trade", "debit", "mugs")),
    "a leg of another amount": ("leg_wrong", lambda h: _set(_leg(h, "trade", "mugs"), amount=2)),
    "a leg the wrong way": ("leg_wrong", lambda h: _set(_leg(h, "trade", "mugs"), kind="credit")),
    "a refused exchange that took": (
        "leg_wrong",
        lambda h: _set(_leg(h, "mug", "mugs"), request="sold", leg=1),
    ),
    "other legs than were sent": ("stored_wrong", lambda h: _set(_asked(h, "trade"), legs=[])),
    "an order broken on the second leg only": (
        "overtaken",
        lambda h: _swap_versions(h, "mugs", "undo", "mug"),
    ),
    "overtaken on the second leg, refused": (
        "overtaken",
        lambda h: _set(_stored(h, "late").states[0], decided_us=_stored(h, "sold").states[0].decided_us - 1),
    ),
    "an exchange split over two transactions": (
        "exchange_split",
        lambda h: _set(_leg(h, "trade", "mugs"), xact=99),
    ),
    "an exchange whose decision is of another transaction": (
        "exchange_split",
        lambda h: _set(_stored(h, "trade").states[-1], xact=99),
    ),
    "an exchange refused though there was enough": (
        "decision_wrong",
        lambda h: _asked(h, "sold").legs[1].update(take=1),
    ),
    "an exchange refused for a leg behind one that fails": (
        "decision_wrong",
        lambda h: _set(_stored(h, "broke").states[0], leg=1, code="out_of_stock"),
    ),
    "an exchange refunded by nothing": (
        "exchange_refund_wrong",
        lambda h: _set(_stored(h, "undo"), refund_of="trade"),
    ),
    "a refund of other legs": (
        "exchange_refund_wrong",
        lambda h: _set(_stored(h, "undo"), details={"legs": [{"resource": "mugs", "give": 1}]}),
    ),
    "a capture after its release": ("hold_ended_twice", lambda h: _end_again(h, "freed", "capture")),
    "a release after its capture": ("hold_ended_twice", lambda h: _end_again(h, "whole", "release")),
    "an expiry that beats an accepted capture": (
        "capture_ignored",
        lambda h: h.commands.append(Command("lapsed", "capture", None, 202)),
    ),
    "an expiry that beats an accepted release": (
        "release_ignored",
        lambda h: h.commands.append(Command("lapsed", "release", None, 202)),
    ),
    "a capture that beats an accepted release": (
        "release_ignored",
        lambda h: h.commands.append(Command("whole", "release", None, 202)),
    ),
    "two accepted commands": (
        "ended_twice",
        lambda h: h.commands.append(Command("whole", "capture", 2, 202)),
    ),
    "a part captured twice": ("hold_ended_twice", lambda h: _again(h, "piece", "capture")),
    "another part than was asked": ("capture_wrong", lambda h: _set(h.commands[1], amount=2)),
    "another part than is shown": (
        "capture_wrong",
        lambda h: _set(_stored(h, "piece").states[-1], captured=4),
    ),
    "a capture that no client sent": ("ended_unasked", lambda h: h.commands.pop(0)),
    "a release that no client sent": ("ended_unasked", lambda h: h.commands.pop(2)),
    "a release whose refusal the client has": ("ended_unasked", lambda h: _set(h.commands[2], status=409)),
    "an expiry before its time": (
        "expired_early",
        lambda h: _set(_stored(h, "lapsed"), details={"ttl_seconds": 2}),
    ),
    "a reservation that never ends": (
        "undecided",
        lambda h: _hold_on(h, "lapsed"),
    ),
    "a reservation that is released, and its hold is left": (
        "hold_left_open",
        lambda h: _undo(h, "freed", "release"),
    ),
    "a part is captured, and the rest is lost": (
        "sum_wrong",
        lambda h: _set(_entry(h, "piece", "release"), amount=2),
    ),
    "more than the limit of an account": (
        "decision_wrong",
        lambda h: _rename_account(h, "b", "ada"),
    ),
    "taken at once though a gateway is to be asked": (
        "decision_wrong",
        lambda h: _set(_entry(h, "kept", "hold"), kind="debit"),
    ),
    "another amount is taken": ("decision_wrong", lambda h: _set(_entry(h, "b", "debit"), amount=2)),
    "completed without an entry": ("decision_wrong", lambda h: _undo(h, "b", "debit")),
    "rejected with an entry": (
        "end_wrong",
        lambda h: _set(_stored(h, "b").states[0], status="rejected", code="fully_redeemed"),
    ),
    "cancelled with an entry": (
        "end_wrong",
        lambda h: _set(_stored(h, "b").states[0], status="cancelled", code="cancelled_by_client"),
    ),
    "an entry for another account": ("entry_wrong", lambda h: _set(_entry(h, "b", "debit"), account="eve")),
    "an entry without a request": (
        "entry_unexplained",
        lambda h: _set(_entry(h, "b", "debit"), request="nobody"),
    ),
    "an entry of another resource's request": (
        "entry_unexplained",
        lambda h: _set(_entry(h, "kept", "hold"), request="b"),
    ),
    "a version that is missing": ("version_gap", lambda h: _undo(h, "part", "credit")),
    "a time that runs backwards": ("time_backwards", lambda h: _set(_entry(h, "part", "credit"), at_us=1)),
    "decided before it was accepted": ("time_wrong", lambda h: _set(_stored(h, "gone"), created_us=10**9)),
    "written before it was accepted": ("time_wrong", lambda h: _set(_entry(h, "a", "debit"), at_us=0)),
    "decided in the future": ("time_wrong", lambda h: _set(h, read_us=10)),
    "a sum that is wrong": ("sum_wrong", lambda h: _set(_entry(h, "part", "credit"), available=1)),
    "a resource that differs from its entries": (
        "resource_wrong",
        lambda h: _set(h.resources[0], available=1),
    ),
    "a resource with another version": ("resource_wrong", lambda h: _set(h.resources[0], version=9)),
    "a resource that is not there": ("resource_wrong", lambda h: h.resources.pop()),
    "taken twice": ("taken_twice", lambda h: _again(h, "b", "debit")),
    "a hold that ends twice": ("hold_ended_twice", lambda h: _again(h, "paid", "capture")),
    "a hold that is captured and released": (
        "hold_ended_twice",
        lambda h: _set(_entry(h, "kept", "hold"), kind="release", request="paid"),
    ),
    "a hold that never ends": ("hold_left_open", lambda h: _undo(h, "declined", "release")),
    "a hold that ended though its request waits": (
        "hold_ended_early",
        lambda h: _pop_state(h, "paid", 3),
    ),
    "given back twice": ("refunded_too_much", lambda h: _again(h, "part", "credit")),
    "refunded, and the request does not show it": (
        "refund_wrong",
        lambda h: _set(_stored(h, "paid").states[-1], refunded=29),
    ),
    "completed though all of it is back": ("end_wrong", lambda h: _pop_state(h, "paid")),
    "paid twice": ("paid_twice", lambda h: h.payouts.update(paid=2)),
    "completed and never paid": ("completed_not_paid", lambda h: h.payouts.pop("paid")),
    "paid and given back": ("paid_and_refunded", lambda h: h.payouts.update(declined=1)),
    "paid after the refund, and no alert": (
        "paid_and_refunded",
        lambda h: _pop_state(h, "silent", event=False),
    ),
    "no notification": ("not_notified", lambda h: (h.messages.pop(), h.deliveries.pop())),
    "a message that never arrives": ("not_notified", lambda h: h.messages.pop()),
    "two messages for one event": (
        "notified_twice",
        lambda h: h.deliveries.append(copy.copy(h.deliveries[0])),
    ),
    "one event under two ids": (
        "event_under_two_ids",
        lambda h: h.messages.append(dataclasses.replace(h.messages[0], event="another")),
    ),
    "two events under one id": (
        "events_under_one_id",
        lambda h: _set(h.messages[0], event=h.messages[1].event),
    ),
    "a message with a wrong status": ("notified_wrongly", lambda h: _set(h.messages[0], status="rejected")),
    "a message about an event that never happened": (
        "notified_wrongly",
        lambda h: h.deliveries.append(Delivery("gone", 3, "request.refunded", HOOK)),
    ),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_each_wrong_is_found_and_named(wrong: str) -> None:
    """
    The violation is found under its name.
    """
    code, spoil = WRONGS[wrong]
    history = good()

    spoil(history)

    found = check(history)
    assert code in {violation.code for violation in found}, found
