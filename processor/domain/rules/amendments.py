"""
Amendments: an admin changes the rules of a resource, but not its quantities.
"""

from datetime import datetime
from typing import Any, Final

from processor.domain.model import SHORTAGE, Amend, Decision, Rejected, Request, Resource

#: The rules that an amendment may change: the name in requests, and the field of Resource.
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
    Change the named rules, or refuse with the first reason that applies:
    not found, closed, overdrawn by more than the new overdraft.
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
    """Return the rules in a request's details as fields of Resource, with times as datetimes."""
    return {
        RULES[name]: datetime.fromisoformat(value) if name in _TIMES and value is not None else value
        for name, value in rules.items()
    }
