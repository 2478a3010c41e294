"""
Waiting: a large request waits for a code, then for an approval, before it takes anything.

It waits for the account's code above the resource's `confirm_above`. Above `approve_above` it waits for the approval
of another client. The decision counts, and not the kind: no kind of request can take more without them. A reservation
waits before it holds anything, and its capture no longer.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from processor.domain.decisions import (
    Await,
    Cancel,
    Debit,
    Decision,
    Hold,
    Move,
    Nothing,
    Rejected,
    Reserve,
    ReserveLegs,
)
from processor.domain.model import Resource, Stage, State

_ORDER: Final[tuple[Stage, ...]] = ("awaiting_confirmation", "awaiting_approval")
#: The stage that each verb ends.
ENDS: Final[dict[str, Stage]] = {
    "confirm": "awaiting_confirmation",
    "expire": "awaiting_confirmation",
    "approve": "awaiting_approval",
    "deny": "awaiting_approval",
}


def begin(decision: Decision, resource: Resource, passed: Stage | None, *, has_contact: bool) -> Decision:
    """
    Return the stage that a request must wait in before it takes something; otherwise `decision`.

    `passed` is the stage that the request has just left. Confirmation comes before approval. A request that needs a
    code is rejected if its account has no address.
    """
    if not isinstance(decision, Debit | Hold | Reserve):
        return decision
    if passed is None and _is_above(decision.quantity, resource.confirm_above):
        return Await("awaiting_confirmation") if has_contact else Rejected("no_contact")
    if passed != "awaiting_approval" and _is_above(decision.quantity, resource.approve_above):
        return Await("awaiting_approval")
    return decision


def begin_legs(decisions: Sequence[Decision]) -> Decision:
    """
    Return the decision of a request from those of its legs, each after `begin`.

    One leg that is rejected rejects it, and one that waits lets it wait: for the code before the approval. Otherwise
    all legs are reserved, or all move.
    """
    for place, decision in enumerate(decisions):
        if isinstance(decision, Rejected):
            return replace(decision, leg=place)
    stages = [decision.stage for decision in decisions if isinstance(decision, Await)]
    if stages:
        return Await(min(stages, key=_ORDER.index))
    first = decisions[0]
    return ReserveLegs(first.seconds) if isinstance(first, Reserve) else Move()


def end(verb: str, state: State | None, reason: str | None, *, has_lapsed: bool) -> Decision | None:
    """
    Return the step that ends the wait; None if the request must be decided like a new one that has passed this stage.

    A command that comes too late, or twice, changes nothing. `has_lapsed`: the lifetime of the last code is over.
    """
    if state is None or state.stage != ENDS[verb]:
        return Nothing()
    if verb == "deny":
        return Rejected("denied", reason)
    if verb == "expire":
        return Cancel("confirmation_expired", "not confirmed in time") if has_lapsed else Nothing()
    return None


def _is_above(quantity: int, threshold: int | None) -> bool:
    return threshold is not None and quantity > threshold
