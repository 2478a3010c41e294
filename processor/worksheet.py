"""
The worksheet of one batch: what was read of the partition, and what is to be written, in memory.

Pure: the batch reads it from PostgreSQL and writes it back; here rows are decided, one after the other,
against resources, usages and states as the rows before them left them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor import ledger
from processor.model import (
    Amend,
    Cancel,
    Close,
    Credit,
    Debit,
    Decision,
    Entry,
    EntryKind,
    Nothing,
    Open,
    Park,
    Rejected,
    Request,
    Resource,
    State,
    Status,
)
from processor.rules import DECIDE, cancellations

#: What an account has used of a resource, by (resource, client, account).
UsageKey = tuple[str, str, str]

_PARKED_DETAIL: Final = "it could not be finished here; nothing is lost, and an admin can replay it"


class Row(NamedTuple):
    """One inbox row, with the request that it is about."""

    seq: int
    verb: str
    payload: dict[str, Any] | None
    request: Request


@dataclass(slots=True)
class Worksheet:
    """What one batch knows and what it has decided so far."""

    partition: int
    now: datetime
    #: The number of the partition's last decision.
    sequence: int
    resources: dict[str, Resource]
    usages: dict[UsageKey, int]
    #: The present state of the requests that were decided before, in this batch or earlier.
    states: dict[UUID, State]
    #: Requests whose clients changed their minds before they were decided.
    cancels: set[UUID]

    entries: list[Entry] = field(default_factory=list)
    new_states: list[State] = field(default_factory=list)
    superseded: list[State] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    amended: set[str] = field(default_factory=set)
    #: Versions of the moved resources before the batch.
    versions_before: dict[str, int] = field(default_factory=dict)
    moved_usages: set[UsageKey] = field(default_factory=set)
    #: The resource that gets a per-account limit only now: usages must be counted before the next row is decided.
    newly_limited: str | None = None
    rejected: int = 0
    parked: int = 0

    @property
    def stale(self) -> bool:
        """The rows that follow need a fresh read."""
        return self.newly_limited is not None

    def decide(self, row: Row) -> None:
        """
        Decide one row and note what follows. An exception leaves everything noted so far as it was.
        """
        request = row.request
        if row.verb == "decide":
            self._apply(request, self._decision_on(request))
        elif row.verb == "cancel":
            self._apply(request, cancellations.decide(self.states.get(request.id)))
        else:
            raise NotImplementedError(f"no rule for the verb {row.verb}")

    def park(self, row: Row, trace: str) -> None:
        """Let the request wait for an admin, and the others go on."""
        self._apply(row.request, Park("processor_error", trace))

    def _decision_on(self, request: Request) -> Decision:
        if request.id in self.cancels:
            return cancellations.decide(None)
        resource = self.resources.get(request.resource_id)
        used = 0
        if resource is not None and resource.per_account_limit is not None and request.account is not None:
            used = self.usages.get((resource.id, request.client_id, request.account), 0)
        return DECIDE[request.kind](request, resource, used, self.now)

    def _apply(self, request: Request, decision: Decision) -> None:
        match decision:
            case Debit(quantity):
                self._post(request, "debit", quantity)
                self._state(request, "completed")
            case Rejected(code):
                self.rejected += 1
                self._state(request, "rejected", code)
            case Credit(quantity):
                self._post(request, "credit", quantity)
                self._state(request, "completed")
            case Cancel(code, detail):
                self._state(request, "cancelled", code, detail)
            case Open(resource, quantity):
                self._open(request, resource, quantity)
                self._state(request, "completed")
            case Amend(changes):
                self._amend(self.resources[request.resource_id], changes)
                self._state(request, "completed")
            case Close():
                self._amend(self.resources[request.resource_id], {"closed_at": self.now})
                self._state(request, "completed")
            case Park(code, trace):
                self.parked += 1
                self._state(request, "failed", code, _PARKED_DETAIL, trace)
            case Nothing():
                pass

    def _post(self, request: Request, kind: EntryKind, quantity: int) -> None:
        resource = self.resources[request.resource_id]
        before = resource.version
        self.entries.append(ledger.post(resource, kind, request.id, request.account, quantity, self.now))
        self.versions_before.setdefault(resource.id, before)
        if resource.per_account_limit is not None and request.account is not None:
            key = (resource.id, request.client_id, request.account)
            self.usages[key] = self.usages.get(key, 0) + ledger.USES[kind] * quantity
            self.moved_usages.add(key)

    def _open(self, request: Request, resource: Resource, quantity: int) -> None:
        self.resources[resource.id] = resource
        self.opened.append(resource.id)
        if quantity > 0:
            self._post(request, "credit", quantity)

    def _amend(self, resource: Resource, changes: dict[str, Any]) -> None:
        unlimited = resource.per_account_limit is None
        for name, value in changes.items():
            setattr(resource, name, value)
        self.amended.add(resource.id)
        if unlimited and resource.per_account_limit is not None:
            self.newly_limited = resource.id

    def _state(
        self,
        request: Request,
        status: Status,
        code: str | None = None,
        detail: str | None = None,
        trace: str | None = None,
    ) -> None:
        before = self.states.get(request.id)
        if before is None:
            self.sequence += 1
            state = State(request.id, 2, status, None, code, self.sequence, self.now, detail, trace)
        else:
            self.superseded.append(before)
            state = State(
                request.id,
                before.version + 1,
                status,
                None,
                code,
                before.sequence,
                before.decided_at,
                detail,
                trace,
            )
        self.states[request.id] = state
        self.new_states.append(state)
