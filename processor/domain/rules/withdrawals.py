"""
Withdrawals: an account takes money, or what is like money, out of a resource. Large ones wait first: above
`confirm_above` for the account's code, above `approve_above` for the word of another person.

Pure. The batch owns the state and the clock; here we only say what follows.
"""

from datetime import datetime

from processor.domain.model import Await, Debit, Decision, Hold, Rejected, Request, Resource, Stage
from processor.domain.rules.taking import take


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Withdraw, or refuse with the first reason that applies (`taking.refusal`)."""
    return take(request, resource, used, now)


def guard(
    decision: Decision, request: Request, resource: Resource, passed: Stage | None, *, has_contact: bool
) -> Decision:
    """
    What a withdrawal that could be had now has to wait for; or the decision as it is. `passed`: what it waited for
    and just got. Confirmation comes before approval; nobody can be asked for a code who has no address.
    """
    if request.kind != "withdrawal" or not isinstance(decision, Debit | Hold):
        return decision
    if passed is None and _is_above(request, resource.confirm_above):
        return Await("awaiting_confirmation") if has_contact else Rejected("no_contact")
    if passed != "awaiting_approval" and _is_above(request, resource.approve_above):
        return Await("awaiting_approval")
    return decision


def _is_above(request: Request, threshold: int | None) -> bool:
    return threshold is not None and request.quantity > threshold
