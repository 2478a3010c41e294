"""
How a lock with an expiry fails: its holder is paused for longer than the lock lasts, and goes on unaware of that.

The pause stands for a garbage collection, a stopped machine or a slow disk. It is staged, and lasts until the other
user is done. The race that follows is real and expected.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Final

from lab import strategies
from lab.strategies import LOCK_TIMEOUT_SECONDS, Turn

if TYPE_CHECKING:
    from lab.arena import Arena
    from lab.outcomes import Outcome

#: The expiry of the lock in this demonstration.
EXPIRY_SECONDS: Final = 0.05


def demonstrate(arena: Arena) -> Outcome:
    """
    Race two users for one piece with a correctly used Redis lock, so that both are approved.

    Raises the same errors as `Arena.race`.
    """
    holds, other_is_done = threading.Event(), threading.Event()

    def pause(turn: Turn) -> None:
        holds.set()
        _wait(other_is_done, turn)

    def holder(turn: Turn) -> None:
        strategies.redislock(turn, EXPIRY_SECONDS, functools.partial(pause, turn))

    def other(turn: Turn) -> None:
        try:
            _wait(holds, turn)
            strategies.redislock(turn, EXPIRY_SECONDS)
        finally:
            other_is_done.set()

    return arena.race("redislock", [holder, other], stock=1)


def _wait(event: threading.Event, turn: Turn) -> None:
    """Wait for the event, or until the race is cancelled."""
    for _ in range(int(LOCK_TIMEOUT_SECONDS / strategies.LOCK_PAUSE_SECONDS)):
        if event.wait(strategies.LOCK_PAUSE_SECONDS) or turn.cancelled.is_set():
            return
