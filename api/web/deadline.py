"""
How long a request may wait for what is away, in all: whatever it needs, one thing after the other, its 503 comes
within three seconds.

Each request has its own, on its own thread. Only what it waits for a database counts: not a slow client, a race of
the lab, or what is waited for on purpose (`Prefer: wait`).
"""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

#: All the waits of one request together, in seconds.
DEADLINE_SECONDS: Final = 2.7

#: None: this thread acts for no request in particular.
_left: ContextVar[float | None] = ContextVar("patience_left", default=None)


def begin() -> None:
    """A request has come, or has waited for what it wanted to wait for."""
    _left.set(DEADLINE_SECONDS)


@contextlib.contextmanager
def remaining() -> Iterator[float]:
    """
    The seconds that are left for one wait; what it takes of them is gone. Whoever is no request has all of them.
    """
    left = _left.get()
    if left is None:
        yield DEADLINE_SECONDS
        return
    began = time.monotonic()
    try:
        yield left
    finally:
        _left.set(max(0.0, left - (time.monotonic() - began)))
