"""
Settling: the gateway has answered, and the hold is taken for good or given back.

An unknown answer never releases a hold, because the gateway may have paid.
"""

from typing import Final

from processor.domain.decisions import Capture, Decision, Nothing, PaidAfterRefund, Release, Unsettled
from processor.domain.model import Effect, State

#: The line of the history of a request whose gateway paid after the hold was released.
PAID_AFTER_REFUND: Final = "paid_after_refund"


def decide(state: State | None, effect: Effect | None, holding: bool) -> Decision:
    """
    Return the step that follows from the gateway's answer. `holding` is true while the request's hold is open.

    A definite answer counts while the hold is open, also if the request has failed meanwhile. Any other answer counts
    only in the stage `settling`. A payment after a refund released the hold is reported once.
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
