"""
One thread that hears what is published on a Redis channel, for as long as the process lives.

What is published while Redis, or the way to it, is away is never heard: so whoever listens is told of each
(re)connection, and looks for himself. Touches Redis only; imports nothing of Dramatiq.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

#: Silence after which a connection is tested by a PING, and after which one that did not answer is given up, in
#: seconds. Also how often `on_look` is called.
LOOK_INTERVAL_SECONDS: Final = 5.0
#: First and longest pause between two tries to connect, in seconds; it doubles.
RECONNECT_FIRST_SECONDS: Final = 0.1
RECONNECT_LONGEST_SECONDS: Final = 0.5
#: How long connecting, or the answer to a command, may take, in seconds.
TIMEOUT_SECONDS: Final = 1.0

#: Published to end a listener's own wait; means nothing to the others.
_NOTHING: Final = b""

log = structlog.get_logger(__name__)


class Listener:
    """
    Calls `on_message` with the payload of each message on `channel`, `on_connect` each time the subscription
    is confirmed, and `on_look` about every LOOK_INTERVAL_SECONDS while it stands. All on one thread of its
    own; an exception in a callback is logged and ends neither.
    """

    def __init__(
        self,
        redis_url: str,
        channel: str,
        on_message: Callable[[bytes], None],
        on_connect: Callable[[], None],
        on_look: Callable[[], None] | None = None,
    ) -> None:
        self._client = redis.Redis.from_url(
            redis_url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),  # a silent reconnection would hide what was missed
        )
        self._channel = channel
        self._on_message = on_message
        self._on_connect = on_connect
        self._on_look = on_look
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"listener {channel}", daemon=True)
        #: The subscription does not stand, and cannot be had. A line that is dead without telling is found within
        #: two LOOK_INTERVAL_SECONDS.
        self.broken = False

    def start(self) -> None:
        """Begin to listen; also when Redis is away."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; does not wait longer than TIMEOUT_SECONDS."""
        self._stopping.set()
        if not self.broken:
            with contextlib.suppress(redis.RedisError):
                self._client.publish(self._channel, _NOTHING)  # ends the wait for the next message
        self._thread.join(TIMEOUT_SECONDS)

    def _run(self) -> None:
        pause = RECONNECT_FIRST_SECONDS
        while not self._stopping.is_set():
            try:
                with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call] # redis-py's own
                    subscription.subscribe(self._channel)
                    self._hear(subscription)
            except (redis.RedisError, OSError) as fault:
                if self.broken:
                    pause = min(pause * 2, RECONNECT_LONGEST_SECONDS)
                else:
                    self.broken = True
                    pause = RECONNECT_FIRST_SECONDS
                    log.warning("redis_away", channel=self._channel, fault=str(fault))
            self._stopping.wait(pause)

    def _hear(self, subscription: redis.client.PubSub) -> None:
        """Until the connection breaks or `stop`."""
        asked = False
        looked_at = time.monotonic()
        while not self._stopping.is_set():
            message = subscription.get_message(timeout=LOOK_INTERVAL_SECONDS)
            if message is None:
                if asked:
                    raise redis.ConnectionError("no answer to PING")
                subscription.ping()
                asked = True
            else:
                asked = False
                if message["type"] == "subscribe":
                    if self.broken:
                        self.broken = False
                        log.info("redis_back", channel=self._channel)
                    self._call(self._on_connect)
                elif message["type"] == "message" and message["data"] != _NOTHING:
                    self._call(self._on_message, message["data"])
            if self._on_look is not None and time.monotonic() - looked_at >= LOOK_INTERVAL_SECONDS:
                looked_at = time.monotonic()
                self._call(self._on_look)

    def _call(self, callback: Callable[..., None], *arguments: bytes) -> None:
        try:
            callback(*arguments)
        except Exception:
            log.exception("listener_fault", channel=self._channel)
