"""
Dramatiq's Redis broker, with consumers that sleep until they are notified, instead of polling.

Each partition has a queue and a consumer thread. A consumer takes one message at a time, and only while this process
holds its partition. Messages are not delayed or retried here, because a drain retries its batch in place. A consumer
survives an outage of Redis: it sleeps until the listener has a connection again.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import redis
import structlog
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import DecodeError
from dramatiq.message import Message
from dramatiq.middleware import Middleware
from redis.backoff import NoBackoff
from redis.retry import Retry

from processor.domain.partitioning import queue_name
from workers.doorbell.listener import Listener
from workers.doorbell.ring import NAMESPACE, OWNERSHIP_CHANGED, WAKE_CHANNEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dramatiq.broker import Broker

    from workers.worker.assignments import Assignments

#: The longest time to connect, or to wait for the answer to a command, in seconds.
TIMEOUT_SECONDS: Final = 1.0
#: The connections that all consumers of a process share.
CONNECTIONS_MAX: Final = 8
#: The pause of a consumer between two checks for its end, while the worker stops, in seconds.
ENDING_PAUSE_SECONDS: Final = 0.05

log = structlog.get_logger(__name__)


class WakingBroker(RedisBroker):
    """
    A broker whose consumers are woken by the listener.

    `on_ownership_changed` is called on the listener's thread when another worker has released partitions.
    """

    def __init__(
        self,
        redis_url: str,
        partition_count: int,
        assignments: Assignments,
        on_ownership_changed: Callable[[], None],
    ) -> None:
        pool = redis.BlockingConnectionPool.from_url(
            redis_url,
            max_connections=CONNECTIONS_MAX,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        super().__init__(  # type: ignore[no-untyped-call] # Dramatiq's own
            client=redis.Redis(connection_pool=pool), namespace=NAMESPACE, middleware=[LogMessages()]
        )
        self.assignments = assignments
        self.is_ending = False
        self.is_requeue_refused = False
        self._on_ownership_changed = on_ownership_changed
        self._partitions = {queue_name(partition): partition for partition in range(partition_count)}
        self._wake_ups = {queue: threading.Event() for queue in self._partitions}
        self.listener = Listener(redis_url, WAKE_CHANNEL, self._receive, self.wake_held, self._look)
        for queue in self._partitions:
            self.declare_queue(queue)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue without the one for delayed messages that Dramatiq adds, and so without a thread for it."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Refuse. `Doorbell` sends the messages, and coalesces them."""
        raise NotImplementedError(f"{message} is not enqueued here: use Doorbell (delay: {delay})")

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> WakingConsumer:  # noqa: ARG002
        """Return a consumer that takes one message at a time and has no timeout, because it is woken."""
        return WakingConsumer(self, queue_name, self._partitions[queue_name], self._wake_ups[queue_name])

    def wake(self, partitions: Iterable[int]) -> None:
        """Wake the consumers of these partitions."""
        for partition in partitions:
            self._wake_ups[queue_name(partition)].set()

    def wake_held(self) -> None:
        """Wake the consumers of all held partitions: messages that came without a wake-up wait in their queues."""
        self.wake(self.assignments.held())

    def end(self) -> None:
        """Wake all consumers, which then take no further message."""
        self.is_ending = True
        for wake_up in self._wake_ups.values():
            wake_up.set()

    def _receive(self, payload: bytes) -> None:
        if payload == OWNERSHIP_CHANGED:
            self._on_ownership_changed()
            return
        wake_up = self._wake_ups.get(payload.decode(errors="replace"))
        if wake_up is not None:
            wake_up.set()

    def _look(self) -> None:
        """
        Find messages whose wake-up was lost although the connection stood, in one round trip for all held queues.

        It wakes at least one consumer, because Dramatiq treats a worker that fetches nothing as dead.
        """
        held = sorted(self.assignments.held())
        if not held:
            return
        lengths = self.client.pipeline(transaction=False)
        for partition in held:
            lengths.llen(f"{NAMESPACE}:{queue_name(partition)}")
        filled = [partition for partition, length in zip(held, lengths.execute(), strict=True) if length]
        self.wake([*filled, random.choice(held)])  # noqa: S311 - any of them


class WakingConsumer(Consumer):
    """The source of messages for Dramatiq's consumer thread of one queue."""

    def __init__(self, broker: WakingBroker, queue: str, partition: int, wake_up: threading.Event) -> None:
        self._broker = broker
        self._queue = queue
        self._partition = partition
        self._wake_up = wake_up
        self._outstanding = False

    def __next__(self) -> MessageProxy | None:
        if self._broker.is_ending:
            time.sleep(ENDING_PAUSE_SECONDS)
            return None
        self._wake_up.clear()  # before the fetch: a message that comes after it wakes this thread again
        message = None if self._outstanding else self._fetch()
        if message is None:
            self._wake_up.wait()
            return None
        self._outstanding = True
        return MessageProxy(message)

    def ack(self, message: MessageProxy) -> None:
        """Finish a message. If Redis is unavailable, the message comes again, which is harmless."""
        self._finish(self._broker.do_ack, message)

    def nack(self, message: MessageProxy) -> None:
        """Refuse a message that calls no actor. Dramatiq keeps it for a week among the dead letters."""
        log.warning("message_refused", queue=self._queue, message=str(message))
        self._finish(self._broker.do_nack, message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """
        Return messages that were fetched and not begun to the queue, when the worker stops.

        Without Redis, only the first queue waits for it. The new owners drain what they claim, without messages.
        """
        ids = [message.options["redis_message_id"] for message in messages]
        if not ids or self._broker.is_requeue_refused:
            return
        try:
            self._broker.do_requeue(self._queue, *ids)
        except (redis.RedisError, OSError) as fault:
            self._broker.is_requeue_refused = True
            log.debug("redis_fault", queue=self._queue, fault=str(fault))

    def _fetch(self) -> Message[Any] | None:
        if not self._broker.assignments.holds(self._partition):
            return None
        found = self._tolerantly(lambda: self._broker.do_fetch(self._queue, 1))
        if not found or found[0] is None:
            return None
        try:
            return Message.decode(found[0])
        except DecodeError:
            log.warning("message_unreadable", queue=self._queue)
            self._wake_up.set()  # there may be another message
            return None

    def _finish(self, finish: Callable[[str, str], Any], message: MessageProxy) -> None:
        self._tolerantly(lambda: finish(self._queue, message.options["redis_message_id"]))
        self._outstanding = False
        self._wake_up.set()  # a message that came meanwhile waits in the queue

    def _tolerantly(self, act: Callable[[], Any]) -> Any:
        """Run an act of Redis. Returns None for a fault, which costs one wake-up: the sweep finds the work."""
        try:
            return act()
        except (redis.RedisError, OSError) as fault:
            log.debug("redis_fault", queue=self._queue, fault=str(fault))
            return None


class LogMessages(Middleware):
    """Logs at level debug how long each doorbell waited."""

    def before_process_message(self, _broker: Broker, message: MessageProxy) -> None:
        """Log one doorbell."""
        waited_ms = time.time_ns() // 1_000_000 - message.message_timestamp
        log.debug("doorbell_received", queue=message.queue_name, waited_ms=waited_ms)
