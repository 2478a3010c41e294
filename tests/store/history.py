"""
A system with every kind of event, for the tests of code that reads everything.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from processor.batch import run as batch
from processor.clients.keys import Caller
from processor.domain.kinds import KINDS
from processor.domain.legs import legs_of
from processor.domain.partitioning import partition_of
from processor.domain.rules import reservations as rules
from processor.intake import commands
from processor.operations import reservations
from processor.storage import connections
from tests.servers import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.domain.decisions import Decision
    from processor.domain.model import State
    from processor.intake.intake import Submission
    from tests.store.store import Store

FAR = datetime(2999, 1, 1, tzinfo=UTC)
SHOP: Final = Caller(uuid.UUID(int=3), "shop", "till", "client")
PAST = datetime(2000, 1, 1, tzinfo=UTC)


def refund_of(store: Store, original: uuid.UUID, amount: int | None = None) -> Submission:
    """Return a refund by an admin, who belongs to another client."""
    resource = store.one("SELECT resource_id FROM requests WHERE id = %s", original)
    legs = legs_of(store.one("SELECT details FROM requests WHERE id = %s", original))
    details = {"legs": [leg.reversed().document() for leg in legs]} if legs else None
    asked = store.asks("refund", resource, None, amount, client="admin", details=details)
    return asked._replace(refund_of=original)


def record_answer(
    store: Store, request: uuid.UUID, outcome: str, *, reference: str | None = None, reason: str | None = None
) -> None:
    """Record a gateway's answer as the courier does, in one transaction."""
    with store.owner.transaction():
        store.owner.execute(
            "UPDATE effects SET outcome = %s, reference = %s, reason = %s, due_at = NULL, tries = tries + 1,"
            " answered_at = clock_timestamp() WHERE request_id = %s",
            (outcome, reference, reason, request),
        )
        commands.record_command(store.owner, request, "settle", "courier")


@contextlib.contextmanager
def broken(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every decision of this kind raise an exception while the block runs."""

    def break_down(*_: object) -> NoReturn:
        raise RuntimeError("a rule with a fault")

    with monkeypatch.context() as patch:
        patch.setitem(KINDS, kind, replace(KINDS[kind], rule=break_down))
        yield


def play(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Produce every kind of event, and leave at least one request in each state."""
    _rule_changes(store)
    _exchanges(store)
    _withdrawals(store)
    _reservations(store)
    _reserved_legs(store)
    _faults_and_cancellations(store, monkeypatch)


def _rule_changes(store: Store) -> None:
    store.open("coupon", "coupon", 3, per_account_limit=1, metadata={"campaign": 7})
    store.accept(
        store.redeems("coupon", "u1"),
        store.redeems("coupon", "u1"),  # limit_reached
        store.redeems("coupon", "u1", client="other"),
        store.redeems("coupon", "u2", apply_before=FAR),
        store.redeems("coupon", "u3"),  # fully_redeemed
        store.redeems("coupon", "u4", apply_before=PAST),  # deadline_passed
        store.redeems("nothing", "u1"),  # resource_not_found
    )
    store.drain("coupon")
    store.drain("nothing")

    store.open("points", "points", 100)  # gets a limit later, loses it, and gets another one
    store.accept(
        store.redeems("points", "ada", 30),
        store.asks("amendment", "points", details={"per_account_limit": 50}),
        store.redeems("points", "ada", 20),
        store.redeems("points", "bob", 10),
        store.asks("amendment", "points", details={"per_account_limit": None}),
        store.redeems("points", "ada", 1),
        store.asks("amendment", "points", details={"per_account_limit": 20}),  # invalid_amendment
        store.asks("amendment", "points", details={"per_account_limit": 53, "unit": "miles"}),
        store.redeems("points", "bob", 5),
        store.redeems("points", "ada", 5),  # limit_reached
    )
    store.drain("points")

    store.open("daily", "balance", 1_000)  # gets a daily limit later, loses it, and gets a lower one
    store.accept(
        store.asks("withdrawal", "daily", "ada", 30),
        store.asks("amendment", "daily", details={"per_account_daily_limit": 50}),
        store.asks("withdrawal", "daily", "ada", 20),
        store.asks("withdrawal", "daily", "ada", 1),  # daily_limit_reached
        store.asks("withdrawal", "daily", "bob", 40),
        store.asks("amendment", "daily", details={"per_account_daily_limit": None}),
        store.asks("withdrawal", "daily", "ada", 7),
        store.asks("amendment", "daily", details={"per_account_daily_limit": 60}),
        store.asks("withdrawal", "daily", "ada", 3),
    )
    for _ in range(3):
        store.drain("daily")

    store.open("balance", "balance", 10, overdraft=50, unit="EUR", confirm_above=10_000, approve_above=20_000)
    store.accept(
        store.asks("withdrawal", "balance", "ada", 40),
        store.asks("deposit", "balance", None, 100),
        store.asks("amendment", "balance", details={"overdraft": 0, "metadata": {"note": "no more debts"}}),
    )
    store.drain("balance")

    times = {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2998-12-31T23:59:59.999999+00:00"}
    store.open("seat", "seat", 0, client="shop", **times)
    store.open("closed", "stock", 5)
    store.accept(store.asks("closing", "closed"), store.redeems("closed", "late"))
    store.drain("closed")


def _exchanges(store: Store) -> None:
    names = ("left", "right", "third")
    partitions = {partition_of(name, PARTITIONS) for name in names}
    store.open("left", "points", 1_000, per_account_limit=500, per_account_daily_limit=600)
    store.open("right", "stock", 10)
    store.open("third", "stock", 10)
    _, back, spent, _ = store.accept(
        store.exchanges("ada", ("left", -100), ("right", 2), ("third", -1)),
        store.exchanges("ada", ("left", -50), ("right", 3)),
        store.exchanges("ada", ("right", -1), ("third", 1)),
        store.exchanges("ada", ("left", 7), ("right", -100)),  # out_of_stock
    )
    batch.drain_once(store.worker, partitions)
    store.accept(store.redeems("third", "bob", 10))
    batch.drain_once(store.worker, partitions)
    store.accept(refund_of(store, back), refund_of(store, spent))  # the second is out_of_stock
    batch.drain_once(store.worker, partitions)


def _withdrawals(store: Store) -> None:
    store.open("paid", "pool", 1_000, gateway="sandbox", per_account_limit=500)
    names = (
        "paid",
        "declined",
        "unknown",
        "replayed",
        "released",
        "misconfigured",
        "asked",
        "answered",
        "back",
        "part",
    )
    asked = store.accept(*(store.asks("withdrawal", "paid", name, 10 + n) for n, name in enumerate(names)))
    held = dict(zip(names, asked, strict=True))
    store.drain("paid")

    record_answer(store, held["paid"], "done", reference="p-1")
    record_answer(store, held["declined"], "declined", reason="no such account")
    for name in ("unknown", "replayed", "released"):
        record_answer(store, held[name], "unknown", reason="timeout")
    record_answer(store, held["misconfigured"], "misconfigured", reason="401")
    for name in ("back", "part"):
        record_answer(store, held[name], "done", reference=name)
    store.drain("paid")

    commands.record_command(store.owner, held["replayed"], "replay", "admin")
    store.drain("paid")
    record_answer(store, held["replayed"], "done", reference="p-2")
    store.accept(
        refund_of(store, held["released"]),
        refund_of(store, held["back"], 5),
        refund_of(store, held["back"]),
        refund_of(store, held["part"], 3),
        refund_of(store, held["part"], 1_000),  # refund_too_large
        refund_of(store, held["asked"]),  # outcome_pending
    )
    store.drain("paid")
    record_answer(store, held["released"], "done", reference="too late")
    store.drain("paid")
    record_answer(store, held["answered"], "done", reference="not settled yet")


def _reservations(store: Store) -> None:
    store.open("hall", "seat", 20, per_account_limit=10)
    names = ("held", "whole", "part", "released", "capturing", "releasing")
    asked = store.accept(
        *(store.asks("reservation", "hall", name, 3, details={"ttl_seconds": 600}) for name in names)
    )
    held = dict(zip(names, asked, strict=True))
    store.drain("hall")
    with connections.connect(store.database.api_url, application_name="test api") as api:
        reservations.capture(api, held["whole"], SHOP)
        reservations.capture(api, held["part"], SHOP, 2)
        reservations.release(api, held["released"], SHOP)
        store.drain("hall")
        reservations.capture(api, held["capturing"], SHOP, 1)
        reservations.release(api, held["releasing"], SHOP)


def _reserved_legs(store: Store) -> None:
    for row in ("row-a", "row-b", "row-c"):
        store.open(row, "seat", 50, per_account_limit=10)
    names = ("held", "captured", "released", "given back", "failed", "refunded", "capturing")
    legs = (("row-a", 1), ("row-b", 2), ("row-c", 1))
    asked = store.accept(
        *(store.reserves(name.replace(" ", "-"), *legs) for name in names),
        store.reserves("greedy", ("row-a", 1), ("row-b", 11)),  # limit_reached
    )
    held = dict(zip(names, asked, strict=False))
    _drain_all(store)
    with connections.connect(store.database.api_url, application_name="test api") as api:
        for name in ("captured", "given back", "failed", "refunded"):
            reservations.capture(api, held[name], SHOP)
        reservations.release(api, held["released"], SHOP)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rules, "end", _break_down_for({held["failed"], held["refunded"]}, rules.end))
            _drain_all(store)
        store.accept(refund_of(store, held["given back"]), refund_of(store, held["refunded"]))
        _drain_all(store)
        reservations.capture(api, held["capturing"], SHOP)


def _break_down_for(requests: set[uuid.UUID], rule: Callable[..., Decision]) -> Callable[..., Decision]:
    def decide(verb: str, state: State | None, *rest: Any) -> Decision:
        if state is not None and state.request_id in requests:
            raise RuntimeError("a rule with a fault")
        return rule(verb, state, *rest)

    return decide


def _drain_all(store: Store) -> None:
    while batch.drain_once(store.worker, range(PARTITIONS)).taken:
        pass


def _faults_and_cancellations(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.open("stock", "stock", 10)

    with broken("redemption", monkeypatch):
        failed, replayed = store.accept(store.redeems("stock", "failed"), store.redeems("stock", "replayed"))
        store.drain("stock")
    commands.record_command(store.owner, replayed, "replay", "admin")
    taken, cancelled = store.accept(store.redeems("stock", "u", 2), store.redeems("stock", "cancelled"))
    commands.record_command(store.owner, cancelled, "cancel", "u")
    store.accept(refund_of(store, failed))  # nothing_to_refund
    store.drain("stock")
    store.accept(refund_of(store, taken))
    store.drain("stock")
    waiting, _ = store.accept(store.redeems("stock", "waiting"), store.redeems("nothing", "waiting"))
    commands.record_command(store.owner, waiting, "cancel", "waiting")
    store.accept(store.exchanges("waiting", ("left", -1), ("right", 1)))
