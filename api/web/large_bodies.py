"""
Large bodies are parsed a few at a time, and clients take turns.

Parsing holds the interpreter. Without turns, large bodies that come together would delay every other request. A large
body waits for its turn within the deadline of its request.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from api.web import deadline, problems
from processor.errors import TellerError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The size from which a body is large. A smaller one costs about as much as the rest of its request.
LARGE_BYTES: Final = 8 * 1024
#: The large bodies that one process works on at once. More would not end sooner, since they share one interpreter.
AT_ONCE: Final = 1
#: The large bodies that wait in one process, and those of one client among them.
WAITING_MAX: Final = 512
WAITING_OF_ONE_CLIENT_MAX: Final = 128


class TooManyLargeBodies(TellerError):
    """Other large bodies are being worked on, and the turn of this one did not come in time."""

    code = "too_many_large_bodies"


problems.declare(
    TooManyLargeBodies.code,
    status=503,
    title="Too many large bodies at once",
    explanation="Large bodies are parsed a few at a time, and clients take turns. Too many were waiting, or the "
    "turn of this one did not come in time. Nothing was stored.",
    remedy="Try again after Retry-After seconds, with fewer large bodies at once or with smaller batches.",
)


class Turns:
    """The turns of clients. The client that has waited longest without a turn is next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = AT_ONCE
        self._count = 0
        #: The waiting turns by client, in the order in which the clients take turns.
        self._waiting: OrderedDict[str, deque[threading.Event]] = OrderedDict()

    @contextmanager
    def take(self, client: str) -> Iterator[None]:
        """Wait for a turn of this client, and hold it. Raises TooManyLargeBodies."""
        turn = self._enter(client)
        if turn is not None:
            with deadline.remaining() as seconds:
                turn.wait(seconds)
            if not self._has_come(client, turn):
                raise TooManyLargeBodies("the turn of this large body did not come in time")
        try:
            yield
        finally:
            self._pass_on()

    def waiting(self) -> int:
        """Return the number of bodies that wait."""
        return self._count

    def _enter(self, client: str) -> threading.Event | None:
        """Return the turn to wait for, or None if the turn has come."""
        with self._lock:
            if self._free:
                self._free -= 1
                return None
            turns = self._waiting.get(client)
            if self._count >= WAITING_MAX or (turns and len(turns) >= WAITING_OF_ONE_CLIENT_MAX):
                raise TooManyLargeBodies("too many large bodies are waiting")
            turn = threading.Event()
            self._waiting.setdefault(client, deque()).append(turn)
            self._count += 1
            return turn

    def _has_come(self, client: str, turn: threading.Event) -> bool:
        """Return whether a turn has come. Otherwise it is no longer waited for."""
        with self._lock:
            if not turn.is_set():
                turns = self._waiting[client]
                turns.remove(turn)
                self._count -= 1
                if not turns:
                    del self._waiting[client]
            return turn.is_set()

    def _pass_on(self) -> None:
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            client, turns = self._waiting.popitem(last=False)
            turns.popleft().set()
            self._count -= 1
            if turns:
                self._waiting[client] = turns
