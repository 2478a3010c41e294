"""
Cancellations: a client changes its mind. It may come too late: the status tells.
"""

from processor.domain.model import Cancel, Nothing, State

_BEFORE_ANYTHING_IS_TAKEN = frozenset({"awaiting_confirmation", "awaiting_approval"})


def decide(state: State | None) -> Cancel | Nothing:
    """
    Cancel a request that is undecided (`state` None), or waits for a code or an approval.
    """
    if state is None or state.stage in _BEFORE_ANYTHING_IS_TAKEN:
        return Cancel("cancelled_by_client", "withdrawn before anything was taken")
    return Nothing()
