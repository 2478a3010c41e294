"""
The systems outside of a run: an unreliable bank with its own records, and a subscriber that keeps its
messages.

The request's key decides how the bank behaves, so a repeated call meets the same behaviour. It pays once for
each key, whatever happens to its answer.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections import Counter
from typing import TYPE_CHECKING

from tests.faults.history import Message
from tests.flow.courier.outside import Reply, says, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.flow.courier.outside import Call, Handler

#: Longer than the time limit of a call, in seconds.
SLOW_SECONDS = 1.5


class Bank:
    """A gateway. `payouts` counts its payments by request."""

    def __init__(self) -> None:
        self.payouts: Counter[str] = Counter()
        #: Once true, every call gets its answer.
        self.is_reliable = False
        self._paid: set[str] = set()
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def behave(self, call: Call, handler: Handler) -> Reply | None:
        """Behave as the request's key decides."""
        document = call.document
        request, key = document["request"], call.key
        mood = zlib.crc32(key.encode()) % 100
        with self._lock:
            self._calls[key] += 1
            calls = self._calls[key]
        if mood < 60:
            return self._pay(request, key)
        if mood < 72:
            return says(422, reason="no such account")
        if mood < 82:  # it pays, and the answer is lost, once
            answer = self._pay(request, key)
            if calls > 1 or self.is_reliable:
                return answer
            _hang_up(handler)
            return None
        if mood < 90:  # it answers the second call
            return self._pay(request, key) if calls > 1 or self.is_reliable else 503
        if mood < 94:  # it pays, but its answer comes too late
            answer = self._pay(request, key)
            if not self.is_reliable:
                time.sleep(SLOW_SECONDS)
            return answer
        return self._pay(request, key) if self.is_reliable else 503

    def _pay(self, request: str, key: str) -> Reply:
        with self._lock:
            if key not in self._paid:
                self._paid.add(key)
                self.payouts[request] += 1
        return says(200, reference=f"bank-{key}")


def _hang_up(handler: Handler) -> None:
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


class Subscriber:
    """A receiver of webhooks. `messages` has all that arrived; some get a success only the second time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[Message] = []
        self._refused: set[str] = set()

    def behave(self, call: Call, _handler: Handler) -> Reply:
        """Accept the message, or answer with an error once."""
        data = call.document
        request = data["data"]
        event = call.headers["webhook-id"]
        self.messages.append(
            Message(self.name, event, data["type"], request["id"], request["version"], request["status"])
        )
        if zlib.crc32(event.encode()) % 50 == 0 and event not in self._refused:
            self._refused.add(event)
            return 500
        return 204


@contextlib.contextmanager
def outside() -> Iterator[tuple[Bank, str, Subscriber, str]]:
    """Run both. Yields them with their addresses."""
    bank, subscriber = Bank(), Subscriber("")
    with serving() as gateway, serving() as hook:

        def remembered_elsewhere(call: Call, handler: Handler) -> Reply | None:
            gateway.calls.clear()
            return bank.behave(call, handler)

        def delivered(call: Call, handler: Handler) -> Reply:
            hook.calls.clear()
            return subscriber.behave(call, handler)

        gateway.behave, hook.behave = remembered_elsewhere, delivered
        yield bank, gateway.url, subscriber, hook.url
