"""
Exchanges: an account takes some of each of several resources, and gives to others, all at once or not at all.

The rules decide one leg, as a request of its resource alone. `processor.batch.worksheet` decides them all.
"""

from datetime import datetime

from processor.domain import ledger
from processor.domain.decisions import Credit, Debit, Decision, Rejected
from processor.domain.model import Request, Resource
from processor.domain.rules.taking import leg_refusal, refusal


def take(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """
    Take, or refuse with the first reason that applies: not found, closed, a gateway, and those of `taking.refusal`.
    """
    unusable = leg_refusal(request, resource)
    if unusable is not None or resource is None:
        return unusable or Rejected("resource_not_found")
    return refusal(request, resource, used, now) or Debit(request.quantity)


def give(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """
    Give, or refuse with the first reason that applies: not found, closed, a gateway, deadline, too large.

    Like a deposit, it ignores the start and the end of the resource.
    """
    unusable = leg_refusal(request, resource)
    if unusable is not None or resource is None:
        return unusable or Rejected("resource_not_found")
    if request.apply_before is not None and now >= request.apply_before:
        return Rejected("deadline_passed")
    if not ledger.has_room(resource, request.quantity):
        return Rejected("too_large")
    return Credit(request.quantity)
