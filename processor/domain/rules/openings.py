"""
Openings: a new resource, with what it begins with and the rules it lives by.
"""

from datetime import datetime

from processor.domain.model import Decision, Open, Rejected, Request, Resource
from processor.domain.rules.amendments import parsed


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Open it, unless there is one of that name already, whoever's it is."""
    if resource is not None:
        return Rejected("resource_exists")
    rules = dict(request.details or {})
    kind = rules.pop("kind")
    return Open(Resource(request.resource_id, kind, 0, now, **parsed(rules)), request.quantity)
