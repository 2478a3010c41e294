"""
The worksheet of one batch: the snapshot that was read, and the changes to write, in memory.

Pure. Rows are decided here one after the other. Each row sees resources, usages and states as the rows before it left
them. `store` reads the snapshot from PostgreSQL and writes the changes back.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from processor.batch import deciding
from processor.batch.snapshot import Decided, Delivery, Reserved, Row, Snapshot, UsageKey
from processor.domain import ledger
from processor.domain.amounts import format_amount
from processor.domain.kinds import KINDS
from processor.domain.model import (
    Amend,
    AskGateway,
    Await,
    Cancel,
    Capture,
    Close,
    Credit,
    Debit,
    Decision,
    EndHold,
    Entry,
    EntryKind,
    Fail,
    GiveBack,
    GiveBackLegs,
    Hold,
    KeepHeld,
    Move,
    Nothing,
    Open,
    PaidAfterRefund,
    Rejected,
    Release,
    ReleaseHeld,
    Request,
    Reservation,
    Reserve,
    ReserveLegs,
    Resource,
    RetryEffect,
    Stage,
    State,
    Status,
    Unsettled,
    event_of,
)
from processor.domain.rules import (
    amendments,
    daily_limits,
    settling,
)

#: The words of the history for commands that let a request go on.
_TRIGGERS: Final = {"confirm": "confirmed", "approve": "approved", "deny": "denied"}
_FAILED: Final = "it could not be finished here; nothing is lost, and an admin can replay it"


class Misplaced(Exception):
    """A request is in another partition than its resource. Only the batch of that one may decide it."""


@dataclass(slots=True)
class Worksheet:
    """The snapshot of one batch, and its decisions so far."""

    now: datetime
    #: The number of the last decision of each partition.
    sequences: dict[int, int]
    snapshot: Snapshot

    entries: list[Entry] = field(default_factory=list)
    new_states: list[State] = field(default_factory=list)
    #: The states in the database that are no longer current, by request.
    superseded: dict[UUID, State] = field(default_factory=dict)
    #: New resources, each with its partition.
    opened: dict[str, int] = field(default_factory=dict)
    amended: set[str] = field(default_factory=set)
    #: Versions of the moved resources before the batch.
    versions_before: dict[str, int] = field(default_factory=dict)
    #: Usages that changed, each with the limit when its account last took; None if it only gave back.
    moved_usages: dict[UsageKey, int | None] = field(default_factory=dict)
    #: The resource that got its first per-account limit. Its usages are counted before the next row is decided.
    newly_limited: str | None = None
    #: Daily usages that changed, each with the limit when its account last took.
    moved_daily_usages: dict[UsageKey, int] = field(default_factory=dict)
    #: The resource that got its first daily limit. Its usages of the day are counted before the next row is decided.
    newly_limited_daily: str | None = None
    #: Requests with a new effect, each with its client, its partition and the name of its gateway.
    new_effects: list[tuple[UUID, str, int, str]] = field(default_factory=list)
    #: Requests whose effect is tried again from the start.
    retried: list[UUID] = field(default_factory=list)
    #: Requests whose gateway must not be called again.
    voided: list[UUID] = field(default_factory=list)
    #: Reservations that began to be held.
    reserved: list[Reserved] = field(default_factory=list)
    #: Reservations whose hold has ended.
    unreserved: list[UUID] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    #: Requests that began to wait for a code, with its client and destination; None: the wait is over.
    codes: dict[UUID, tuple[str, str] | None] = field(default_factory=dict)
    #: Requests whose gateway paid after a refund released their hold, for the alert.
    paid_after_refund: list[UUID] = field(default_factory=list)
    rejected: int = 0
    failed: int = 0
    #: Requests that are in another partition than their resource, by partition.
    misplaced: Counter[int] = field(default_factory=Counter)
    #: Requests with a new state, from all flushes so far.
    decided: list[UUID] = field(default_factory=list)
    #: The partition of the row that is being applied, and its command in the words of the history.
    _partition: int = -1
    _trigger: str | None = None
    #: New states that a later state of the same part has replaced.
    outdated: list[State] = field(default_factory=list)
    #: Legs are held or ended.
    holds_legs: bool = False
    #: Some of the entries since the last flush are of later legs.
    has_legs: bool = False

    def flush(self) -> Decided:
        """Return the decisions since the last flush. They are written while the next rows are decided."""
        decided = Decided(self.entries, self.new_states, self.superseded, self.outdated, self.has_legs)
        self.decided += (state.request_id for state in self.new_states)
        self.entries, self.new_states, self.superseded, self.outdated = [], [], {}, []
        self.has_legs = False
        return decided

    @property
    def needs_reload(self) -> bool:
        """Whether the rows that follow need a new snapshot."""
        return self.newly_limited is not None or self.newly_limited_daily is not None

    def needs_reload_before(self, row: Row) -> bool:
        """Whether this row needs a new snapshot: usages of its resource may have moved since the last was read."""
        request = row.request
        return amendments.limits_accounts(request) and request.resource_id in self.versions_before

    def decide(self, row: Row) -> None:
        """Decide one row, and note the changes. After an exception the changes of the rows before it are intact."""
        self._partition, self._trigger = row.partition, _TRIGGERS.get(row.verb)
        home = self.snapshot.homes.get(row.request.resource_id, row.partition)
        if home != row.partition:
            self.misplaced[row.partition] += 1
            raise Misplaced(
                f"the request is in partition {row.partition}, and its resource in partition {home}"
            )
        decision, actor = deciding.decide(row, self.snapshot, self.now)
        self._apply(row.request, decision, actor)

    def fail(self, row: Row, trace: str) -> None:
        """Mark the request as failed, until an operator replays it or an admin refunds it. A final status stays."""
        self._partition = row.partition
        state = self.snapshot.states.get(row.request.id)
        if state is None or not state.is_final:
            self._apply(row.request, Fail("processor_error", trace), row.actor)

    # ------------------------------------------------------------ decisions

    def _apply(self, request: Request, decision: Decision, actor: str) -> None:  # noqa: C901, PLR0912, PLR0915  # a table
        match decision:
            case Debit(quantity):
                self._post(request, "debit", quantity)
                self._state(request, "completed", actor)
            case Rejected(code, reason, leg):
                self.rejected += 1
                self._state(request, "rejected", actor, code=code, reason=reason, leg=leg)
            case Await(stage):
                self._await(request, stage, actor)
            case Hold(quantity, gateway):
                self._post(request, "hold", quantity)
                self.snapshot.holding.add(request.id)
                self._ask_gateway(request, gateway, actor)
            case Reserve(quantity, seconds):
                self._post(request, "hold", quantity)
                self._reserve(request, quantity, seconds, actor)
            case ReserveLegs(seconds):
                self._move_legs(request, request, "hold")
                self._reserve(request, sum(leg.quantity for leg in request.legs), seconds, actor)
            case AskGateway(gateway):
                self._ask_gateway(request, gateway, actor)
            case KeepHeld():
                self._state(request, "processing", actor, stage="held", detail="held again")
            case EndHold(code, detail):
                self._end_hold(request, "release")
                self._state(request, "cancelled", actor, code=code, detail=detail)
            case Capture(reference):
                self._capture(request, reference, actor)
            case Release(code, reason):
                self._end_hold(request, "release")
                self._state(request, "refunded", actor, code=code, reason=reason, refunded=request.quantity)
            case RetryEffect():
                self.retried.append(request.id)
                self._state(
                    request, "processing", actor, stage="settling", detail="the gateway is asked again"
                )
            case Unsettled(code, reason):
                self.failed += 1
                self._state(
                    request,
                    "failed",
                    actor,
                    code=code,
                    reason=reason,
                    detail="still held; waits for an operator",
                )
            case PaidAfterRefund(reference):
                self._note_paid_after_refund(request, actor, reference)
            case GiveBack(quantity, whole):
                self._give_back(request, quantity, whole, actor)
            case ReleaseHeld():
                self._release_held(request, actor)
            case Credit(quantity):
                self._post(request, "credit", quantity)
                self._state(request, "completed", actor)
            case Open(resource, quantity):
                self._open(request, resource, quantity)
                self._state(request, "completed", actor)
            case Move():
                self._move_legs(request, request)
                self._state(request, "completed", actor)
            case GiveBackLegs():
                self._give_back_legs(request, actor)
            case Amend(changes):
                self._amend(self.snapshot.resources[request.resource_id], changes)
                self._state(request, "completed", actor)
            case Close():
                self._amend(self.snapshot.resources[request.resource_id], {"closed_at": self.now})
                self._state(request, "completed", actor)
            case Cancel(code, detail, reason):
                self._state(request, "cancelled", actor, code=code, detail=detail, reason=reason)
            case Fail(code, trace):
                self.failed += 1
                self._state(request, "failed", actor, code=code, detail=_FAILED, trace=trace)
            case Nothing():
                pass

    # ------------------------------------------------------------ resources

    def _post(self, request: Request, kind: EntryKind, quantity: int, by: Request | None = None) -> None:
        """Write one ledger entry for the account and resource of `request`, in the name of `by` if it is given."""
        snapshot = self.snapshot
        resource = snapshot.resources[request.resource_id]
        before = resource.version
        name = request.id if by is None else by.id
        entry = ledger.post(resource, kind, name, request.account, quantity, self.now)
        self._note_entry(request, resource, before, entry, ledger.USES[kind])

    def _note_entry(self, request: Request, resource: Resource, before: int, entry: Entry, uses: int) -> None:
        """Note an entry, and the usage of the account. `before` is the version of the resource before the entry."""
        snapshot, quantity = self.snapshot, entry.amount
        self.entries.append(entry)
        self.versions_before.setdefault(resource.id, before)
        if resource.per_account_daily_limit is not None and request.account is not None and uses > 0:
            key = (resource.id, request.client_id, request.account)
            day = daily_limits.day_of(entry.created_at)
            snapshot.daily_usages[key] = daily_limits.after(snapshot.daily_usages.get(key), day, quantity)
            self.moved_daily_usages[key] = resource.per_account_daily_limit
        if resource.per_account_limit is not None and request.account is not None:
            key = (resource.id, request.client_id, request.account)
            snapshot.usages[key] = max(0, snapshot.usages.get(key, 0) + uses * quantity)
            self.moved_usages[key] = resource.per_account_limit if uses > 0 else self.moved_usages.get(key)

    def _move_legs(self, request: Request, taker: Request, kind: EntryKind | None = None) -> None:
        """
        Write the entries of all legs, or none: a fault in a later leg leaves the resources of the others unchanged.

        The entries are of this kind; None: debits and credits, as the legs take and give. `taker` is the request
        whose account has the usage. Its refund reduces the usage.
        """
        snapshot = self.snapshot
        moved = []
        for place, leg in enumerate(request.legs):
            resource = replace(snapshot.resources[leg.resource_id])
            move: EntryKind = "credit" if leg.take is None else "debit"
            entry = ledger.post(resource, kind or move, request.id, taker.account, leg.quantity, self.now)
            moved.append((resource, entry._replace(leg=place)))
        for resource, entry in moved:
            is_back = request is not taker
            uses = ledger.USES[entry.kind] if is_back == (entry.kind == "credit") else 0
            before = snapshot.resources[resource.id].version
            snapshot.resources[resource.id] = resource
            self._note_entry(taker, resource, before, entry, uses)
        self.has_legs = True
        self.holds_legs |= kind is not None

    def _end_hold(self, request: Request, kind: EntryKind, quantity: int | None = None) -> None:
        if request.legs:
            self._move_legs(request, request, kind)
        else:
            self._post(request, kind, request.quantity if quantity is None else quantity)
        self.snapshot.holding.discard(request.id)
        if KINDS[request.kind].reserves:
            self.unreserved.append(request.id)

    def _ask_gateway(self, request: Request, gateway: str, actor: str) -> None:
        self.new_effects.append((request.id, request.client_id, self._partition, gateway))
        self._state(request, "processing", actor, stage="settling", detail=f"held; {gateway} is asked")

    def _reserve(self, request: Request, quantity: int, seconds: int, actor: str) -> None:
        """Note that a hold has begun. `quantity` is the sum of all legs."""
        expires_at = self.now + timedelta(seconds=seconds)
        self.snapshot.holding.add(request.id)
        self.snapshot.reservations[request.id] = Reservation(request.id, expires_at, None, None)
        self.reserved.append(Reserved(request.id, self._partition, expires_at, quantity, bool(request.legs)))
        self._state(request, "processing", actor, stage="held", detail=f"held for up to {seconds} s")

    def _capture(self, request: Request, reference: str | None, actor: str) -> None:
        if not KINDS[request.kind].reserves or request.legs:
            self._end_hold(request, "capture")
            self._state(request, "completed", actor, reference=reference)
            return
        captured = self.snapshot.reservations[request.id].amount or request.quantity
        rest = request.quantity - captured
        self._end_hold(request, "capture", captured)
        if rest > 0:
            self._post(request, "release", rest)
            self.entries[-1] = self.entries[-1]._replace(leg=ledger.REST_LEG)
            self.has_legs = True
        unit = self.snapshot.resources[request.resource_id].written_unit
        detail = f"{format_amount(captured, unit)} captured, and the rest released" if rest > 0 else None
        self._state(request, "completed", actor, reference=reference, detail=detail, captured=captured)

    def _open(self, request: Request, resource: Resource, quantity: int) -> None:
        if quantity > 0:  # first: if it fails, there is no resource
            self.entries.append(ledger.post(resource, "credit", request.id, None, quantity, self.now))
        self.snapshot.resources[resource.id] = resource
        self.opened[resource.id] = self._partition

    def _amend(self, resource: Resource, changes: dict[str, Any]) -> None:
        amended = replace(resource, **changes)  # all of it or nothing: an unknown name raises
        self.snapshot.resources[resource.id] = amended
        self.amended.add(resource.id)
        if resource.per_account_limit is None and amended.per_account_limit is not None:
            self.newly_limited = resource.id
        if resource.per_account_daily_limit is None and amended.per_account_daily_limit is not None:
            self.newly_limited_daily = resource.id

    # ------------------------------------------------------------ waiting

    def _await(self, request: Request, stage: Stage, actor: str) -> None:
        if stage == "awaiting_confirmation":
            email = self.snapshot.contacts[request.client_id, request.account or ""]
            self._state(request, "processing", actor, stage=stage, detail="waits for its code")
            self.codes[request.id] = (request.client_id, email.lower())
        else:
            self._state(
                request, "processing", actor, stage=stage, detail="waits for another client's approval"
            )

    # ------------------------------------------------------------ refunds

    def _give_back(self, refund: Request, quantity: int, whole: bool, actor: str) -> None:
        original = self.snapshot.originals[refund.refund_of]  # type: ignore[index]  # the rule found it
        before = self.snapshot.states[original.id]
        unit = self.snapshot.resources[original.resource_id].written_unit
        self._post(original, "credit", quantity, by=refund)
        self._state(
            original,
            "refunded" if whole else "completed",
            actor,
            code="refunded_by_admin" if whole else None,
            reference=before.reference,
            refunded=before.refunded + quantity,
            captured=before.captured,
            detail=f"{format_amount(quantity, unit)} given back by refund {refund.id}",
        )
        self._state(refund, "completed", actor)

    def _give_back_legs(self, refund: Request, actor: str) -> None:
        original = self.snapshot.originals[refund.refund_of]  # type: ignore[index]  # the rule found it
        self._move_legs(refund, original)
        self._state(
            original,
            "refunded",
            actor,
            code="refunded_by_admin",
            detail=f"all legs given back by refund {refund.id}",
        )
        self._state(refund, "completed", actor)

    def _release_held(self, refund: Request, actor: str) -> None:
        original = self.snapshot.originals[refund.refund_of]  # type: ignore[index]  # the rule found it
        self._end_hold(original, "release")
        self.voided.append(original.id)
        self._state(
            original,
            "refunded",
            actor,
            code="refunded_by_admin",
            refunded=original.quantity,
            detail=f"the hold was released by refund {refund.id}",
        )
        self._state(refund, "completed", actor)

    def _note_paid_after_refund(self, request: Request, actor: str, reference: str | None) -> None:
        before = self.snapshot.states[request.id]
        self.paid_after_refund.append(request.id)
        self._state(
            request,
            "refunded",
            actor,
            code=before.code,
            reason=before.reason,
            reference=reference,
            refunded=before.refunded,
            detail=settling.PAID_AFTER_REFUND,
        )

    # ------------------------------------------------------------ states and notifications

    def _state(
        self,
        request: Request,
        status: Status,
        actor: str,
        *,
        stage: Stage | None = None,
        code: str | None = None,
        reason: str | None = None,
        reference: str | None = None,
        refunded: int = 0,
        detail: str | None = None,
        trace: str | None = None,
        leg: int | None = None,
        captured: int | None = None,
    ) -> None:
        before = self.snapshot.states.get(request.id)
        if before is None:
            sequence = self.sequences[self._partition] + 1
            self.sequences[self._partition] = sequence
            version, decided_at = 2, self.now
        else:
            if any(before is state for state in self.new_states):
                self.outdated.append(before)
            else:  # the database has it: it was read, or flushed
                self.superseded[request.id] = before
            version, sequence, decided_at = before.version + 1, before.sequence, before.decided_at
            if before.stage == "awaiting_confirmation":
                self.codes[request.id] = None
        if self._trigger is not None and trace is None:
            detail = self._trigger if detail is None else f"{self._trigger}; {detail}"
        state = State(
            request.id,
            status,
            code,
            sequence,
            decided_at,
            version,
            stage,
            reason,
            reference,
            refunded,
            detail,
            trace,
            actor,
            leg,
            captured,
        )
        self.snapshot.states[request.id] = state
        self.new_states.append(state)
        is_news = before is None or before.status != status or before.refunded < refunded
        if status != "processing" and is_news:
            self._notify(request, state)

    def _notify(self, request: Request, state: State) -> None:
        """Note one delivery of this state for each webhook of the client that takes it, and one for the account."""
        snapshot = self.snapshot
        if snapshot.webhooks or snapshot.contacts:
            event = event_of(state.status, state.refunded)
            self.deliveries += [
                Delivery(request.id, state.version, event, webhook.id, None)
                for webhook in snapshot.webhooks.get(request.client_id, ())
                if webhook.events is None or event in webhook.events
            ]
            email = snapshot.contacts.get((request.client_id, request.account or ""))
            if email is not None and request.refund_of is None:  # the refunded request notifies the account
                self.deliveries.append(Delivery(request.id, state.version, event, None, email))
