"""
The pure parts under every possible crash.

After each step the rules hold, and at the end the checker finds nothing. Each seed is one world with its own
faults. `SEED=17 pytest tests/faults/test_simulator.py` begins with that one, and `SIMULATOR_WORLDS=5000` runs
that many.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from processor.batch.worksheet import Worksheet
from processor.domain.kinds import KINDS
from processor.domain.model import Nothing, Release
from processor.domain.rules import refunds, settling
from tests.faults.checker import FINAL, check
from tests.faults.model import TAKING
from tests.faults.simulator import POISON, TRIES, Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime
    from uuid import UUID

    from processor.batch.snapshot import Row
    from processor.domain.model import Decision, Effect, Request, Resource, State
    from tests.faults.simulator import Call, InboxRow, Intake

FIRST_SEED = int(os.environ.get("SEED", "0"))
WORLDS = int(os.environ.get("SIMULATOR_WORLDS", "120"))
#: Steps of one world.
STEPS = 150
RESOURCES = ("stock-a", "cash-a", "cash-b")


class World:
    """Clients, APIs, workers, couriers and gateways with random events. `live` runs them to the end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.world = Simulator()
        self.open: list[Intake] = []
        self.keys = 0
        #: The steps so far, for the message of a failure.
        self.steps: list[str] = []
        for name, rules in (
            ("stock-a", {"kind": "stock", "per_account_limit": 4}),
            ("cash-a", {"kind": "balance", "gateway": "bank", "overdraft": 2}),
            ("cash-b", {"kind": "pool", "gateway": "bank", "per_account_limit": 20}),
        ):
            self._ask("admin", "opening", name, None, 15, details=rules)

    def live(self) -> None:
        """Run all steps and the end. Raises AssertionError with the seed and the steps."""
        steps, weights = zip(*STEPS_AND_WEIGHTS, strict=True)
        try:
            for _ in range(STEPS):
                [step] = self.chance.choices(steps, weights)
                self.steps.append(step.__name__)
                step(self)
                self.check()
            self.end()
        except AssertionError as fault:
            raise AssertionError(f"SEED={self.seed}: {fault}; after {self.steps}") from fault

    # ------------------------------------------------------------ clients

    def take(self) -> None:
        """Send a request."""
        self._commit(self._begin(), self._crash())

    def begin(self) -> None:
        """Begin a request whose transaction stays open, so that others become visible before it."""
        self.open.append(self._begin())

    def commit(self) -> None:
        """Commit an open request, or lose it with its process."""
        if self.open:
            self._commit(self.open.pop(self.chance.randrange(len(self.open))), self._crash())

    def deposit(self) -> None:
        """Add to a resource."""
        self._ask("admin", "deposit", self.chance.choice(RESOURCES), None, self.chance.randint(1, 4))

    def amend(self) -> None:
        """Change or remove the limit of each account."""
        details = {"per_account_limit": self.chance.choice([None, 2, 5])}
        self._ask("admin", "amendment", "stock-a", None, None, details=details)

    def ask_again(self) -> None:
        """Send a request again, with or without an earlier answer."""
        asked = self.chance.choice(list(self.world.asked.values()))
        if asked.kind in TAKING:
            fields = {"account": asked.account, "amount": asked.amount}
            again = self.world.begin_intake(
                asked.client, asked.key, kind=asked.kind, resource_id=asked.resource, **fields
            )
            self._commit(again, self._crash())

    def cancel(self) -> None:
        """Cancel a request, perhaps too late."""
        if self.world.store.inbox:
            self.world.command(self.chance.choice(self.world.store.inbox).request, "cancel")

    def replay(self) -> None:
        """Replay a failed request, as an admin."""
        if failed := self._in("failed"):
            self.world.command(self.chance.choice(failed), "replay")

    def refund(self) -> None:
        """Refund a failed or completed request, all or a part, as an admin."""
        if some := self._in("failed") or self._in("completed"):
            self._refund(self.chance.choice(some))

    def meddle(self) -> None:
        """Send a command that does not fit its request."""
        request = self.chance.choice(list(self.world.store.requests))
        verb = self.chance.choice(["replay", "refund", "cancel"])
        if verb == "refund":
            self._refund(request)
        else:
            self.world.command(request, verb)

    # ------------------------------------------------------------ workers

    def handle_notification(self) -> None:
        """Handle a notification, in any order and perhaps repeatedly. The worker may crash."""
        if not self.world.bells:
            return
        partition = self.chance.choice(self.world.bells)
        if self.chance.random() < 0.8:
            self.world.bells.remove(partition)
        self.drain({partition, *self._some_partitions()})

    def sweep(self) -> None:
        """Drain some partitions without a notification."""
        self.drain(self._some_partitions())

    def pause(self) -> None:
        """Pause a partition, or resume it, as an operator."""
        self.world.store.paused ^= {self.chance.randrange(self.world.partitions)}

    def drain(self, partitions: set[int]) -> None:
        """Run one batch, sometimes with faulty rules. Another backend may hold the lock of any of the partitions."""
        locked = self._some_partitions() if self.chance.random() < 0.1 else set()
        sizes = self.chance.randint(1, 6), self.chance.randint(1, 3)
        self.world.drain(partitions - locked, *sizes, self._crash(), faulty=self.chance.random() < 0.3)
        self.world.bells += partitions & locked

    def flush_redis(self) -> None:
        """Lose all notifications."""
        self.world.bells.clear()

    # ------------------------------------------------------------ couriers and gateways

    def claim(self) -> None:
        """Begin a call as a courier."""
        if due := self.world.due():
            self.world.claim(self.chance.choice(due))

    def call(self) -> None:
        """
        Let a gateway act on a call, or not.

        Its answer arrives at once or much later, or it is lost, or the courier dies before it.
        """
        if not self.world.calls:
            return
        call = self.chance.choice(self.world.calls)
        self.world.act(call, self.chance.choice(["pay", "pay", "decline", "nothing", "nothing"]))
        [end] = self.chance.choices(["heard", "late", "lost", "dead"], [5, 3, 3, 1])
        if end != "late":
            self.world.calls.remove(call)
        if end in ("heard", "lost"):
            self._end(call, lost=end == "lost")

    def time_passes(self) -> None:
        """Let pauses end, and sometimes leases expire."""
        self.world.now += self.chance.choice([1, 3, 3, 12])

    # ------------------------------------------------------------ invariants

    def check(self) -> None:
        """Check all invariants after a step."""
        self._sums_are_right()
        self._usages_are_right()
        self._nothing_is_lost_or_done_twice()
        for request, states in self.world.store.states.items():
            by_itself = any(state.code == "gateway_declined" for state in states)
            assert not by_itself or request in self.world.declined, "refunded, and the gateway never declined"

    def _sums_are_right(self) -> None:
        """Check that entries add up to the state, the overdraft holds, and held is the sum of open holds."""
        store = self.world.store
        for resource in store.resources.values():
            entries = [entry for entry in store.entries if entry.resource_id == resource.id]
            last = (entries[-1].available, entries[-1].held) if entries else (0, 0)
            assert (resource.available, resource.held, resource.version) == (*last, len(entries))
            assert resource.available >= -resource.overdraft, "below the overdraft"
            assert resource.held == sum(
                store.requests[request].quantity
                for request in store.effects
                if store.requests[request].resource_id == resource.id and self.world.holds(request)
            )

    def _usages_are_right(self) -> None:
        """Check that the usage of a limited resource is the amount taken less the amount given back."""
        store = self.world.store
        for (resource, client, account), used in store.usages.items():
            if store.resources[resource].per_account_limit is not None:
                total = 0
                for entry in store.entries:
                    by = store.requests[entry.request_id]
                    owner = store.requests[by.refund_of] if by.refund_of else by
                    if (entry.resource_id, owner.client_id, entry.account) == (resource, client, account):
                        total += USES[entry.kind] * entry.amount
                assert used == total, "usages"

    def _nothing_is_lost_or_done_twice(self) -> None:
        """
        Check that each request waits once or is decided, that each hold has an effect, and that final ones
        hold nothing.
        """
        store = self.world.store
        waiting = [row.request for row in store.inbox if row.verb == "decide"]
        assert len(set(waiting)) == len(waiting)
        assert not set(waiting) & set(store.states), "decided and still waiting"
        assert {*waiting, *store.states} == set(store.requests), "lost"
        assert len(store.requests) == len(store.keys)
        for request, states in store.states.items():
            if states[-1].stage == "settling":
                effect = store.effects[request]
                settles = any((row.request, row.verb) == (request, "settle") for row in store.inbox)
                assert effect.due_at is not None or settles, "no call asks the gateway"
            assert states[-1].status not in FINAL or not self.world.holds(request)
            assert not any(state.status in FINAL - {"completed"} for state in states[:-1]) or (
                states[-1].status == "refunded"
            ), "back from its end"

    def end(self) -> None:
        """Bring everything to its end without faults, and run the checker."""
        world = self.world
        world.store.paused.clear()
        for intake in self.open:
            self._commit(intake, None)
        for _ in range(4 * (TRIES + 1)):
            for call in world.calls[:]:
                world.calls.remove(call)
                self._end(call, lost=False)
            while world.drain(range(world.partitions), 5, 2, None):
                pass
            world.now += 100
            for request in world.due():
                world.claim(request)
        assert not world.store.inbox, "never decided"
        found = [
            one for one in check(world.history()) if one.code != "failed_by_fault"
        ]  # the rules had a fault
        assert not found, "; ".join(map(str, found[:3]))

    # ------------------------------------------------------------ helpers

    def _some_partitions(self) -> set[int]:
        """Choose one partition or more."""
        partitions = range(self.world.partitions)
        return set(self.chance.sample(partitions, self.chance.randint(1, len(partitions))))

    def _crash(self) -> str | None:
        return self.chance.choices([None, "before", "after"], [6, 1, 1])[0]

    def _begin(self) -> Intake:
        self.keys += 1
        resource = self.chance.choice(RESOURCES) if self.chance.random() < 0.95 else "nothing-b"
        return self.world.begin_intake(
            "shop",
            f"key-{self.keys}",
            kind="withdrawal" if "cash" in resource else "redemption",
            resource_id=resource,
            account=self.chance.choice(["ada", "bob", "cyd", POISON]),
            amount=self.chance.randint(1, 3),
        )

    def _commit(self, intake: Intake, crash: str | None) -> None:
        self.world.commit_intake(intake, crash)

    def _ask(
        self, client: str, kind: str, resource: str, account: str | None, amount: int | None, **more: Any
    ) -> None:
        self.keys += 1
        fields = {"kind": kind, "resource_id": resource, "account": account, "amount": amount, **more}
        self._commit(self.world.begin_intake(client, f"key-{self.keys}", **fields), None)

    def _refund(self, request: UUID) -> None:
        original = self.world.store.requests[request]
        amount = self.chance.choice([None, None, 1, 2])
        self._ask("admin", "refund", original.resource_id, original.account, amount, refund_of=original.id)

    def _in(self, *statuses: str) -> list[UUID]:
        """Return the taking requests in one of these states."""
        store = self.world.store
        return [
            request
            for request, states in store.states.items()
            if states[-1].status in statuses and store.requests[request].kind in TAKING
        ]

    def _end(self, call: Call, *, lost: bool) -> None:
        self.world.record(call, "unknown" if lost else self.world.answer_of(call))


#: Weights of entries in an account's usage, by kind.
USES = {"hold": 1, "capture": 0, "release": -1, "debit": 1, "credit": -1}
STEPS_AND_WEIGHTS: tuple[tuple[Callable[[World], None], int], ...] = (
    (World.take, 16),
    (World.begin, 4),
    (World.commit, 4),
    (World.deposit, 4),
    (World.amend, 1),
    (World.ask_again, 3),
    (World.cancel, 1),
    (World.replay, 4),
    (World.refund, 5),
    (World.meddle, 2),
    (World.handle_notification, 22),
    (World.sweep, 4),
    (World.pause, 1),
    (World.flush_redis, 1),
    (World.claim, 14),
    (World.call, 18),
    (World.time_passes, 8),
)


def test_every_world_ends_right() -> None:
    """
    In every world nothing is lost, done twice or overtaken. Together the worlds cover each sequence in PATHS.
    """
    seen: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + WORLDS):
        world = World(seed)
        world.live()
        for states in world.world.store.states.values():
            path = (state.detail if state.detail == LATE else state.code or state.status for state in states)
            seen[" ".join(path)] += 1

    missing = [path for path in PATHS if not seen[path]]
    assert WORLDS < 120 or not missing, seen


def live_all() -> None:
    """Run all worlds in turn."""
    for seed in range(FIRST_SEED, FIRST_SEED + WORLDS):
        World(seed).live()


LATE = "paid_after_refund"
#: Sequences of codes or statuses that must occur.
PATHS = (
    "completed",
    "limit_reached",
    "insufficient_funds",
    "outcome_pending",
    "processing completed",
    "processing gateway_declined",
    "processing gateway_unreachable",
    "processing gateway_unreachable processing completed",
    "processing gateway_unreachable completed",
    "processing gateway_unreachable gateway_declined",
    "processing gateway_unreachable refunded_by_admin",
    f"processing gateway_unreachable refunded_by_admin {LATE}",
    "processing completed refunded_by_admin",
    "processing completed completed",
    "processor_error completed",
    "cancelled_by_client",
)


def _refund_on_unknown(patch: pytest.MonkeyPatch) -> None:
    sound = settling.decide

    def decide(state: State | None, effect: Effect | None, holding: bool) -> Decision:
        if holding and effect is not None and effect.outcome == "unknown":
            return Release("gateway_declined", None)
        return sound(state, effect, holding)

    patch.setattr(settling, "decide", decide)


def _refund_while_the_gateway_is_asked(patch: pytest.MonkeyPatch) -> None:
    sound = refunds.decide

    def decide(
        refund: Request,
        original: Request | None,
        resource: Resource | None,
        state: State | None,
        effect: Effect | None,
        *,
        holding: bool,
    ) -> Decision:
        if state is not None and state.status == "processing":
            state, effect = state._replace(status="failed"), effect and effect._replace(calling=False)
        return sound(refund, original, resource, state, effect, holding=holding)

    patch.setattr(refunds, "decide", decide)


def _refund_again_and_again(patch: pytest.MonkeyPatch) -> None:
    sound = refunds.decide

    def decide(
        refund: Request,
        original: Request | None,
        resource: Resource | None,
        state: State | None,
        effect: Effect | None,
        *,
        holding: bool,
    ) -> Decision:
        forgetful = state and state._replace(refunded=0)
        return sound(refund, original, resource, forgetful, effect, holding=holding)

    patch.setattr(refunds, "decide", decide)


def _forget_the_late_yes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settling, "PaidAfterRefund", lambda _: Nothing())


def _forget_the_limit(patch: pytest.MonkeyPatch) -> None:
    kind = KINDS["redemption"]
    sound = kind.rule
    assert sound is not None

    def decide(request: Request, resource: Resource | None, _used: int, now: datetime) -> Decision:
        return sound(request, resource, 0, now)

    patch.setitem(KINDS, "redemption", replace(kind, rule=decide))


def _sort_the_inbox_wrongly(patch: pytest.MonkeyPatch) -> None:
    sound = Simulator.take

    def take(self: Simulator, partitions: Collection[int], limit: int) -> list[InboxRow]:
        return sound(self, partitions, limit)[::-1]

    patch.setattr(Simulator, "take", take)


def _delete_the_inbox_first(patch: pytest.MonkeyPatch) -> None:
    """Delete the rows in a transaction of their own. A worker that crashes after it has decided nothing."""
    sound = Simulator.take

    def take(self: Simulator, partitions: Collection[int], limit: int) -> list[InboxRow]:
        taken = sound(self, partitions, limit)
        self.store.inbox = [row for row in self.store.inbox if row not in taken]
        return taken

    patch.setattr(Simulator, "take", take)


def _number_all_partitions_as_one(patch: pytest.MonkeyPatch) -> None:
    sound = Worksheet.decide

    def decide(self: Worksheet, row: Row) -> None:
        sound(self, row._replace(partition=min(self.sequences)))

    patch.setattr(Worksheet, "decide", decide)


def _mark_all_partitions_as_one(patch: pytest.MonkeyPatch) -> None:
    """Let the mark of each partition follow the last row of the batch. Rows that a full batch left are below it."""
    sound = Simulator.finish

    def finish(self: Simulator, done: list[InboxRow], *more: Any) -> None:
        last = [replace(done[-1], partition=row.partition) for row in done]
        sound(self, done + last, *more)

    patch.setattr(Simulator, "finish", finish)


def _mark_before_others_have_ended(patch: pytest.MonkeyPatch) -> None:
    """Let the mark pass rows of transactions that are still open."""
    sound = Simulator.finish

    def finish(self: Simulator, done: list[InboxRow], sequences: dict[int, int], _: int, xid: int) -> None:
        sound(self, done, sequences, xid, xid)

    patch.setattr(Simulator, "finish", finish)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (_refund_on_unknown, "the gateway never declined|paid_and_refunded"),
        (_refund_while_the_gateway_is_asked, "refunded_while_open|a call is in flight"),
        (_refund_again_and_again, "entries_once|refunded_too_much|decision_wrong|usages"),
        (_forget_the_late_yes, "paid_and_refunded"),
        (_forget_the_limit, "decision_wrong"),
        (_sort_the_inbox_wrongly, "overtaken|back from its end"),
        (_delete_the_inbox_first, "lost"),
        (_number_all_partitions_as_one, "sequence_wrong"),
        (_mark_all_partitions_as_one, "never decided|still waiting"),
        (_mark_before_others_have_ended, "never decided|still waiting"),
    ],
)
def test_a_deliberate_fault_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The worlds of a Teller with one fault fail, and the message names it.
    """
    break_it(monkeypatch)

    with pytest.raises(AssertionError, match=expected):
        live_all()
