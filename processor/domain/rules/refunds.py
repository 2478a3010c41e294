"""
Refunds: an admin gives back what a request took, or what is held for one that could not be finished.

Never more than was taken, and never while nobody knows whether the gateway is paying it out.
"""

from processor.domain.model import Decision, Effect, GiveBack, Rejected, ReleaseHeld, Request, State

_KINDS_THAT_TAKE = frozenset({"redemption", "withdrawal", "reservation"})


def decide(
    refund: Request, original: Request | None, state: State | None, effect: Effect | None, holding: bool
) -> Decision:
    """
    Give back, or refuse: nothing to refund, the outcome is not known yet, more than is left.
    """
    if original is None or original.kind not in _KINDS_THAT_TAKE:
        return Rejected("nothing_to_refund")
    if state is None or state.status == "processing":
        return Rejected("outcome_pending")
    if state.status == "failed":
        return _release(refund, original, effect, holding)
    left = original.quantity - state.refunded
    if state.status != "completed" or left <= 0:
        return Rejected("nothing_to_refund")
    wanted = left if refund.amount is None else refund.amount
    if wanted > left:
        return Rejected("refund_too_large")
    return GiveBack(wanted, whole=wanted == left)


def _release(refund: Request, original: Request, effect: Effect | None, holding: bool) -> Decision:
    """Of a parked request what is held goes back whole, or not at all: what is held cannot be paid in part."""
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
