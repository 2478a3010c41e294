"""
Cancellations: a client or an operator withdraws a request before anything was taken.

The command may come too late; the status of the request shows whether it did.
"""

from typing import Final

from processor.domain.decisions import Cancel, Nothing
from processor.domain.model import Canceller, State

#: The stages in which nothing is taken yet.
_BEFORE_ANYTHING_IS_TAKEN: Final = frozenset({"awaiting_confirmation", "awaiting_approval"})
#: The line of the history, by who withdrew the request.
_DETAIL: Final[dict[Canceller, str]] = {
    "client": "withdrawn by its client before anything was taken",
    "operator": "withdrawn by an operator before anything was taken",
}


def decide(state: State | None, by: Canceller, reason: str | None = None) -> Cancel | Nothing:
    """
    Cancel a request that is undecided (`state` is None), or waits for a code or an approval.

    `by` names the side that withdrew it, `reason` is the operator's own. Both are shown with the request.
    """
    if state is None or state.stage in _BEFORE_ANYTHING_IS_TAKEN:
        return Cancel(f"cancelled_by_{by}", _DETAIL[by], reason)
    return Nothing()
