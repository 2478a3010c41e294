"""
Refunds: an admin gives back the amount that a completed request took, or the hold of a failed one.

A refund never gives back more than was taken, and never more than fits. It gives nothing back while a gateway may be
paying.
"""

from collections.abc import Mapping

from processor.domain import ledger
from processor.domain.decisions import Decision, GiveBack, GiveBackLegs, Rejected, ReleaseHeld
from processor.domain.kinds import KINDS
from processor.domain.model import SHORTAGE, Effect, Request, Resource, State


def decide(
    refund: Request,
    original: Request | None,
    resource: Resource | None,
    state: State | None,
    effect: Effect | None,
    *,
    holding: bool,
) -> Decision:
    """
    Give back, or refuse with the first reason that applies: nothing to refund, outcome pending, more than is left,
    more than fits.

    All arguments after the first describe the original. `holding` is true while its hold is open.
    """
    if original is None or resource is None or not KINDS[original.kind].refundable or original.legs:
        return Rejected("nothing_to_refund")
    if original.resource_id != refund.resource_id:  # intake writes no such refund
        return Rejected("nothing_to_refund")
    if state is None or state.status == "processing":
        return Rejected("outcome_pending")
    if state.status == "failed":
        return _release(refund, original, effect, holding)
    taken = original.quantity if state.captured is None else state.captured
    left = taken - state.refunded
    if state.status != "completed" or left <= 0:
        return Rejected("nothing_to_refund")
    wanted = left if refund.amount is None else refund.amount
    if wanted > left:
        return Rejected("refund_too_large")
    if not ledger.has_room(resource, wanted):
        return Rejected("too_large")
    return GiveBack(wanted, whole=wanted == left)


def decide_legs(
    refund: Request,
    original: Request | None,
    resources: Mapping[str, Resource],
    state: State | None,
    *,
    holding: bool,
) -> Decision:
    """
    Undo every leg, or refuse with the first reason that applies: nothing to refund, outcome pending. After that a leg
    may have more than fits, or not enough left. The holds of all legs of a failed request are released.

    `state` and `holding` are those of the original. The legs of the refund are the reversed legs of the original.
    """
    if original is None or not KINDS[original.kind].refundable:
        return Rejected("nothing_to_refund")
    if refund.legs != tuple(leg.reversed() for leg in original.legs):  # intake writes no such refund
        return Rejected("nothing_to_refund")
    if state is None or state.status == "processing":
        return Rejected("outcome_pending")
    if state.status == "failed" and holding:
        return ReleaseHeld()
    if state.status != "completed":
        return Rejected("nothing_to_refund")
    for place, leg in enumerate(refund.legs):
        resource = resources[leg.resource_id]
        if leg.give is not None and not ledger.has_room(resource, leg.give):
            return Rejected("too_large", leg=place)
        if leg.take is not None and resource.available - leg.take < -resource.overdraft:
            return Rejected(SHORTAGE[resource.kind], leg=place)
    return GiveBackLegs()


def _release(refund: Request, original: Request, effect: Effect | None, holding: bool) -> Decision:
    """Release the whole hold of a failed request, or refuse. A hold cannot be released in part."""
    if not holding:
        return Rejected("nothing_to_refund")
    if refund.amount is not None and refund.amount > original.quantity:
        return Rejected("refund_too_large")
    paid = effect is not None and effect.outcome == "done"
    in_flight = effect is not None and effect.calling
    in_part = refund.amount is not None and refund.amount < original.quantity
    if paid or in_flight or in_part:
        return Rejected("outcome_pending")
    return ReleaseHeld()
