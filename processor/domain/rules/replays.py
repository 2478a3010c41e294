"""
Replays: an admin has a failed request decided again, at the end of its queue.
"""

from processor.domain.decisions import Decision, Nothing, RetryEffect
from processor.domain.model import Effect, Reservation, Resource, State
from processor.domain.rules import reservations, settling


def decide(
    state: State | None,
    effect: Effect | None,
    holding: bool,
    reservation: Reservation | None = None,
    resource: Resource | None = None,
) -> Decision | None:
    """
    Return the next step of a failed request; None if it must be decided like a new one.

    With an open hold, a definite answer that has come meanwhile settles it; otherwise the gateway is called again. A
    reservation that has called no gateway goes on with its hold. Without a hold nothing was taken, so the request is
    decided like a new one.
    """
    if state is None or state.status != "failed":
        return Nothing()
    if not holding:
        return None
    if effect is None:
        return None if reservation is None else reservations.replay(reservation, resource)
    if effect.outcome in ("done", "declined"):
        return settling.decide(state, effect, holding)
    return RetryEffect()
