"""
Openings: an admin creates a resource, with its first quantity and its rules.
"""

from datetime import datetime

from processor.domain.decisions import Decision, Open, Rejected
from processor.domain.model import Request, Resource
from processor.domain.rules.amendments import parsed


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Open the resource, or refuse if one of that id exists, also one of another client."""
    if resource is not None:
        return Rejected("resource_exists")
    rules = dict(request.details or {})
    kind = rules.pop("kind")
    return Open(Resource(request.resource_id, kind, 0, now, **parsed(rules)), request.quantity)
