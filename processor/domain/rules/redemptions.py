"""
Redemptions: an account takes some of a resource: a coupon, a seat, three of the stock.

Pure. The batch owns the state and the clock; here we only say what follows.
"""

from datetime import datetime

from processor.domain.model import Decision, Request, Resource
from processor.domain.rules.taking import take


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Redeem, or refuse with the first reason that applies (`taking.refusal`)."""
    return take(request, resource, used, now)
