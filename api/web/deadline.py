"""
The deadline of an HTTP request: the total time that it may wait for unavailable dependencies.

So a 503 comes within three seconds, however many dependencies the request waits for, one after the other. Each
request has its own deadline, on its own thread. Only waits for the database count. A slow client, a race of the lab
and `Prefer: wait` do not.
"""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

#: The total of all waits of one request.
DEADLINE_SECONDS: Final = 2.7

#: None on a thread that acts for no request.
_remaining: ContextVar[float | None] = ContextVar("remaining_seconds", default=None)


def begin() -> None:
    """Start a new deadline: a request has arrived, or a wait that it asked for is over."""
    _remaining.set(DEADLINE_SECONDS)


@contextlib.contextmanager
def remaining() -> Iterator[float]:
    """
    Return the seconds that one wait may take, and subtract its duration from the deadline afterwards.

    On a thread that acts for no request, each wait has the whole deadline.
    """
    left = _remaining.get()
    if left is None:
        yield DEADLINE_SECONDS
        return
    began = time.monotonic()
    try:
        yield left
    finally:
        _remaining.set(max(0.0, left - (time.monotonic() - began)))
