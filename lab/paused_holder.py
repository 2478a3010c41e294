"""
How a lock with an expiry fails: its holder is paused for longer than the lock lasts, and does not know.

The pause is what a garbage collection, a stopped machine or a slow disk would be. It is staged, and lasts until the
other one is done; the race that follows is real, and expected.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Final

from lab import strategies
from lab.strategies import LOCK_PATIENCE_SECONDS, Turn

if TYPE_CHECKING:
    from lab.arena import Arena
    from lab.outcomes import Outcome

#: The lock of this demonstration runs out after so long, in seconds.
EXPIRY_SECONDS: Final = 0.05


def demonstrate(arena: Arena) -> Outcome:
    """
    Two users, one piece, a Redis lock used as it should be: both are approved. Raises as `Arena.race`.
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
    """For the event, unless the race is called off."""
    for _ in range(int(LOCK_PATIENCE_SECONDS / strategies.LOCK_PAUSE_SECONDS)):
        if event.wait(strategies.LOCK_PAUSE_SECONDS) or turn.called_off.is_set():
            return
