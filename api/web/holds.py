"""
Holds: a client that repeats what was refused, without the pause that it was asked for, is answered late.

A refusal costs little, so a client that repeats it at once gets thousands in a second, which together cost others the
interpreter. A held answer costs a thread, and no time of the processor.
"""

from __future__ import annotations

import threading
import time
from typing import Final

#: The refusals of one client that are answered in a second while others are active. As many may come at once.
PER_SECOND: Final = 100
#: The longest hold in seconds: what `Retry-After` asks for at least.
SECONDS_MAX: Final = 1.0
#: The answers that are held at the same time. Each has a thread.
HOLDS_MAX: Final = 512
#: The clients that are remembered.
CLIENTS_MAX: Final = 10_000


class Holds:
    """The refusals of the last second, by client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The time at which the next refusal of each client is due.
        self._due: dict[str, float] = {}
        self._count = 0

    def hold(self, client: str) -> None:
        """Wait until the next refusal of this client is due, for at most SECONDS_MAX."""
        with self._lock:
            seconds = self._next(client)
            if seconds <= 0 or self._count >= HOLDS_MAX:
                return
            self._count += 1
        time.sleep(seconds)
        with self._lock:
            self._count -= 1

    def _next(self, client: str) -> float:
        """Return the seconds until the next refusal of a client is due, and count it."""
        now = time.monotonic()
        if client not in self._due and len(self._due) >= CLIENTS_MAX:
            self._due.clear()
        due = max(self._due.get(client, 0.0), now - SECONDS_MAX)
        self._due[client] = min(due + 1 / PER_SECOND, now + SECONDS_MAX)
        return min(due - now, SECONDS_MAX)
