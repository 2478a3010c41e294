"""
Closings: a resource accepts no further requests. Its quantities stay in the ledger.
"""

from datetime import datetime

from processor.domain.decisions import Close, Decision, Rejected
from processor.domain.model import Request, Resource


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Close the resource, or refuse with the first reason that applies: not found, closed."""
    if resource is None:
        return Rejected("resource_not_found")
    if resource.closed_at is not None:
        return Rejected("resource_closed")
    return Close()
