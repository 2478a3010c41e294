"""
Reservations in scenarios: wait for the ends of their holds.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.scenarios.scenario_stack import ScenarioStack
    from tests.stack import Document


#: The time within which a hold ends after its expiry, in seconds.
EXPIRES_WITHIN_SECONDS = 2.0


def read(stack: ScenarioStack, request: str) -> Document:
    """
    Return a request as its client sees it.
    """
    found: Document = stack.ask(stack.client.get(f"/v1/requests/{request}")).document
    return found


def until_expired(stack: ScenarioStack, held: Document) -> str:
    """
    Wait until the hold has expired. Returns the time at which it ended.
    """
    eventually(lambda: read(stack, held["id"])["stage"] is None)
    ended = read(stack, held["id"])
    assert ended["error"] == {"code": "reservation_expired"}
    return str(ended["finished_at"])


def until(moment: str) -> None:
    """
    Sleep until a time of the API. The clocks of this process and of PostgreSQL are one.
    """
    time.sleep(max(0.0, (time_of(moment) - datetime.now(UTC)).total_seconds()))


def time_of(text: str) -> datetime:
    """
    Read a time of the API.
    """
    return datetime.fromisoformat(text)
