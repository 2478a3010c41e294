"""
The listener: one thread that receives the messages of a Redis channel, until the process ends.

Messages that are published while the thread has no connection are lost. Its owner is therefore notified of each
connection, and reads the state itself.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import redis
import structlog

from processor.errors import TellerError
from workers.doorbell import clients
from workers.doorbell.condition import condition_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.doorbell.condition import Condition
    from workers.doorbell.names import Names, Topic

#: The silence after which a connection is tested with a PING, and the time for its answer, in seconds. It is also the
#: interval between two calls of `on_look`.
LOOK_INTERVAL_SECONDS: Final = 5.0
#: The first and the longest pause between two tries to connect, in seconds. The pause doubles.
RECONNECT_FIRST_SECONDS: Final = 0.1
RECONNECT_LONGEST_SECONDS: Final = 0.5
#: The longest time to connect, or to wait for the answer to a command, in seconds.
TIMEOUT_SECONDS: Final = 1.0

#: A message that ends the wait of a listener that stops. Others ignore it.
_NOTHING: Final = b""

log = structlog.get_logger(__name__)


class Listener:
    """
    Subscribes to the channel of a topic, and calls back on a thread of its own.

    `find_names` returns the names of the installation, and may raise a TellerError while they are unknown.
    `on_message` gets the payload of each message. `on_connect` is called when a subscription is confirmed, and
    `on_look` about every LOOK_INTERVAL_SECONDS during it. An exception in a callback is logged, and the thread
    continues.
    """

    def __init__(
        self,
        redis_url: str,
        find_names: Callable[[], Names],
        topic: Topic,
        on_message: Callable[[bytes], None],
        on_connect: Callable[[], None],
        on_look: Callable[[], None] | None = None,
    ) -> None:
        # Without retries: a reconnection inside redis-py would hide the loss of messages.
        self._client = clients.connect(redis_url, timeout_seconds=TIMEOUT_SECONDS)
        self._find_names = find_names
        self._topic = topic
        self._redis_url = redis_url
        self._channel: str | None = None
        self._connection: Any = None
        #: The connection is given up, because the primary is elsewhere now.
        self._is_moving = False
        self._on_message = on_message
        self._on_connect = on_connect
        self._on_look = on_look
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"listener {topic}", daemon=True)
        #: There is no subscription, and no connection can be made. A connection that is dead without an error is
        #: found within two LOOK_INTERVAL_SECONDS.
        self.broken = False
        #: The reason of the last disconnection.
        self.condition: Condition = "unavailable"

    def start(self) -> None:
        """Start the thread. Redis may be unavailable."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Waits for at most TIMEOUT_SECONDS."""
        self._stopping.set()
        if not self.broken and self._channel is not None:
            with contextlib.suppress(redis.RedisError):
                self._client.publish(self._channel, _NOTHING)  # ends the wait for the next message
        self._thread.join(TIMEOUT_SECONDS)

    def follow(self) -> None:
        """Connect again if other connections of this process lead to another server now. Returns at once."""
        connection, place = self._connection, clients.place_of(self._redis_url)
        if connection is None or place is None or (connection.host, connection.port) == place:
            return
        self._is_moving = True
        with contextlib.suppress(OSError, AttributeError):  # it is closed already
            connection._sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001 - it ends the wait of the other thread

    def _run(self) -> None:
        pause = RECONNECT_FIRST_SECONDS
        while not self._stopping.is_set():
            try:
                self._channel = self._find_names().channel(self._topic)
                with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call] # redis-py's own
                    subscription.subscribe(self._channel)
                    self._connection = subscription.connection
                    self._is_moving = False
                    self._receive(subscription)
            except TellerError:
                pause = RECONNECT_LONGEST_SECONDS  # the database is unavailable: others log it
            except (redis.RedisError, OSError) as fault:
                self.condition = condition_of(fault)
                if self._is_moving:
                    pause = 0.0
                elif self.broken:
                    pause = min(pause * 2, RECONNECT_LONGEST_SECONDS)
                else:
                    self.broken = True
                    pause = RECONNECT_FIRST_SECONDS
                    log.warning(
                        "redis_unavailable", topic=self._topic, condition=self.condition, fault=str(fault)
                    )
            self._connection = None
            self._stopping.wait(pause)

    def _receive(self, subscription: redis.client.PubSub) -> None:
        """Receive messages until the connection breaks or the listener stops."""
        is_pinged = False
        looked_at = time.monotonic()
        while not self._stopping.is_set():
            message = subscription.get_message(timeout=LOOK_INTERVAL_SECONDS)
            if message is None:
                if is_pinged:
                    raise redis.ConnectionError("no answer to PING")
                subscription.ping()
                is_pinged = True
            else:
                is_pinged = False
                if message["type"] == "subscribe":
                    if self.broken:
                        self.broken = False
                        log.info("redis_available", topic=self._topic)
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
            log.exception("listener_fault", topic=self._topic)
