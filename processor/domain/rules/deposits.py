"""
Deposits: an operator adds to a resource, as a top-up or a restock.
"""

from datetime import datetime

from processor.domain.model import MAX_QUANTITY, Credit, Decision, Rejected, Request, Resource


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Add the amount, or refuse with the first reason that applies: not found, closed, too large."""
    if resource is None:
        return Rejected("resource_not_found")
    if resource.closed_at is not None:
        return Rejected("resource_closed")
    if resource.available + resource.held + request.quantity > MAX_QUANTITY:
        return Rejected("too_large")
    return Credit(request.quantity)
