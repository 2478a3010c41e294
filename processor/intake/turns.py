"""
Turns of clients at intake, so that the large calls of one do not delay the small calls of the others.
"""

import time
from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

#: The requests of the largest group.
GROUP_LIMIT: Final = 1_000
#: The requests of a group of large calls while several clients are active. It bounds the wait of the others.
SHARED_GROUP_LIMIT: Final = 250
#: The requests from which a call is large.
LARGE_CALL: Final = 50
#: The time after the last call of another client at which a client counts as alone.
ALONE_AFTER_SECONDS: Final = 10.0

CallT = TypeVar("CallT")


class Activity:
    """Whether several clients have been active in the last seconds. One thread at a time may use it."""

    def __init__(self) -> None:
        self._latest: str | None = None
        self._shared_until = 0.0

    def note(self, client: str) -> bool:
        """Note a call of a client. Returns whether another client has been active."""
        now = time.monotonic()
        if client != self._latest:
            if self._latest is not None:
                self._shared_until = now + ALONE_AFTER_SECONDS
            self._latest = client
        return now < self._shared_until

    def is_shared(self) -> bool:
        """Return whether several clients have been active."""
        return time.monotonic() < self._shared_until


class Turns(Generic[CallT]):
    """
    The calls that wait for a group of requests, by client. The calls of one client keep their order.

    Clients take turns, and a group of small calls follows each group of large ones. So a small call waits for one
    large group at most, however many large calls wait.
    """

    def __init__(self) -> None:
        #: The size of each call, and the call, by client in the order of their turns.
        self._waiting: OrderedDict[str, deque[tuple[int, CallT]]] = OrderedDict()
        self._activity = Activity()
        self._was_small = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, client: str, size: int, call: CallT) -> None:
        """Let a call of `size` requests wait for the turn of its client."""
        self._activity.note(client)
        waiting = self._waiting.get(client)
        if waiting is None:
            waiting = self._waiting[client] = deque()
        waiting.append((size, call))

    def next_group(self) -> list[CallT]:
        """
        Take the calls of the next group, up to the limit of requests. Returns [] if none waits.

        It has small calls of all clients, or the calls of one client that begin with a large one.
        """
        small = deque(client for client in self._waiting if not self._is_large(client))
        self._was_small = bool(small) and not (self._was_small and len(small) < len(self._waiting))
        group: list[CallT] = []
        if self._was_small:
            left = GROUP_LIMIT
            while small and left > 0:
                client = small.popleft()
                left -= self._take(client, group)
                if client in self._waiting:
                    self._waiting.move_to_end(client)  # clients beyond a full group are first in the next
                    if not self._is_large(client):
                        small.append(client)
        elif self._waiting:
            left = SHARED_GROUP_LIMIT if self._activity.is_shared() else GROUP_LIMIT
            client = next(filter(self._is_large, self._waiting))
            while client in self._waiting and left > 0:
                left -= self._take(client, group)
            if client in self._waiting:
                self._waiting.move_to_end(client)
        return group

    def _is_large(self, client: str) -> bool:
        return self._waiting[client][0][0] >= LARGE_CALL

    def _take(self, client: str, group: list[CallT]) -> int:
        """Move the next call of a client to the group. Returns its size."""
        waiting = self._waiting[client]
        size, call = waiting.popleft()
        group.append(call)
        if not waiting:
            del self._waiting[client]
        return size
