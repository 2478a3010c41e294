"""
`Prefer: wait=N` (RFC 7240) delays an answer until a request is final.

One thread reads for all waiting calls. It reads the requests that workers have announced, by one query for all that
were announced meanwhile, and wakes the calls whose requests are final. Twice a second it also reads the others, in
case announcements were lost. An announcement that comes before its wait is kept for a while, so that the request is
read at once. This module does not decide which state is final, and keeps nothing beyond the process.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import structlog

from processor.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from collections.abc import Set as AbstractSet
    from uuid import UUID

#: The longest wait; more counts as this.
WAIT_SECONDS_MAX: Final = 20
#: A number of more digits is greater.
WAIT_DIGITS_MAX: Final = 2
#: The waits in one process at the same time; each occupies a thread. A client may have as many as are free: half of
#: them if it is alone. Beyond it, requests are answered at once.
WAITERS_MAX: Final = 384
#: The delay that a lost announcement causes at most.
LOOK_INTERVAL_SECONDS: Final = 0.5
#: Announcements are kept for at least this time, and at most in this number. A wait begins within milliseconds after
#: its request is durable; one that misses its announcement is read twice a second.
REMEMBERED_SECONDS: Final = 2.0
REMEMBERED_MAX: Final = 50_000

#: The time that `stop` waits for the read under way, in seconds.
STOP_TIMEOUT_SECONDS: Final = 0.5

_WAIT = re.compile(r'\s*wait\s*=\s*"?([0-9]++)"?\s*(?:;.*)?', re.ASCII | re.IGNORECASE)

Seen = TypeVar("Seen")
log = structlog.get_logger()


def read_preference(header: str | None) -> int | None:
    """Return the seconds that the client wants to wait, or None. Other preferences are ignored."""
    for preference in (header or "").split(","):
        if found := _WAIT.fullmatch(preference):
            digits = found[1].lstrip("0") or "0"
            return WAIT_SECONDS_MAX if len(digits) > WAIT_DIGITS_MAX else min(int(digits), WAIT_SECONDS_MAX)
    return None


class _Wait(Generic[Seen]):
    """One call that waits for one request, until `done` is released."""

    __slots__ = ("client", "done", "fault", "is_done", "read_at", "request_id", "seen")

    def __init__(self, request_id: UUID, client: str, seen: Seen) -> None:
        self.request_id = request_id
        self.client = client
        self.seen = seen
        self.fault: Exception | None = None
        self.read_at = time.monotonic()
        self.is_done = False
        #: A plain lock, because an Event wakes a thread through two locks.
        self.done = threading.Lock()
        self.done.acquire()

    def end(self) -> None:
        """Wake the call. The caller holds the lock of all waits."""
        if not self.is_done:
            self.is_done = True
            self.done.release()


class Waiters(Generic[Seen]):
    """
    The waits of this process, by request, and the thread that reads for them.

    `read` returns the present states of requests; those that do not exist are left out. It may raise
    DatabaseUnavailable, which ends the waits that it was called for. `is_over` says whether a state ends the waits.
    """

    def __init__(
        self, read: Callable[[Collection[UUID]], Mapping[UUID, Seen]], is_over: Callable[[Seen], bool]
    ) -> None:
        self._read = read
        self._is_over = is_over
        self._lock = threading.Lock()
        #: Keys are the bytes of request ids, since most announced requests have no waiter.
        self._waiting: dict[bytes, list[_Wait[Seen]]] = {}
        self._count = 0
        self._count_of: Counter[str] = Counter()
        self._is_stopping = False
        #: The announcements of the current period and of the period before.
        self._announced: set[bytes] = set()
        self._announced_before: set[bytes] = set()
        self._remembered_at = time.monotonic()
        #: Requests to read; None ends the thread.
        self._due: queue.SimpleQueue[Iterable[bytes] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_groups, name="waiters", daemon=True)

    def start(self) -> None:
        """Start the thread, after any fork."""
        self._reader.start()

    def wait(self, request_id: UUID, client: str, seconds: float, seen: Seen) -> tuple[Seen, bool]:
        """
        Wait until the request is in a state that ends the wait, or until the time is up.

        `seen` is the state at the start. Returns the last state, and whether the wait was granted. Raises
        DatabaseUnavailable.
        """
        wait = _Wait(request_id, client, seen)
        if not self._enter(wait):
            return seen, False
        try:
            if seconds > 0:
                wait.done.acquire(timeout=seconds)
        finally:
            self._leave(wait)
        if wait.fault is not None:
            raise wait.fault
        return wait.seen, not self._is_stopping or self._is_over(wait.seen)

    def wake(self, request_ids: AbstractSet[bytes]) -> None:
        """
        Read changed requests for the calls that wait for them, also if they begin a little later. Ids are bytes.
        """
        with self._lock:
            self._remember(request_ids)
            due = self._waiting.keys() & request_ids
        if due:
            self._due.put(due)

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
        """Read for all waits, because announcements may have been lost."""
        with self._lock:
            due = list(self._waiting)
        self._due.put(due)

    def end_all(self) -> None:
        """End all waits, and grant no more: the process is stopping."""
        with self._lock:
            self._is_stopping = True
            for waiting in self._waiting.values():
                for wait in waiting:
                    wait.end()

    def stop(self) -> None:
        """End all waits, and then the thread. Waits for at most STOP_TIMEOUT_SECONDS."""
        self.end_all()
        self._due.put(None)
        self._reader.join(STOP_TIMEOUT_SECONDS)

    def count(self) -> int:
        """Return the number of waits, for the metrics."""
        return self._count

    def _enter(self, wait: _Wait[Seen]) -> bool:
        key = wait.request_id.bytes
        with self._lock:
            if self._is_stopping or self._count_of[wait.client] >= WAITERS_MAX - self._count:
                return False
            self._count += 1
            self._count_of[wait.client] += 1
            self._waiting.setdefault(key, []).append(wait)
            is_announced = key in self._announced or key in self._announced_before
        if is_announced:
            self._due.put((key,))
        return True

    def _leave(self, wait: _Wait[Seen]) -> None:
        key = wait.request_id.bytes
        with self._lock:
            self._count -= 1
            self._count_of[wait.client] -= 1
            if not self._count_of[wait.client]:
                del self._count_of[wait.client]
            waiting = self._waiting[key]
            waiting.remove(wait)
            if not waiting:
                del self._waiting[key]

    # ------------------------------------------------------------ the reader's thread

    def _read_groups(self) -> None:
        look_at = time.monotonic() + LOOK_INTERVAL_SECONDS
        while (due := self._next_group(look_at)) is not None:
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_INTERVAL_SECONDS
                due |= self._overdue()
            if due:
                self._read_group(due)

    def _next_group(self, look_at: float) -> set[bytes] | None:
        """Take the requests that are due. Blocks for the first until `look_at`. Returns None to stop."""
        due: set[bytes] = set()
        left = max(0.0, look_at - time.monotonic())
        try:
            found = self._due.get(timeout=left)
            while found is not None:
                due.update(found)
                found = self._due.get_nowait()
        except queue.Empty:
            return due
        return None

    def _overdue(self) -> set[bytes]:
        """Return the requests that were not read for LOOK_INTERVAL_SECONDS."""
        before = time.monotonic() - LOOK_INTERVAL_SECONDS
        with self._lock:
            return {
                key
                for key, waiting in self._waiting.items()
                if any(wait.read_at <= before for wait in waiting)
            }

    def _read_group(self, due: set[bytes]) -> None:
        with self._lock:
            ids = [self._waiting[key][0].request_id for key in due if key in self._waiting]
        if not ids:
            return
        began = time.monotonic()
        fault: Exception | None = None
        states: Mapping[UUID, Seen] = {}
        try:
            states = self._read(ids)
        except DatabaseUnavailable as unavailable:
            fault = unavailable
        except Exception as broken:
            log.exception("waiters_fault")
            fault = broken
        with self._lock:
            for request_id in ids:
                for wait in self._waiting.get(request_id.bytes, ()):
                    if (
                        wait.is_done or wait.read_at > began
                    ):  # one that began later may have seen a later state
                        continue
                    wait.read_at = began
                    if fault is not None:
                        wait.fault = fault
                        wait.end()
                    elif (state := states.get(request_id)) is not None:
                        wait.seen = state
                        if self._is_over(state):
                            wait.end()
