"""
Withdrawals: an account takes money, or what is like money, out of a resource.

Pure. The batch owns the state and the clock; here we only say what follows.
"""

from datetime import datetime

from processor.model import Decision, Request, Resource
from processor.rules.taking import take


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Withdraw, or refuse with the first reason that applies (`taking.refusal`)."""
    return take(request, resource, used, now)
