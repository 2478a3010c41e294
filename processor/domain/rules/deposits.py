"""
Deposits: an operator adds to a resource, as a top-up or a restock.
"""

from datetime import datetime

from processor.domain import ledger
from processor.domain.decisions import Credit, Decision, Rejected
from processor.domain.model import Request, Resource


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Add the amount, or refuse with the first reason that applies: not found, closed, too large."""
    if resource is None:
        return Rejected("resource_not_found")
    if resource.closed_at is not None:
        return Rejected("resource_closed")
    if not ledger.has_room(resource, request.quantity):
        return Rejected("too_large")
    return Credit(request.quantity)
