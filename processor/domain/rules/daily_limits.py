"""
Daily limits: an account takes at most a resource's `per_account_daily_limit` within one day (UTC).

The limit bounds the sum of many requests that are each below a threshold. The decision counts, and not the kind, so
no kind of request can take more. An amount that is given back still counts for its day.
"""

from datetime import UTC, date, datetime
from typing import NamedTuple

from processor.domain import ledger
from processor.domain.decisions import Debit, Decision, Hold, Rejected, Reserve
from processor.domain.model import Resource


class DailyUsage(NamedTuple):
    """The quantity that an account took or held of a resource on the last day on which it did."""

    day: date
    used: int


def check(decision: Decision, resource: Resource, usage: DailyUsage | None, now: datetime) -> Decision:
    """
    Return `decision`, or a rejection if it takes more than the account's limit of this day leaves.

    `usage` is the account's; None: it has taken nothing yet.
    """
    limit = resource.per_account_daily_limit
    if limit is None or not isinstance(decision, Debit | Hold | Reserve):
        return decision
    used = after(usage, day_of(ledger.time_of_next(resource, now)), decision.quantity).used
    return decision if used <= limit else Rejected("daily_limit_reached")


def after(usage: DailyUsage | None, day: date, quantity: int) -> DailyUsage:
    """Return the usage of an account that takes a quantity on this day."""
    used = usage.used if usage is not None and usage.day == day else 0
    return DailyUsage(day, used + quantity)


def day_of(moment: datetime) -> date:
    """Return the day (UTC) of a time."""
    return moment.astimezone(UTC).date()
