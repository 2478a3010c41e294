"""
Announcements: the ids of decided requests, for clients that wait for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.doorbell.listener import Listener
from workers.doorbell.ring import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.doorbell.names import Names


class Announcements:
    """
    Receives the ids of decided requests. Both callbacks run on a thread of its own.

    `on_decided` gets the bytes of the ids. `on_reconnect` is called after each connection, because announcements that
    were sent without a connection are lost.
    """

    def __init__(
        self,
        redis_url: str,
        find_names: Callable[[], Names],
        on_decided: Callable[[set[bytes]], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        def receive(payload: bytes) -> None:
            whole = range(0, len(payload) - ID_BYTES + 1, ID_BYTES)
            on_decided({payload[start : start + ID_BYTES] for start in whole})

        self.listener = Listener(redis_url, find_names, "decided", receive, on_reconnect)

    def start(self) -> None:
        """Start the thread, after any fork. Redis may be unavailable."""
        self.listener.start()

    def stop(self) -> None:
        """End the thread."""
        self.listener.stop()
