"""
Closings: a resource takes no more requests; what it has stays written.
"""

from datetime import datetime

from processor.domain.model import Close, Decision, Rejected, Request, Resource


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Close it, unless there is none or it is closed."""
    if resource is None:
        return Rejected("resource_not_found")
    if resource.closed_at is not None:
        return Rejected("resource_closed")
    return Close()
