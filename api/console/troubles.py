"""
Sentences about what is unavailable, the same on each page: gateways, webhooks, pauses.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from api.console.formats import clock, number

if TYPE_CHECKING:
    from processor.reading.overview import Pause


def of_gateway(gateway: str, paused_until: datetime) -> str:
    """
    Return the state of a gateway that is unavailable. Its calls are paused, or one at a time tries it again.
    """
    if paused_until > datetime.now(UTC):
        return f"The gateway {gateway} does not answer: calls are paused until {clock(paused_until)} UTC."
    return f"The gateway {gateway} does not answer: one call at a time tries it again."


def of_webhook(since: datetime, tries: int, error: str | None) -> str:
    """
    Return the state of a webhook that fails, "failing since 18:58:01 UTC, 0 of 2,110 tries delivered: no connection".
    """
    word = "try" if tries == 1 else "tries"
    cause = f": {error}" if error else ""
    return f"failing since {clock(since)} UTC, 0 of {number(tries)} {word} delivered{cause}"


def of_pause(pause: Pause) -> str:
    """
    Return the time, the person and the reason of a pause, "since 18:58:01 UTC by ops (operator ada): a wrong price".
    """
    reason = f": {pause.reason}" if pause.reason else ", who gave no reason"
    return f"since {clock(pause.since)} UTC by {pause.actor}{reason}"
