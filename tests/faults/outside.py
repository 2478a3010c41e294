"""
The world outside of a run: a bank that keeps its own books and is unreliable, and a subscriber that remembers.

What the bank does is decided by the request's id, so that a repeated call meets the same mood: it pays once for each
key, whatever becomes of its answer.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections import Counter
from typing import TYPE_CHECKING

from tests.faults.history import Told
from tests.flow.courier.outside import Reply, says, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.flow.courier.outside import Call, Handler

#: Slower than a call may take, in seconds.
SLOW_SECONDS = 1.5


class Bank:
    """A gateway. `payouts`: by request, how often it paid."""

    def __init__(self) -> None:
        self.payouts: Counter[str] = Counter()
        #: Once it is well, whatever is asked is answered.
        self.is_well = False
        self._paid: set[str] = set()
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def behave(self, call: Call, handler: Handler) -> Reply | None:
        """By the mood that the request meets."""
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
            if calls > 1 or self.is_well:
                return answer
            _hang_up(handler)
            return None
        if mood < 90:  # it answers the second call
            return self._pay(request, key) if calls > 1 or self.is_well else 503
        if mood < 94:  # it pays too late to be heard
            answer = self._pay(request, key)
            if not self.is_well:
                time.sleep(SLOW_SECONDS)
            return answer
        return self._pay(request, key) if self.is_well else 503

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
    """Who is told by webhook. `told`: what arrived; some of it is answered only the second time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[Told] = []
        self._refused: set[str] = set()

    def behave(self, call: Call, _handler: Handler) -> Reply:
        """Takes it, or says once that something is wrong here."""
        data = call.document
        request = data["data"]
        event = call.headers["webhook-id"]
        self.told.append(
            Told(self.name, event, data["type"], request["id"], request["version"], request["status"])
        )
        if zlib.crc32(event.encode()) % 50 == 0 and event not in self._refused:
            self._refused.add(event)
            return 500
        return 204


@contextlib.contextmanager
def outside() -> Iterator[tuple[Bank, str, Subscriber, str]]:
    """Both, and where they are."""
    bank, subscriber = Bank(), Subscriber("")
    with serving() as gateway, serving() as hook:

        def remembered_elsewhere(call: Call, handler: Handler) -> Reply | None:
            gateway.calls.clear()
            return bank.behave(call, handler)

        def told(call: Call, handler: Handler) -> Reply:
            hook.calls.clear()
            return subscriber.behave(call, handler)

        gateway.behave, hook.behave = remembered_elsewhere, told
        yield bank, gateway.url, subscriber, hook.url
