"""
What ends the waiting of a withdrawal: its code, the word of another person, or the end of its code's time.

A word that comes too late, or twice, is nothing.
"""

from typing import Final

from processor.domain.model import Cancel, Decision, Nothing, Rejected, Stage, State

#: Which stage a verb ends.
ENDS: Final[dict[str, Stage]] = {
    "confirm": "awaiting_confirmation",
    "expire": "awaiting_confirmation",
    "approve": "awaiting_approval",
    "deny": "awaiting_approval",
}


def decide(verb: str, state: State | None, reason: str | None, *, has_lapsed: bool) -> Decision | None:
    """
    What follows; None: decide it like a new one, that has passed this stage. `has_lapsed`: its last code has run out.
    """
    if state is None or state.stage != ENDS[verb]:
        return Nothing()
    if verb == "deny":
        return Rejected("denied", reason)
    if verb == "expire":
        return Cancel("confirmation_expired", "not confirmed in time") if has_lapsed else Nothing()
    return None
