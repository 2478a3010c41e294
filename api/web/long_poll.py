"""
`Prefer: wait=N` (RFC 7240) delays an answer until a request is final.

A waiter sleeps until the worker announces the request, and reads it twice a second in case the announcement was
lost. An announcement that comes before its waiter is kept for a while, so that the waiter reads at once. This module
does not decide which state is final, and keeps nothing beyond the process.
"""

import re
import threading
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, TypeVar
from uuid import UUID

#: The longest wait; more counts as this.
WAIT_SECONDS_MAX: Final = 20
#: The waits in one process at the same time; each occupies a thread. Beyond it, requests are answered at once.
WAITERS_MAX: Final = 192
#: The delay that a lost announcement causes at most.
LOOK_INTERVAL_SECONDS: Final = 0.5
#: Announcements are kept for at least this time, and at most in this number. A waiter registers within milliseconds
#: after its request is durable; one that misses its announcement reads the request itself.
REMEMBERED_SECONDS: Final = 2.0
REMEMBERED_MAX: Final = 50_000

_WAIT = re.compile(r'\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?:;.*)?', re.ASCII | re.IGNORECASE)

Seen = TypeVar("Seen")


def read_preference(header: str | None) -> int | None:
    """Return the seconds that the client wants to wait, or None. Other preferences are ignored."""
    for preference in (header or "").split(","):
        if found := _WAIT.fullmatch(preference):
            return min(int(found[1]), WAIT_SECONDS_MAX)
    return None


class Waiters:
    """The waits of this process, by request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Keys are the bytes of request ids, since most announced requests have no waiter.
        self._waiting: dict[bytes, list[threading.Event]] = {}
        self._count = 0
        self._stopping = False
        #: The announcements of the current period and of the period before.
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
        Call `look` at each announcement until `is_over` accepts its result, or the time is up.

        `seen` is the result at the start. Returns the last result, and whether the wait was granted.
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
        Wake the waiters of changed requests, also those that register a little later. Ids are bytes.
        """
        with self._lock:
            self._remember(request_ids)
            events = [event for one in self._waiting.keys() & request_ids for event in self._waiting[one]]
        for event in events:
            event.set()

    def remembered(self) -> int:
        """Return the number of announcements in memory."""
        return len(self._announced) + len(self._announced_before)

    def _remember(self, request_ids: AbstractSet[bytes]) -> None:
        now = time.monotonic()
        is_full = len(self._announced) + len(request_ids) > REMEMBERED_MAX
        if is_full or now - self._remembered_at >= REMEMBERED_SECONDS:
            self._announced, self._announced_before = set(), self._announced
            self._remembered_at = now
        self._announced.update(request_ids)

    def wake_all(self) -> None:
        """Wake all waiters, because announcements may have been lost."""
        with self._lock:
            events = [event for waiting in self._waiting.values() for event in waiting]
        for event in events:
            event.set()

    def stop(self) -> None:
        """End all waits, and grant no more: the process is stopping."""
        self._stopping = True
        self.wake_all()

    def count(self) -> int:
        """Return the number of waits, for the metrics."""
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
