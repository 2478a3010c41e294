"""
Amendments: the rules of a resource change; what it has does not.
"""

from datetime import datetime
from typing import Any, Final

from processor.domain.model import SHORTAGE, Amend, Decision, Rejected, Request, Resource

#: What an amendment may change, by the contract's names, and the field of the resource that each is.
RULES: Final = {
    "unit": "unit",
    "overdraft": "overdraft",
    "per_account_limit": "per_account_limit",
    "starts_at": "starts_at",
    "ends_at": "ends_at",
    "gateway": "gateway",
    "confirm_above": "confirm_above",
    "approve_above": "approve_above",
    "client": "client_id",
    "metadata": "metadata",
}
_TIMES: Final = frozenset({"starts_at", "ends_at"})


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """
    Change what is named, or refuse: not found, closed, or an overdraft smaller than what is overdrawn
    already.
    """
    if resource is None:
        return Rejected("resource_not_found")
    if resource.closed_at is not None:
        return Rejected("resource_closed")
    changes = parsed(request.details or {})
    if resource.available < -changes.get("overdraft", resource.overdraft):
        return Rejected(SHORTAGE[resource.kind])
    return Amend(changes)


def parsed(rules: dict[str, Any]) -> dict[str, Any]:
    """The rules of a request's details as fields of a resource, times as datetimes."""
    return {
        RULES[name]: datetime.fromisoformat(value) if name in _TIMES and value is not None else value
        for name, value in rules.items()
    }
