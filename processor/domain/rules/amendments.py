"""
Amendments: an admin changes the rules of a resource, but not its quantities.
"""

from datetime import datetime
from typing import Any, Final

from processor.domain.decisions import Amend, Decision, Rejected
from processor.domain.model import Request, Resource

#: The rules that an amendment may change: the name in requests, and the field of Resource.
RULES: Final = {
    "unit": "unit",
    "overdraft": "overdraft",
    "per_account_limit": "per_account_limit",
    "per_account_daily_limit": "per_account_daily_limit",
    "starts_at": "starts_at",
    "ends_at": "ends_at",
    "gateway": "gateway",
    "confirm_above": "confirm_above",
    "approve_above": "approve_above",
    "client": "client_id",
    "metadata": "metadata",
}
#: The rules of an opening: those, and the one that nothing changes afterwards.
OPENING_RULES: Final = RULES | {"decimals": "decimals"}
_TIMES: Final = frozenset({"starts_at", "ends_at"})


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """
    Change the named rules, or refuse with the first reason that applies:
    not found, closed, invalid.

    An amendment is invalid if it names a rule that is fixed, or if the resource would end before it starts. So is an
    overdraft below what is overdrawn, and a limit below what an account has used. `used` is the most that any account
    has used.

    A daily limit may be below what an account has taken today: it bounds what follows, and is set in a hurry. No
    threshold is compared with the addresses of accounts, neither here nor at an opening. An account without one is
    refused when it takes (`waiting.begin`), since it may have got one by then.
    """
    if resource is None:
        return Rejected("resource_not_found")
    if resource.closed_at is not None:
        return Rejected("resource_closed")
    changes = parsed(request.details or {})
    is_overdrawn = resource.available < -changes.get("overdraft", resource.overdraft)
    is_fixed = not changes.keys() <= set(RULES.values())
    if is_overdrawn or is_fixed or _closes_the_window(resource, changes) or _is_used_up(changes, used):
        return Rejected("invalid_amendment")
    return Amend(changes)


def limits_accounts(request: Request) -> bool:
    """Return whether a request sets a per-account limit. Its decision needs the most that any account has used."""
    return (request.details or {}).get("per_account_limit") is not None


def parsed(rules: dict[str, Any]) -> dict[str, Any]:
    """Return the rules in a request's details as fields of Resource, with times as datetimes."""
    return {
        OPENING_RULES[name]: datetime.fromisoformat(value) if name in _TIMES and value is not None else value
        for name, value in rules.items()
    }


def _closes_the_window(resource: Resource, changes: dict[str, Any]) -> bool:
    """Return whether the resource would end before it starts. A window that stays is not checked."""
    if changes.keys().isdisjoint(_TIMES):
        return False
    starts_at = changes.get("starts_at", resource.starts_at)
    ends_at = changes.get("ends_at", resource.ends_at)
    return starts_at is not None and ends_at is not None and starts_at >= ends_at


def _is_used_up(changes: dict[str, Any], used: int) -> bool:
    """Return whether an account has used more than the new limit."""
    limit = changes.get("per_account_limit")
    return limit is not None and used > limit
