"""
`Prefer: wait=N` (RFC 7240): holds an answer back until a request is final.

A waiter sleeps until the worker announces the request, and looks for itself twice a second in case the
announcement got lost. One that came before the waiter took its place is remembered for a while, so that nobody
has to look before there is something to be seen. Nothing here decides what is final; nothing outlives the process.
"""

import re
import threading
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, TypeVar
from uuid import UUID

#: Nobody waits longer, in seconds.
WAIT_SECONDS_MAX: Final = 20
#: Answers held back at once by one process; each occupies a thread. More are answered at once.
WAITERS_MAX: Final = 192
#: How long a lost announcement goes unnoticed, in seconds.
LOOK_INTERVAL_SECONDS: Final = 0.5
#: For how long announcements are remembered at the least, in seconds, and how many at the most: from the moment a
#: request is durable until its waiter has taken its place, milliseconds pass. Whoever misses one looks for itself.
REMEMBERED_SECONDS: Final = 2.0
REMEMBERED_MAX: Final = 50_000

_WAIT = re.compile(r'\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?:;.*)?', re.ASCII | re.IGNORECASE)

Seen = TypeVar("Seen")


def read_preference(header: str | None) -> int | None:
    """How many seconds the client would wait; None: not at all. What is not understood is ignored."""
    for preference in (header or "").split(","):
        if found := _WAIT.fullmatch(preference):
            return min(int(found[1]), WAIT_SECONDS_MAX)
    return None


class Waiters:
    """Who waits for which request, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Requests are known by the bytes of their ids here: of the many that are announced, few are waited for.
        self._waiting: dict[bytes, list[threading.Event]] = {}
        self._count = 0
        self._stopping = False
        #: What was announced lately, and in the time before that.
        self._announced: set[bytes] = set()
        self._announced_before: set[bytes] = set()
        self._remembered_at = time.monotonic()

    def wait(
        self,
        request_id: UUID,
        seconds: int,
        seen: Seen,
        look: Callable[[], Seen],
        is_over: Callable[[Seen], bool],
    ) -> tuple[Seen, bool]:
        """
        Look, each time there may be something new, until what is seen is over, or the time is. `seen` is what was
        seen just now. Returns what was seen last, and whether the wait was granted.
        """
        event = self._enter(request_id.bytes)
        if event is None:
            return seen, False
        deadline = time.monotonic() + seconds
        try:
            while True:
                left = deadline - time.monotonic()
                if is_over(seen) or left <= 0:
                    return seen, True
                if self._stopping:
                    return seen, False
                event.wait(min(left, LOOK_INTERVAL_SECONDS))
                event.clear()
                seen = look()
        finally:
            self._leave(request_id.bytes, event)

    def wake(self, request_ids: AbstractSet[bytes]) -> None:
        """
        These requests have changed: whoever waits for them looks now, and who comes a little late, too. Ids as bytes.
        """
        with self._lock:
            self._remember(request_ids)
            events = [event for one in self._waiting.keys() & request_ids for event in self._waiting[one]]
        for event in events:
            event.set()

    def _remember(self, request_ids: AbstractSet[bytes]) -> None:
        now = time.monotonic()
        is_full = len(self._announced) + len(request_ids) > REMEMBERED_MAX
        if is_full or now - self._remembered_at >= REMEMBERED_SECONDS:
            self._announced, self._announced_before = set(), self._announced
            self._remembered_at = now
        self._announced.update(request_ids)

    def wake_all(self) -> None:
        """Announcements may have been missed: everybody looks now."""
        with self._lock:
            events = [event for waiting in self._waiting.values() for event in waiting]
        for event in events:
            event.set()

    def stop(self) -> None:
        """The process ends: everybody is answered now, and nobody waits any more."""
        self._stopping = True
        self.wake_all()

    def count(self) -> int:
        """How many wait, for the metrics."""
        return self._count

    def _enter(self, request_id: bytes) -> threading.Event | None:
        with self._lock:
            if self._stopping or self._count >= WAITERS_MAX:
                return None
            self._count += 1
            event = threading.Event()
            if request_id in self._announced or request_id in self._announced_before:
                event.set()
            self._waiting.setdefault(request_id, []).append(event)
            return event

    def _leave(self, request_id: bytes, event: threading.Event) -> None:
        with self._lock:
            self._count -= 1
            events = self._waiting[request_id]
            events.remove(event)
            if not events:
                del self._waiting[request_id]
