"""
Withdrawals: an account takes money, or something like money, out of a resource. A large one waits first (`waiting`).
"""

from datetime import datetime

from processor.domain.decisions import Decision
from processor.domain.model import Request, Resource
from processor.domain.rules.taking import take


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Withdraw, or refuse with the first reason of `taking.refusal` that applies."""
    return take(request, resource, used, now)
