"""
The changes of one batch, in memory: entries, states, usages, holds, effects, codes and deliveries.

Pure. `worksheet` decides which ones to make, and `store` writes them to PostgreSQL.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from processor.batch.snapshot import Decided, Delivery, Reserved, Snapshot, UsageKey
from processor.domain import ledger
from processor.domain.model import Entry, EntryKind, Request, Resource, Stage, State, Status, event_of
from processor.domain.rules import daily_limits


@dataclass(slots=True)
class Changes:
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

    # ------------------------------------------------------------ the ledger

    def post(self, request: Request, kind: EntryKind, quantity: int, by: Request | None = None) -> None:
        """Write one ledger entry for the account and resource of `request`, in the name of `by` if it is given."""
        snapshot = self.snapshot
        resource = snapshot.resources[request.resource_id]
        before = resource.version
        name = request.id if by is None else by.id
        entry = ledger.post(resource, kind, name, request.account, quantity, self.now)
        self._note_entry(request, resource, before, entry, ledger.USES[kind])

    def move_legs(self, request: Request, taker: Request, kind: EntryKind | None = None) -> None:
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

    # ------------------------------------------------------------ states and notifications

    def set_state(
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
