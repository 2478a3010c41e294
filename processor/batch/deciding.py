"""
The decision of one row: the rule that decides it, and what the rule looks at.

Pure. The rules themselves are in `processor/domain/rules`. The worksheet carries a decision out.
"""

from datetime import datetime
from uuid import UUID

from processor.batch.snapshot import CancelCommand, Row, Snapshot
from processor.domain.decisions import Decision, Nothing
from processor.domain.kinds import KINDS, Rule
from processor.domain.model import Request, Resource, Stage
from processor.domain.rules import (
    cancellations,
    daily_limits,
    refunds,
    replays,
    reservations,
    settling,
    waiting,
)


def decide(row: Row, snapshot: Snapshot, now: datetime) -> tuple[Decision, str]:
    """
    Decide one row. Returns the decision, and the actor in whose name it is made.

    A request whose cancellation waits behind it in the same batch is cancelled. Raises NotImplementedError for a kind
    or a verb without a rule.
    """
    cancel = _cancel_of(row, snapshot)
    if cancel is not None:
        return cancellations.decide(
            snapshot.states.get(row.request.id), cancel.by, cancel.reason
        ), cancel.actor
    if row.verb == "decide":
        return _as_new(row.request, snapshot, now), row.actor
    return _command(row, snapshot, now), row.actor


def _cancel_of(row: Row, snapshot: Snapshot) -> CancelCommand | None:
    """Return the command that withdraws the request of this row: the row itself, or one that waits behind it."""
    if row.verb == "cancel":
        return CancelCommand.of(row.payload)
    if row.verb == "decide" and snapshot.cancels:
        return snapshot.cancels.get(row.request.id)
    return None


def _command(row: Row, snapshot: Snapshot, now: datetime) -> Decision:
    """Decide a command about a request that has a state."""
    request = row.request
    state, effect, is_held = (
        snapshot.states.get(request.id),
        snapshot.effects.get(request.id),
        request.id in snapshot.holding,
    )
    match row.verb:
        case "settle":
            return settling.decide(state, effect, is_held)
        case "replay":
            resource = _single_resource(request, snapshot)
            reservation = snapshot.reservations.get(request.id)
            decision = replays.decide(state, effect, is_held, reservation, resource)
            return _as_new(request, snapshot, now) if decision is None else decision
        case "capture" | "release" | "expire" if KINDS[request.kind].reserves and is_held:
            resource = _single_resource(request, snapshot)
            reservation = snapshot.reservations.get(request.id)
            return reservations.end(row.verb, state, reservation, resource, now)
        case "capture" | "release":
            return Nothing()
        case "confirm" | "approve" | "deny" | "expire":
            reason = (row.payload or {}).get("reason")
            decision = waiting.end(row.verb, state, reason, has_lapsed=request.id in snapshot.lapsed)
            if decision is not None:
                return decision
            return _as_new(request, snapshot, now, waiting.ENDS[row.verb])
        case _:
            raise NotImplementedError(f"no rule for the verb {row.verb}")


def _single_resource(request: Request, snapshot: Snapshot) -> Resource | None:
    """Return the resource of a request; None if it does not exist, or the request has legs."""
    return None if request.legs else snapshot.resources.get(request.resource_id)


def _as_new(request: Request, snapshot: Snapshot, now: datetime, passed: Stage | None = None) -> Decision:
    """
    Decide a request by the rule of its kind. `passed` is the stage that it has just left.

    Raises NotImplementedError for a kind without a rule.
    """
    if request.refund_of is not None:
        return _refund(request, request.refund_of, snapshot)
    kind = KINDS[request.kind]
    if not request.legs:
        return _by_rule(request, kind.rule, snapshot, now, passed)
    return waiting.begin_legs(
        [
            _by_rule(
                request.of_leg(leg),
                kind.leg_rule if leg.give is None else kind.give_rule,
                snapshot,
                now,
                passed,
            )
            for leg in request.legs
        ]
    )


def _refund(request: Request, original: UUID, snapshot: Snapshot) -> Decision:
    if request.legs:
        return refunds.decide_legs(
            request,
            snapshot.originals.get(original),
            snapshot.resources,
            snapshot.states.get(original),
            holding=original in snapshot.holding,
        )
    return refunds.decide(
        request,
        snapshot.originals.get(original),
        snapshot.resources.get(request.resource_id),
        snapshot.states.get(original),
        snapshot.effects.get(original),
        holding=original in snapshot.holding,
    )


def _by_rule(
    request: Request, rule: Rule | None, snapshot: Snapshot, now: datetime, passed: Stage | None
) -> Decision:
    """Decide by a rule, then by the daily limit and the thresholds of the resource."""
    resource = snapshot.resources.get(request.resource_id)
    used = 0
    if request.account is None:
        used = snapshot.most_used.get(request.resource_id, 0)
    elif resource is not None and resource.per_account_limit is not None:
        used = snapshot.usages.get((resource.id, request.client_id, request.account), 0)
    if rule is None:
        raise NotImplementedError(f"no rule for the kind {request.kind}")
    decision = rule(request, resource, used, now)
    if resource is None:
        return decision
    if resource.per_account_daily_limit is not None:
        usage = snapshot.daily_usages.get((resource.id, request.client_id, request.account or ""))
        decision = daily_limits.check(decision, resource, usage, now)
    if resource.confirm_above is None and resource.approve_above is None:
        return decision
    has_contact = (request.client_id, request.account or "") in snapshot.contacts
    return waiting.begin(decision, resource, passed, has_contact=has_contact)
