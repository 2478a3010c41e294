"""
Redemptions: an account takes some of a resource, such as a coupon, a seat or three items of stock.
"""

from datetime import datetime

from processor.domain.decisions import Decision
from processor.domain.model import Request, Resource
from processor.domain.rules.taking import take


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Redeem, or refuse with the first reason of `taking.refusal` that applies."""
    return take(request, resource, used, now)
