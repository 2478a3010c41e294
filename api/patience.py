"""
How long a request may wait for what is away, in all: whatever it needs, one thing after the other, its 503 comes
within three seconds.

Each request has its own, on its own thread. What is waited for on purpose (`Prefer: wait`) does not count.
"""

import time
from contextvars import ContextVar
from typing import Final

#: All the waits of one request together, in seconds.
PATIENCE_SECONDS: Final = 2.7

_ends: ContextVar[float | None] = ContextVar("patience_ends", default=None)


def begin() -> None:
    """A request has come, or has waited for what it wanted to wait for."""
    _ends.set(time.monotonic() + PATIENCE_SECONDS)


def left() -> float:
    """Seconds. Whoever acts for no request in particular has all of it."""
    ends = _ends.get()
    return PATIENCE_SECONDS if ends is None else max(0.0, ends - time.monotonic())
