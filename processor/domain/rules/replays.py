"""
Replays: an admin has a parked request tried again, at the end of its queue.
"""

from processor.domain.model import Decision, Effect, Nothing, Rearm, State
from processor.domain.rules import settling


def decide(state: State | None, effect: Effect | None, holding: bool) -> Decision | None:
    """
    What follows for a request that waits for an admin; None: decide it as if it were new.

    With an open hold the gateway is asked again, or, if it has given a definite answer by now, that
    answer settles it. Without one nothing was taken, so it can be decided like any other.
    """
    if state is None or state.status != "failed":
        return Nothing()
    if not holding or effect is None:
        return None
    if effect.outcome in ("done", "declined"):
        return settling.decide(state, effect, holding)
    return Rearm()
