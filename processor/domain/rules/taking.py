"""
Taking: the decision that redemptions, withdrawals and all other kinds that take from a resource share.
"""

from datetime import datetime

from processor.domain import ledger
from processor.domain.decisions import Debit, Hold, Rejected
from processor.domain.model import SHORTAGE, Request, Resource


def take(request: Request, resource: Resource | None, used: int, now: datetime) -> Debit | Hold | Rejected:
    """
    Debit the amount; hold it, if the resource has a gateway; or refuse. The last reason is a hold that is too large.
    """
    refused = refusal(request, resource, used, now)
    if refused is not None or resource is None:
        return refused or Rejected("resource_not_found")
    if not resource.gateway:
        return Debit(request.quantity)
    if not ledger.can_hold(resource, request.quantity):
        return Rejected("too_large")
    return Hold(request.quantity, resource.gateway)


def leg_refusal(request: Request, resource: Resource | None) -> Rejected | None:
    """
    Return the first reason that keeps a resource out of every request with legs, or None:
    not found, closed, a gateway. No gateway is asked about a leg.
    """
    if resource is None or resource.client_id not in (None, request.client_id):
        return Rejected("resource_not_found")
    if resource.closed_at is not None:
        return Rejected("resource_closed")
    return Rejected("not_exchangeable") if resource.gateway else None


def refusal(request: Request, resource: Resource | None, used: int, now: datetime) -> Rejected | None:
    """
    Return the first reason to refuse that applies, or None:
    not found, closed, not started, ended, deadline, account limit, not enough left.
    """
    if resource is None or resource.client_id not in (None, request.client_id):
        return Rejected("resource_not_found")
    if resource.closed_at is not None:
        return Rejected("resource_closed")
    if resource.starts_at is not None and now < resource.starts_at:
        return Rejected("not_started")
    if resource.ends_at is not None and now >= resource.ends_at:
        return Rejected("ended")
    if request.apply_before is not None and now >= request.apply_before:
        return Rejected("deadline_passed")
    if resource.per_account_limit is not None and used + request.quantity > resource.per_account_limit:
        return Rejected("limit_reached")
    if resource.available - request.quantity < -resource.overdraft:
        return Rejected(SHORTAGE[resource.kind])
    return None
