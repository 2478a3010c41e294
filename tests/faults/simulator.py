"""
Teller in memory: its pure parts (worksheet, rules, ledger) over a store that can crash at any point.

A few lines stand in for PostgreSQL and the SQL of intake, batch and effects, one transaction at a time.
Teller's own code decides. Nothing happens by itself; the caller chooses each step. The only clock is `now`,
and nothing is random.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from processor.batch import crossing
from processor.batch.snapshot import CancelCommand, Row, Snapshot, Webhook
from processor.batch.worksheet import Worksheet
from processor.domain.kinds import KINDS
from processor.domain.model import Effect, Request, Reservation
from processor.domain.partitioning import partition_of
from tests.faults import history as records
from tests.faults.checker import PAID_AFTER_REFUND

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from processor.batch.snapshot import Delivery, UsageKey
    from processor.domain.model import Entry, Resource, State

BEGIN = datetime(2026, 11, 21, tzinfo=UTC)
#: The most calls of a gateway, and the duration of a call's lease and of the pause after a try, in seconds.
TRIES, LEASE_SECONDS, PAUSE_SECONDS = 2, 10, 2
HOOK = UUID(int=7)
#: An account whose requests raise while the rules have a fault.
POISON = "poison"


@dataclass(slots=True)
class EffectRow:
    """A gateway's effect as in the table, in seconds of the simulator's clock."""

    partition: int
    due_at: int | None
    tries: int = 0
    token: int | None = None
    leased_until: int | None = None
    outcome: str | None = None
    reference: str | None = None
    reason: str | None = None
    voided: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """An open call of a gateway: its request, its token, and whether it is the last try."""

    request: UUID
    token: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class InboxRow:
    """A row that a partition must still decide."""

    seq: int
    partition: int
    request: UUID
    verb: str
    leg: int = 0


@dataclass(slots=True)
class HoldRow:
    """The open hold of a reservation, in seconds of the simulator's clock."""

    partition: int
    expires_at: int
    command: str | None = None
    amount: int | None = None


@dataclass(slots=True)
class Intake:
    """An open transaction of an API. Its rows have their numbers, but no other transaction sees them."""

    xid: int
    request: Request
    key: str
    rows: list[InboxRow]


@dataclass(slots=True)
class Mark:
    """The low-water mark of a partition, and the next one. It is valid when all transactions below `next_xid` end."""

    low_water: int = 0
    next_low_water: int = 0
    next_xid: int = 0


@dataclass(slots=True)
class Store:
    """The durable data."""

    requests: dict[UUID, Request] = field(default_factory=dict)
    #: The time of each acceptance, in seconds of the simulator's clock.
    accepted: dict[UUID, int] = field(default_factory=dict)
    keys: dict[tuple[str, str], UUID] = field(default_factory=dict)
    inbox: list[InboxRow] = field(default_factory=list)
    states: dict[UUID, list[State]] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    usages: dict[UsageKey, int] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    effects: dict[UUID, EffectRow] = field(default_factory=dict)
    reservations: dict[UUID, HoldRow] = field(default_factory=dict)
    #: The transaction that wrote each entry, by resource and version, and each state, by request and version.
    wrote: dict[tuple[str | UUID, int], int] = field(default_factory=dict)
    heard: set[UUID] = field(default_factory=set)
    deliveries: list[Delivery] = field(default_factory=list)
    sequences: dict[int, int] = field(default_factory=dict)
    marks: dict[int, Mark] = field(default_factory=dict)
    paused: set[int] = field(default_factory=set)


class Simulator:
    """A system with `partitions` partitions. Gateways keep `paid`, and `declined` requests."""

    def __init__(self, partitions: int = 3) -> None:
        self.partitions = partitions
        self.store = Store()
        self.now = 0
        self.bells: list[int] = []
        self.calls: list[Call] = []
        self.paid: dict[UUID, int] = {}
        self.declined: set[UUID] = set()
        self.asked: dict[tuple[str, str], records.Asked] = {}
        #: The fields of each request as it was sent first.
        self.sent: dict[tuple[str, str], dict[str, Any]] = {}
        self.commands: list[records.Command] = []
        #: The partitions that requests with legs need, as the batches found that left them.
        self.crossings: list[frozenset[int]] = []
        self._ids = itertools.count(1)
        self._seqs = itertools.count(1)
        self._tokens = itertools.count(1)
        self._xids = itertools.count(1)
        #: The transactions that have not ended.
        self._open_xids: set[int] = set()
        #: The numbers of the last decisions, as the last batch left them.
        self._numbers: dict[int, int] = {}

    # ------------------------------------------------------------ clients and intake

    def begin_intake(self, client: str, key: str, **fields: Any) -> Intake:
        """Begin a request: its transaction is open, and its row has its number."""
        request = Request(UUID(int=next(self._ids)), client, **fields)
        refunded = None if request.refund_of is None else str(request.refund_of)
        self.sent.setdefault((client, key), fields)
        asked = self.asked.setdefault(
            (client, key),
            records.Asked(
                client,
                key,
                request.kind,
                request.resource_id,
                request.account,
                request.amount,
                refunded,
                legs=[leg.document() for leg in request.legs],
            ),
        )
        asked.tries.append(records.Try(self._tick()))
        xid = next(self._xids)  # before the seq
        self._open_xids.add(xid)
        return Intake(xid, request, key, self._rows_of(request, "decide"))

    def commit_intake(self, intake: Intake, crash: str | None) -> None:
        """Commit, notify and answer, unless the API crashes first."""
        self._open_xids.remove(intake.xid)
        if crash == "before":
            return
        store, request = self.store, intake.request
        first = store.keys.setdefault((request.client_id, intake.key), request.id)
        if first == request.id:
            store.requests[request.id], store.accepted[request.id] = request, self.now
            store.inbox += intake.rows
        if crash is None:
            states = store.states.get(first, [])
            tried = self.asked[request.client_id, intake.key].tries[-1]
            tried.answered_at, tried.status, tried.request = self._tick(), 202, str(first)
            tried.state = states[-1].status if states else "processing"
            tried.version = states[-1].version if states else 1
            self.bells.append(intake.rows[0].partition)

    def command(self, request: UUID, verb: str) -> None:
        """Record a command on a request. Repeating it has no effect."""
        rows = self._rows_of(self.store.requests[request], verb)
        if all((row.request, row.verb) != (request, verb) for row in self.store.inbox):
            self.store.inbox += rows
        self.bells.append(rows[0].partition)

    def end_hold(self, request: UUID, verb: str, amount: int | None, crash: str | None) -> None:
        """Accept a capture or release if the reservation is held, its time is not over, and it is the first."""
        sent = records.Command(str(request), verb, amount)
        self.commands.append(sent)
        hold = self.store.reservations.get(request)
        if crash == "before":
            return
        is_held = request in self.store.states and self.store.states[request][-1].stage == "held"
        if not is_held or hold is None or hold.command is not None or hold.expires_at <= self.now:
            sent.status = 409
            return
        hold.command, hold.amount = verb, amount
        self.command(request, verb)
        sent.status = None if crash else 202

    def partition_of(self, resource: str) -> int:
        """Return the partition, as Teller does."""
        return partition_of(resource, self.partitions)

    def _rows_of(self, request: Request, verb: str) -> list[InboxRow]:
        """Return the rows of a command: in the home partition, and with the same number in those of other legs."""
        seq = next(self._seqs)
        places = {self.partition_of(request.resource_id): 0}
        if verb not in ("settle", "cancel"):
            for leg, one in enumerate(request.legs):
                places.setdefault(self.partition_of(one.resource_id), leg)
        return [InboxRow(seq, partition, request.id, verb, leg) for partition, leg in places.items()]

    # ------------------------------------------------------------ one batch

    def drain(
        self, partitions: Collection[int], limit: int, part: int, crash: str | None, *, faulty: bool = False
    ) -> int:
        """
        Run one batch of up to `limit` rows of each partition, flushed every `part`. Returns the number of rows taken.

        `crash` is before or after its commit. With `faulty`, its rules raise for POISON.
        """
        xid = next(self._xids)
        settled = min(self._open_xids, default=xid)
        taken = self.take(partitions, limit)
        split = crossing.split(map(self._row, taken), self.partitions)
        if crash is None:
            self.crossings += [one.partitions for one in split.crossings]
        done = self._decide(partitions, split.ready, part, crash, xid, faulty=faulty)
        if not done or crash == "before":
            return 0
        gone = {(one.seq, one.partition) for one in done}
        for one in done:
            gone |= {
                (place.seq, place.partition) for place in split.places.get((one.request.id, one.verb), ())
            }
        self.finish([row for row in taken if (row.seq, row.partition) in gone], self._numbers, settled, xid)
        if crash is None:
            depths = Counter(row.partition for row in taken)
            self.bells += {p for p in depths if depths[p] == limit} - split.blocked
            self.bells += {row.partition for row in split.ready[len(done) :]}
        return len(done)

    def expire(self, partitions: Collection[int], limit: int, crash: str | None) -> int:
        """Run one batch of the reservations whose time is over. Returns their number."""
        due = [
            (hold.expires_at, request)
            for request, hold in self.store.reservations.items()
            if hold.partition in set(partitions) - self.store.paused
            and hold.command is None
            and hold.expires_at <= self.now
            and self.store.states[request][-1].stage == "held"
        ]
        rows = [
            Row(place, self.store.reservations[one].partition, "expire", None, self.store.requests[one])
            for place, (_, one) in enumerate(sorted(due)[:limit])
        ]
        return len(self._decide(partitions, rows, limit, crash, next(self._xids)))

    def _row(self, row: InboxRow) -> Row:
        return Row(row.seq, row.partition, row.verb, None, self.store.requests[row.request], row.leg)

    def _decide(
        self,
        partitions: Collection[int],
        work: list[Row],
        part: int,
        crash: str | None,
        xid: int,
        *,
        faulty: bool = False,
    ) -> list[Row]:
        """Decide rows as one batch, and write the result unless the worker crashes before. Returns the rows done."""
        if not work:
            return []
        sheet = self._read(partitions, work)
        decided, done = [], len(work)
        with _faulty_rules() if faulty else contextlib.nullcontext():
            for count, row in enumerate(work, start=1):
                if sheet.needs_reload_before(row):
                    done = count - 1
                    break
                try:
                    sheet.decide(row)
                except RuntimeError as fault:
                    sheet.fail(row, str(fault))
                if sheet.needs_reload:
                    done = count
                    break
                if count % part == 0:
                    decided.append(sheet.flush())
        decided.append(sheet.flush())
        if crash != "before":
            for one in decided:
                self._write_states(one.states, xid)
                self.write_entries(one.entries, xid)
            self._write_rest(sheet)
            self._numbers = sheet.sequences
        return work[:done]

    def take(self, partitions: Collection[int], limit: int) -> list[InboxRow]:
        """Return the oldest rows of each partition above its mark, in the order of their numbers."""
        taken: list[InboxRow] = []
        for partition in set(partitions) - self.store.paused:
            low_water = self.mark_of(partition).low_water
            waiting = [row for row in self.store.inbox if row.partition == partition and row.seq > low_water]
            taken += sorted(waiting, key=lambda row: row.seq)[:limit]
        return sorted(taken, key=lambda row: row.seq)

    def finish(self, done: list[InboxRow], sequences: dict[int, int], settled: int, xid: int) -> None:
        """Delete the rows, and count on the partitions that had some."""
        store = self.store
        store.inbox = [row for row in store.inbox if row not in done]
        for partition, last_seq in {row.partition: row.seq for row in done}.items():
            store.sequences[partition] = sequences[partition]
            mark = self.mark_of(partition)
            if mark.next_xid <= settled:
                mark.low_water = max(mark.low_water, min(mark.next_low_water, last_seq))
                mark.next_low_water, mark.next_xid = last_seq, xid

    def mark_of(self, partition: int) -> Mark:
        """Return the marks of a partition."""
        return self.store.marks.setdefault(partition, Mark())

    def _read(self, partitions: Collection[int], rows: list[Row]) -> Worksheet:
        """Copy everything that the rows can touch."""
        store = self.store
        requests = [row.request for row in rows]
        names = {leg.resource_id for one in requests for leg in one.legs} | {
            one.resource_id for one in requests
        }
        refunded = [store.requests[one.refund_of] for one in requests if one.refund_of in store.requests]
        snapshot = Snapshot(
            {name: copy.copy(store.resources[name]) for name in names if name in store.resources},
            dict(store.usages),
            {},
            {
                row.request: CancelCommand.of(None)
                for row in store.inbox
                if row.partition in partitions and row.verb == "cancel"
            },
        )
        ids = {row.request.id for row in rows if row.verb != "decide"} | {one.id for one in refunded}
        snapshot.reservations = {
            one: Reservation(one, BEGIN + timedelta(seconds=hold.expires_at), hold.command, hold.amount)
            for one, hold in store.reservations.items()
            if one in ids
        }
        snapshot.states = {one: store.states[one][-1] for one in ids if one in store.states}
        snapshot.originals = {one.id: one for one in refunded}
        snapshot.effects = {one: self._effect(one) for one in ids if one in store.effects}
        snapshot.holding = {one for one in ids if self.holds(one)}
        snapshot.most_used = {one: self._most_used(one) for one in store.resources}
        snapshot.webhooks = {"shop": [Webhook("shop", HOOK, None)]}
        now = BEGIN + timedelta(seconds=self.now)
        sequences = {partition: store.sequences.get(partition, 0) for partition in partitions}
        return Worksheet(now, sequences, snapshot)

    def _most_used(self, resource: str) -> int:
        """Return the greatest usage of any account, from the entries."""
        return max(self._used_of(resource).values(), default=0)

    def _effect(self, request: UUID) -> Effect:
        row = self.store.effects[request]
        calling = row.leased_until is not None and row.leased_until > self.now
        return Effect(
            request,
            "bank",
            row.outcome,  # type: ignore[arg-type]  # an Outcome, as text
            row.reference,
            row.reason,
            calling,
            row.due_at is not None,
            row.voided,
        )

    def holds(self, request: UUID) -> bool:
        """Return whether the hold of this request is open."""
        kinds = [entry.kind for entry in self.store.entries if entry.request_id == request]
        return kinds.count("hold") > kinds.count("capture") + kinds.count("release")

    def _write_states(self, states: list[State], xid: int) -> None:
        for state in states:
            states = self.store.states.setdefault(state.request_id, [])
            assert state.version == len(states) + 2, "decisions: primary key"
            states.append(state)
            self.store.wrote[state.request_id, state.version] = xid

    def write_entries(self, entries: list[Entry], xid: int) -> None:
        for entry in entries:
            end = {"capture": "end", "release": "end"}
            kind = end.get(entry.kind, entry.kind)
            for other in self.store.entries:
                same = (other.request_id, other.leg) == (entry.request_id, entry.leg)
                assert not same or end.get(other.kind, other.kind) != kind, "entries_once"
            self.store.entries.append(entry)
            self.store.wrote[entry.resource_id, entry.version] = xid

    def _write_rest(self, sheet: Worksheet) -> None:
        store, snapshot = self.store, sheet.snapshot
        for name in {*sheet.versions_before, *sheet.opened, *sheet.amended}:
            store.resources[name] = snapshot.resources[name]
        store.usages |= {key: snapshot.usages[key] for key in sheet.moved_usages}
        if sheet.newly_limited is not None:
            self._rebuild_usages(sheet.newly_limited)
        for request, _client, partition, _gateway in sheet.new_effects:
            store.effects[request] = EffectRow(partition, self.now)
        for request in sheet.retried:
            row = store.effects[request]
            if row.outcome not in ("done", "declined"):
                row.due_at, row.tries, row.outcome, row.reason = self.now, 0, None, None
        for request in sheet.voided:
            assert not self.store_is_calling(request), "a call is in flight"
            if request in store.effects:  # a reservation without a gateway has none
                store.effects[request].due_at, store.effects[request].voided = None, True
        for one in sheet.reserved:
            seconds = int((one.expires_at - BEGIN).total_seconds())
            store.reservations[one.request_id] = HoldRow(one.partition, seconds)
        for request in sheet.unreserved:
            del store.reservations[request]
        store.deliveries += sheet.deliveries

    def store_is_calling(self, request: UUID) -> bool:
        """Return whether a call that counts is open."""
        return request in self.store.effects and self._effect(request).calling

    def _rebuild_usages(self, resource: str) -> None:
        self.store.usages |= self._used_of(resource)

    def _used_of(self, resource: str) -> dict[UsageKey, int]:
        """Return the usage of each account of a resource, from the entries."""
        found: dict[UsageKey, int] = {}
        for entry in self.store.entries:
            by = self.store.requests[entry.request_id]
            owner = self.store.requests[by.refund_of] if by.refund_of else by
            if entry.resource_id == resource and entry.account is not None:
                key = (resource, owner.client_id, entry.account)
                found[key] = found.get(key, 0) + self.uses(entry) * entry.amount
        return found

    def uses(self, entry: Entry) -> int:
        """Return the change of its account's usage by an entry, in multiples of its amount."""
        by = self.store.requests[entry.request_id]
        if by.legs and (entry.kind == "credit") == (by.refund_of is None):
            return 0  # a leg that gives, or the refund of it
        return {"hold": 1, "debit": 1, "release": -1, "credit": -1, "capture": 0}[entry.kind]

    # ------------------------------------------------------------ courier and gateway

    def due(self) -> list[UUID]:
        """Return the effects that may be claimed now."""
        return [
            request
            for request, row in self.store.effects.items()
            if row.due_at is not None and row.due_at <= self.now
        ]

    def claim(self, request: UUID) -> None:
        """Commit an attempt and begin the call, or give up the effect."""
        row = self.store.effects[request]
        assert not row.voided, "a voided effect is called"
        if row.tries >= TRIES:
            row.outcome, row.reason, row.due_at, row.token, row.leased_until = (
                "unknown",
                "cut off",
                None,
                None,
                None,
            )
            self._settle(request)
            return
        row.tries += 1
        row.token = next(self._tokens)
        row.leased_until = row.due_at = self.now + LEASE_SECONDS
        self.calls.append(Call(request, row.token, row.tries == TRIES))

    def act(self, call: Call, act: str) -> None:
        """Let the gateway pay or decline. Its first act for a key is final."""
        if call.request not in self.paid and call.request not in self.declined:
            if act == "pay":
                self.paid[call.request] = 1
            elif act == "decline":
                self.declined.add(call.request)

    def answer_of(self, call: Call) -> str:
        """Return the gateway's answer, if it arrives."""
        if call.request in self.paid:
            return "done"
        return "declined" if call.request in self.declined else "unknown"

    def record(self, call: Call, outcome: str) -> None:
        """Record a call as the courier does, in one transaction with the row for the batch."""
        row = self.store.effects[call.request]
        if outcome == "done":
            self.store.heard.add(call.request)
        if outcome in ("done", "declined"):
            if row.outcome in ("done", "declined"):
                return
            row.outcome, row.reference, row.due_at = outcome, f"ref-{call.token}", None
        elif row.outcome is not None or row.token != call.token or row.voided:
            return
        elif call.is_last:
            row.outcome, row.due_at = "unknown", None
        else:
            row.due_at = self.now + PAUSE_SECONDS
        row.token = row.leased_until = None
        if row.outcome is not None:
            self._settle(call.request)

    def _settle(self, request: UUID) -> None:
        self.command(request, "settle")

    # ------------------------------------------------------------ the record

    def _tick(self) -> int:
        self.now += 1
        return self.now

    def history(self) -> records.History:
        """Return the record of everything, for the checker."""
        store = self.store
        keys = {request: key for (_, key), request in store.keys.items()}
        return records.History(
            asked=[asked for asked in self.asked.values() if asked.tries],
            commands=self.commands,
            requests=[self._stored(request, keys[request.id]) for request in store.requests.values()],
            entries=[
                records.Entry(
                    entry.resource_id,
                    entry.version,
                    entry.kind,
                    str(entry.request_id),
                    entry.account,
                    entry.amount,
                    entry.available,
                    entry.held,
                    _microseconds(entry.created_at),
                    entry.leg,
                    store.wrote[entry.resource_id, entry.version],
                )
                for entry in store.entries
            ],
            resources=[
                records.Resource(one.id, one.available, one.held, one.version)
                for one in store.resources.values()
            ],
            payouts={str(request): payouts for request, payouts in self.paid.items()},
            heard=[str(request) for request in store.heard],
            subscribers=[records.Subscriber(str(HOOK), "shop")],
            deliveries=[
                records.Delivery(str(one.request_id), one.version, one.type, str(one.webhook_id))
                for one in store.deliveries
            ],
            messages=[
                records.Message(
                    str(one.webhook_id),
                    f"msg_{one.request_id.hex}_{one.version}",
                    one.type,
                    str(one.request_id),
                    one.version,
                    store.states[one.request_id][one.version - 2].status,
                )
                for one in store.deliveries
            ],
            sequences=dict(store.sequences),
            read_us=self.now * 10**6,
        )

    def _stored(self, request: Request, key: str) -> records.Stored:
        return records.Stored(
            str(request.id),
            request.client_id,
            key,
            request.kind,
            request.resource_id,
            self.partition_of(request.resource_id),
            request.account,
            request.amount,
            None if request.refund_of is None else str(request.refund_of),
            None if request.apply_before is None else _microseconds(request.apply_before),
            dict(request.details or {}),
            self.store.accepted[request.id] * 10**6,
            [
                records.State(
                    state.version,
                    state.status,
                    state.stage,
                    state.code,
                    state.refunded,
                    state.sequence,
                    _microseconds(state.decided_at),
                    _microseconds(state.decided_at),
                    state.detail if state.detail == PAID_AFTER_REFUND else None,
                    state.leg,
                    state.captured,
                    self.store.wrote[state.request_id, state.version],
                )
                for state in self.store.states.get(request.id, [])
            ],
        )


def _microseconds(moment: datetime) -> int:
    return (moment - BEGIN) // timedelta(microseconds=1)


@contextlib.contextmanager
def _faulty_rules() -> Iterator[None]:
    """Let the rules raise for the account POISON."""
    sound = dict(KINDS)

    def decide(request: Request, *snapshot: Any) -> Any:
        if request.account == POISON:
            _break_down()
        rule = sound[request.kind].rule
        assert rule is not None
        return rule(request, *snapshot)

    KINDS.update({name: replace(kind, rule=decide) for name, kind in sound.items()})
    try:
        yield
    finally:
        KINDS.update(sound)


def _break_down() -> NoReturn:
    raise RuntimeError("this rule has a fault")
