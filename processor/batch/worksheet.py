"""
The worksheet of one batch: the snapshot that was read, and the changes to write, in memory.

Pure. Rows are decided here one after the other. Each row sees resources, usages and states as the rows before it left
them. `store` reads the snapshot from PostgreSQL and writes the changes back.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from processor.batch import deciding
from processor.batch.changes import Changes
from processor.batch.snapshot import Reserved, Row
from processor.domain import ledger
from processor.domain.amounts import format_amount
from processor.domain.decisions import (
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
    Reserve,
    ReserveLegs,
    RetryEffect,
    Unsettled,
)
from processor.domain.kinds import KINDS
from processor.domain.model import EntryKind, Request, Reservation, Resource, Stage
from processor.domain.rules import (
    amendments,
    settling,
)

#: The words of the history for commands that let a request go on.
_TRIGGERS: Final = {"confirm": "confirmed", "approve": "approved", "deny": "denied"}
_FAILED: Final = "it could not be finished here; nothing is lost, and an admin can replay it"


class Misplaced(Exception):
    """A request is in another partition than its resource. Only the batch of that one may decide it."""


@dataclass(slots=True)
class Worksheet(Changes):
    """The changes of one batch, made by deciding its rows."""

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
                self.post(request, "debit", quantity)
                self.set_state(request, "completed", actor)
            case Rejected(code, reason, leg):
                self.rejected += 1
                self.set_state(request, "rejected", actor, code=code, reason=reason, leg=leg)
            case Await(stage):
                self._await(request, stage, actor)
            case Hold(quantity, gateway):
                self.post(request, "hold", quantity)
                self.snapshot.holding.add(request.id)
                self._ask_gateway(request, gateway, actor)
            case Reserve(quantity, seconds):
                self.post(request, "hold", quantity)
                self._reserve(request, quantity, seconds, actor)
            case ReserveLegs(seconds):
                self.move_legs(request, request, "hold")
                self._reserve(request, sum(leg.quantity for leg in request.legs), seconds, actor)
            case AskGateway(gateway):
                self._ask_gateway(request, gateway, actor)
            case KeepHeld():
                self.set_state(request, "processing", actor, stage="held", detail="held again")
            case EndHold(code, detail):
                self._end_hold(request, "release")
                self.set_state(request, "cancelled", actor, code=code, detail=detail)
            case Capture(reference):
                self._capture(request, reference, actor)
            case Release(code, reason):
                self._end_hold(request, "release")
                self.set_state(
                    request, "refunded", actor, code=code, reason=reason, refunded=request.quantity
                )
            case RetryEffect():
                self.retried.append(request.id)
                self.set_state(
                    request, "processing", actor, stage="settling", detail="the gateway is asked again"
                )
            case Unsettled(code, reason):
                self.failed += 1
                self.set_state(
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
                self.post(request, "credit", quantity)
                self.set_state(request, "completed", actor)
            case Open(resource, quantity):
                self._open(request, resource, quantity)
                self.set_state(request, "completed", actor)
            case Move():
                self.move_legs(request, request)
                self.set_state(request, "completed", actor)
            case GiveBackLegs():
                self._give_back_legs(request, actor)
            case Amend(changes):
                self._amend(self.snapshot.resources[request.resource_id], changes)
                self.set_state(request, "completed", actor)
            case Close():
                self._amend(self.snapshot.resources[request.resource_id], {"closed_at": self.now})
                self.set_state(request, "completed", actor)
            case Cancel(code, detail, reason):
                self.set_state(request, "cancelled", actor, code=code, detail=detail, reason=reason)
            case Fail(code, trace):
                self.failed += 1
                self.set_state(request, "failed", actor, code=code, detail=_FAILED, trace=trace)
            case Nothing():
                pass

    # ------------------------------------------------------------ resources

    def _end_hold(self, request: Request, kind: EntryKind, quantity: int | None = None) -> None:
        if request.legs:
            self.move_legs(request, request, kind)
        else:
            self.post(request, kind, request.quantity if quantity is None else quantity)
        self.snapshot.holding.discard(request.id)
        if KINDS[request.kind].reserves:
            self.unreserved.append(request.id)

    def _ask_gateway(self, request: Request, gateway: str, actor: str) -> None:
        self.new_effects.append((request.id, request.client_id, self._partition, gateway))
        self.set_state(request, "processing", actor, stage="settling", detail=f"held; {gateway} is asked")

    def _reserve(self, request: Request, quantity: int, seconds: int, actor: str) -> None:
        """Note that a hold has begun. `quantity` is the sum of all legs."""
        expires_at = self.now + timedelta(seconds=seconds)
        self.snapshot.holding.add(request.id)
        self.snapshot.reservations[request.id] = Reservation(request.id, expires_at, None, None)
        self.reserved.append(Reserved(request.id, self._partition, expires_at, quantity, bool(request.legs)))
        self.set_state(request, "processing", actor, stage="held", detail=f"held for up to {seconds} s")

    def _capture(self, request: Request, reference: str | None, actor: str) -> None:
        if not KINDS[request.kind].reserves or request.legs:
            self._end_hold(request, "capture")
            self.set_state(request, "completed", actor, reference=reference)
            return
        captured = self.snapshot.reservations[request.id].amount or request.quantity
        rest = request.quantity - captured
        self._end_hold(request, "capture", captured)
        if rest > 0:
            self.post(request, "release", rest)
            self.entries[-1] = self.entries[-1]._replace(leg=ledger.REST_LEG)
            self.has_legs = True
        unit = self.snapshot.resources[request.resource_id].written_unit
        detail = f"{format_amount(captured, unit)} captured, and the rest released" if rest > 0 else None
        self.set_state(request, "completed", actor, reference=reference, detail=detail, captured=captured)

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
            self.set_state(request, "processing", actor, stage=stage, detail="waits for its code")
            self.codes[request.id] = (request.client_id, email.lower())
        else:
            self.set_state(
                request, "processing", actor, stage=stage, detail="waits for another client's approval"
            )

    # ------------------------------------------------------------ refunds

    def _give_back(self, refund: Request, quantity: int, whole: bool, actor: str) -> None:
        original = self.snapshot.originals[refund.refund_of]  # type: ignore[index]  # the rule found it
        before = self.snapshot.states[original.id]
        unit = self.snapshot.resources[original.resource_id].written_unit
        self.post(original, "credit", quantity, by=refund)
        self.set_state(
            original,
            "refunded" if whole else "completed",
            actor,
            code="refunded_by_admin" if whole else None,
            reference=before.reference,
            refunded=before.refunded + quantity,
            captured=before.captured,
            detail=f"{format_amount(quantity, unit)} given back by refund {refund.id}",
        )
        self.set_state(refund, "completed", actor)

    def _give_back_legs(self, refund: Request, actor: str) -> None:
        original = self.snapshot.originals[refund.refund_of]  # type: ignore[index]  # the rule found it
        self.move_legs(refund, original)
        self.set_state(
            original,
            "refunded",
            actor,
            code="refunded_by_admin",
            detail=f"all legs given back by refund {refund.id}",
        )
        self.set_state(refund, "completed", actor)

    def _release_held(self, refund: Request, actor: str) -> None:
        original = self.snapshot.originals[refund.refund_of]  # type: ignore[index]  # the rule found it
        self._end_hold(original, "release")
        self.voided.append(original.id)
        self.set_state(
            original,
            "refunded",
            actor,
            code="refunded_by_admin",
            refunded=original.quantity,
            detail=f"the hold was released by refund {refund.id}",
        )
        self.set_state(refund, "completed", actor)

    def _note_paid_after_refund(self, request: Request, actor: str, reference: str | None) -> None:
        before = self.snapshot.states[request.id]
        self.paid_after_refund.append(request.id)
        self.set_state(
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
