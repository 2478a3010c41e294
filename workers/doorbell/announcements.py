"""
Announcements: which requests were decided, for clients that wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.doorbell.listener import Listener
from workers.doorbell.ring import DECIDED_CHANNEL, ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable


class Announcements:
    """
    Hears which requests were decided, for clients that wait. Both callbacks come on a thread of its own:
    `on_decided` with the bytes of their ids, `on_reconnect` each time the line stands (again), for what was
    announced while it did not is never heard.
    """

    def __init__(
        self,
        redis_url: str,
        on_decided: Callable[[set[bytes]], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        def hear(payload: bytes) -> None:
            whole = range(0, len(payload) - ID_BYTES + 1, ID_BYTES)
            on_decided({payload[start : start + ID_BYTES] for start in whole})

        self._listener = Listener(redis_url, DECIDED_CHANNEL, hear, on_reconnect)

    def start(self) -> None:
        """Begin to hear; also when Redis is away. After the fork."""
        self._listener.start()

    def stop(self) -> None:
        """Hear no more."""
        self._listener.stop()
