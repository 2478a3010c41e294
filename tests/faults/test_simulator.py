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

from processor.batch import crossing, deciding
from processor.batch.worksheet import Worksheet
from processor.domain.decisions import Nothing, Release, Reserve, ReserveLegs
from processor.domain.kinds import KINDS
from processor.domain.rules import refunds, reservations, settling
from tests.faults.checker import FINAL, check
from tests.faults.model import TAKING
from tests.faults.simulator import POISON, TRIES, Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from datetime import datetime
    from uuid import UUID

    from processor.batch.snapshot import Row, Snapshot
    from processor.domain.decisions import Decision
    from processor.domain.model import Effect, Entry, Request, Reservation, Resource, State
    from tests.faults.simulator import Call, InboxRow, Intake

FIRST_SEED = int(os.environ.get("SEED", "0"))
WORLDS = int(os.environ.get("SIMULATOR_WORLDS", "120"))
#: Steps of one world.
STEPS = 200
RESOURCES = ("stock-a", "cash-a", "cash-b")
#: Resources of exchanges, in all three partitions. The first has a limit for each account.
ITEMS = ("stock-a", "item-a", "item-c", "item-d", "seat-a")


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
        for name in ITEMS[1:]:
            self._ask("admin", "opening", name, None, 6, details={"kind": "stock"})

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
        name = self.chance.choice((*RESOURCES, *ITEMS))
        self._ask("admin", "deposit", name, None, self.chance.randint(1, 4))

    def amend(self) -> None:
        """Change or remove the limit of each account."""
        details = {"per_account_limit": self.chance.choice([None, 2, 5])}
        self._ask("admin", "amendment", "stock-a", None, None, details=details)

    def ask_again(self) -> None:
        """Send a request again, with or without an earlier answer."""
        asked = self.chance.choice(list(self.world.asked.values()))
        if asked.kind in (*TAKING, "exchange"):
            fields = self.world.sent[asked.client, asked.key]
            self._commit(self.world.begin_intake(asked.client, asked.key, **fields), self._crash())

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

    def end_hold(self) -> None:
        """Capture a reservation, all or a part, or release it: in time, too late, twice, or where none is held."""
        store = self.world.store
        reservations = [one.id for one in store.requests.values() if one.kind == "reservation"]
        if some := list(store.reservations) or reservations:
            request = self.chance.choice(some)
            verb = self.chance.choice(["capture", "capture", "release"])
            held = store.requests[request].quantity
            amount = self.chance.choice([None, self.chance.randint(1, held)]) if verb == "capture" else None
            self.world.end_hold(request, verb, amount, self._crash())

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

    def expire(self) -> None:
        """End reservations whose time is over, in some partitions."""
        self.world.expire(self._some_partitions(), self.chance.randint(1, 3), self._crash())

    def cross(self) -> None:
        """Run a batch with all partitions of a request with legs that an earlier batch left, perhaps long ago."""
        if self.world.crossings:
            place = self.chance.randrange(len(self.world.crossings))
            self.drain(set(self.world.crossings.pop(place)))

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
                for request in store.effects.keys() | store.reservations.keys()
                if store.requests[request].resource_id == resource.id and self.world.holds(request)
            ), "held"

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
                        total += self.world.uses(entry) * entry.amount
                assert used == total, "usages"

    def _nothing_is_lost_or_done_twice(self) -> None:
        """
        Check that each request waits once or is decided, that each hold has an effect, and that final ones
        hold nothing.
        """
        store = self.world.store
        waiting = [row.request for row in store.inbox if row.verb == "decide" and row.leg == 0]
        assert len(set(waiting)) == len(waiting)
        for row in store.inbox:
            places = {
                one.partition for one in store.inbox if (one.seq, one.request) == (row.seq, row.request)
            }
            legs = () if row.verb in ("settle", "cancel") else store.requests[row.request].legs
            home = store.requests[row.request].resource_id
            assert places == {*map(self.world.partition_of, (home, *(leg.resource_id for leg in legs)))}, (
                "places"
            )
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
            while world.expire(range(world.partitions), 5, None):
                pass
            for request in world.due():
                world.claim(request)
        assert not world.store.inbox, "never decided"
        assert not any(states[-1].stage == "held" for states in world.store.states.values()), "held for ever"
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
        kind = self.chance.random()
        if kind < 0.2:
            return self._begin_exchange()
        if kind < 0.35:
            return self._begin_reservation()
        resource = self.chance.choice(RESOURCES) if self.chance.random() < 0.95 else "nothing-b"
        return self.world.begin_intake(
            "shop",
            f"key-{self.keys}",
            kind="withdrawal" if "cash" in resource else "redemption",
            resource_id=resource,
            account=self.chance.choice(["ada", "bob", "cyd", POISON]),
            amount=self.chance.randint(1, 3),
        )

    def _begin_exchange(self) -> Intake:
        names = self.chance.sample(ITEMS, self.chance.randint(2, len(ITEMS)))
        if self.chance.random() < 0.05:
            names[-1] = self.chance.choice(["cash-a", "nothing-b"])
        legs = [
            {"resource": name, self.chance.choice(["take", "give"]): self.chance.randint(1, 3)}
            for name in names
        ]
        return self.world.begin_intake(
            "shop",
            f"key-{self.keys}",
            kind="exchange",
            resource_id=names[0],
            account=self.chance.choice(["ada", "bob", POISON]),
            amount=None,
            details={"legs": legs},
        )

    def _begin_reservation(self) -> Intake:
        return self.world.begin_intake(
            "shop",
            f"key-{self.keys}",
            kind="reservation",
            resource_id=self.chance.choice((*RESOURCES, *ITEMS)),
            account=self.chance.choice(["ada", "bob", "cyd", POISON]),
            amount=self.chance.randint(1, 3),
            details={"ttl_seconds": self.chance.choice([1, 5, 30])},
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
        amount, more = self.chance.choice([None, None, 1, 2]), {}
        if original.legs:
            amount, more = None, {"details": {"legs": [leg.reversed().document() for leg in original.legs]}}
        self._ask(
            "admin", "refund", original.resource_id, original.account, amount, refund_of=original.id, **more
        )

    def _in(self, *statuses: str) -> list[UUID]:
        """Return the taking requests in one of these states."""
        store = self.world.store
        return [
            request
            for request, states in store.states.items()
            if states[-1].status in statuses and store.requests[request].kind in (*TAKING, "exchange")
        ]

    def _end(self, call: Call, *, lost: bool) -> None:
        self.world.record(call, "unknown" if lost else self.world.answer_of(call))


STEPS_AND_WEIGHTS: tuple[tuple[Callable[[World], None], int], ...] = (
    (World.take, 18),
    (World.begin, 4),
    (World.commit, 4),
    (World.deposit, 4),
    (World.amend, 1),
    (World.ask_again, 3),
    (World.cancel, 1),
    (World.replay, 4),
    (World.refund, 5),
    (World.end_hold, 10),
    (World.meddle, 2),
    (World.handle_notification, 22),
    (World.sweep, 4),
    (World.expire, 4),
    (World.cross, 10),
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
    "processing reservation_expired",
    "processing released",
    "processing processing completed",
    "not_exchangeable",
    "completed refunded_by_admin",
    "out_of_stock",
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


def _decide_what_is_behind_a_waiting_exchange(patch: pytest.MonkeyPatch) -> None:
    """Let rows pass an exchange whose batch needs more partitions."""
    sound = crossing.split

    def split(rows: Iterable[Row], partition_count: int) -> crossing.Split:
        rows = list(rows)
        found = sound(rows, partition_count)
        done = {row.request.id for row in found.ready}
        passing = [row for row in rows if row.request.id in done or not row.request.legs]
        return sound(passing, partition_count)._replace(crossings=found.crossings)

    patch.setattr(crossing, "split", split)


def _leave_the_last_leg_out(patch: pytest.MonkeyPatch) -> None:
    sound = Worksheet.move_legs

    def move(self: Worksheet, request: Request, taker: Request, *kind: Any) -> None:
        kept = [leg.document() for leg in request.legs[:-1]]
        less = replace(request, details={"legs": kept})
        sound(self, less, less if request is taker else taker, *kind)

    patch.setattr(Worksheet, "move_legs", move)


def _move_the_legs_twice(patch: pytest.MonkeyPatch) -> None:
    sound = Worksheet.move_legs

    def move(self: Worksheet, request: Request, taker: Request, *kind: Any) -> None:
        sound(self, request, taker, *kind)
        sound(self, request, taker, *kind)

    patch.setattr(Worksheet, "move_legs", move)


def _decide_a_later_leg_in_another_transaction(patch: pytest.MonkeyPatch) -> None:
    """Write the entries of later legs, and then those of the first legs, as if each had its own commit."""
    sound = Simulator.write_entries

    def write(self: Simulator, entries: list[Entry], xid: int) -> None:
        sound(self, [entry for entry in entries if entry.leg <= 0], xid)
        sound(self, [entry for entry in entries if entry.leg > 0], -xid)

    patch.setattr(Simulator, "write_entries", write)


def _expire_in_spite_of_a_command(patch: pytest.MonkeyPatch) -> None:
    sound = reservations.end

    def end(
        verb: str, state: State | None, hold: Reservation | None, resource: Resource | None, now: datetime
    ) -> Decision:
        if hold is not None and hold.expires_at <= now:
            verb, hold = "expire", hold._replace(command=None)
        return sound(verb, state, hold, resource, now)

    patch.setattr(reservations, "end", end)


def _accept_a_second_command(patch: pytest.MonkeyPatch) -> None:
    sound = Simulator.end_hold

    def end_hold(self: Simulator, request: UUID, *more: Any) -> None:
        if request in self.store.reservations:
            self.store.reservations[request].command = None
        sound(self, request, *more)

    patch.setattr(Simulator, "end_hold", end_hold)


def _keep_the_rest_of_a_capture(patch: pytest.MonkeyPatch) -> None:
    """Capture a part and leave the rest held."""
    sound = Worksheet.post

    def post(self: Worksheet, request: Request, kind: str, quantity: int, by: Request | None = None) -> None:
        kinds = [entry.kind for entry in self.entries if entry.request_id == request.id]
        if kind != "release" or kinds[-1:] != ["capture"]:
            sound(self, request, kind, quantity, by)  # type: ignore[arg-type]  # a kind of entry

    patch.setattr(Worksheet, "post", post)


def _expire_too_early(patch: pytest.MonkeyPatch) -> None:
    sound = deciding.decide

    def decide(row: Row, snapshot: Snapshot, now: datetime) -> tuple[Decision, str]:
        decision, actor = sound(row, snapshot, now)
        if isinstance(decision, Reserve | ReserveLegs):
            decision = replace(decision, seconds=decision.seconds // 2)
        return decision, actor

    patch.setattr(deciding, "decide", decide)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (_refund_on_unknown, "the gateway never declined|paid_and_refunded"),
        (_refund_while_the_gateway_is_asked, "refunded_while_open|a call is in flight"),
        (_refund_again_and_again, "entries_once|refunded_too_much|decision_wrong|usages|end_wrong"),
        (_forget_the_late_yes, "paid_and_refunded"),
        (_forget_the_limit, "decision_wrong"),
        (_sort_the_inbox_wrongly, "overtaken|back from its end|never decided"),
        (_delete_the_inbox_first, "lost"),
        (_number_all_partitions_as_one, "sequence_wrong"),
        (_mark_all_partitions_as_one, "never decided|still waiting"),
        (_mark_before_others_have_ended, "never decided|still waiting"),
        (_decide_what_is_behind_a_waiting_exchange, "overtaken"),
        (_leave_the_last_leg_out, "leg_left_out"),
        (_move_the_legs_twice, "entries_once"),
        (_decide_a_later_leg_in_another_transaction, "exchange_split"),
        (_expire_in_spite_of_a_command, "capture_ignored|release_ignored"),
        (_accept_a_second_command, "ended_twice|release_ignored|capture_ignored"),
        (_keep_the_rest_of_a_capture, "held|usages"),
        (_expire_too_early, "expired_early"),
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
