"""
Settling: the gateway has answered, and what is held is taken for good or given back.

An answer that is not known is never a refund: paying twice and refunding what was paid are the two
unforgivable errors.
"""

from typing import Final

from processor.domain.model import (
    Capture,
    Decision,
    Effect,
    Nothing,
    PaidAfterRefund,
    Release,
    State,
    Unsettled,
)

#: What the history of a request says when its gateway paid after the hold was released.
PAID_AFTER_REFUND: Final = "paid_after_refund"


def decide(state: State | None, effect: Effect | None, holding: bool) -> Decision:
    """
    What follows from the gateway's answer so far. `holding`: the request's hold is still open.

    A definite answer counts whenever it comes while the hold is open, also when the request was parked
    in the meantime; an answer that settles nothing counts only while it is waited for.
    """
    if state is None or effect is None or effect.outcome is None:
        return Nothing()
    if not holding:
        late_yes = effect.outcome == "done" and effect.voided and state.detail != PAID_AFTER_REFUND
        return PaidAfterRefund(effect.reference) if late_yes else Nothing()
    if effect.outcome == "done":
        return Capture(effect.reference)
    if effect.outcome == "declined":
        return Release("gateway_declined", effect.reason)
    if state.stage != "settling":
        return Nothing()
    return Unsettled(
        "gateway_misconfigured" if effect.outcome == "misconfigured" else "gateway_unreachable", effect.reason
    )
