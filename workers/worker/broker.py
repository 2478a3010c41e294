"""
Dramatiq's Redis broker, with consumers that sleep until somebody rings, instead of polling.

Each partition has a queue and a consumer thread; a consumer takes messages only while its partition is ours,
one at a time. Nothing is delayed or retried here: a message says "look", and the retrying is the drain's. A Redis
that is away never ends a consumer: it sleeps until the listener is back, and is woken then.
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

    from workers.worker.assignments import Lanes

#: How long connecting, or the answer to a command, may take, in seconds.
TIMEOUT_SECONDS: Final = 1.0
#: Connections that all consumers and drains of a process share.
CONNECTIONS_MAX: Final = 8
#: The pause of a consumer between two looks at whether it shall end, while the worker is ending, in seconds.
ENDING_PAUSE_SECONDS: Final = 0.05

log = structlog.get_logger(__name__)


class WakingBroker(RedisBroker):
    """
    `on_ownership_changed` is called, on the listener's thread, when another worker let go of partitions.
    """

    def __init__(
        self, redis_url: str, partition_count: int, lanes: Lanes, on_ownership_changed: Callable[[], None]
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
        self.lanes = lanes
        self.ending = False
        self._on_ownership_changed = on_ownership_changed
        self._partitions = {queue_name(partition): partition for partition in range(partition_count)}
        self._bells = {queue: threading.Event() for queue in self._partitions}
        self.listener = Listener(redis_url, WAKE_CHANNEL, self._hear, self.wake_held, self._look)
        for queue in self._partitions:
            self.declare_queue(queue)

    def declare_queue(self, queue_name: str) -> None:
        """Without the queue for delayed messages that Dramatiq adds, and so without a thread for it."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Refused: doorbells are rung by `doorbell.Doorbell`, which coalesces them."""
        raise NotImplementedError(f"{message} is not enqueued here: ring the doorbell (delay: {delay})")

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> WakingConsumer:  # noqa: ARG002
        """One message at a time for each queue, whatever the worker would prefetch; woken, so without timeout."""
        return WakingConsumer(self, queue_name, self._partitions[queue_name], self._bells[queue_name])

    def wake(self, partitions: Iterable[int]) -> None:
        """Let these consumers look into their queues."""
        for partition in partitions:
            self._bells[queue_name(partition)].set()

    def wake_held(self) -> None:
        """All of ours: whatever was rung while nobody listened waits in their queues."""
        self.wake(self.lanes.held())

    def end(self) -> None:
        """No consumer takes a message any more, and none sleeps on."""
        self.ending = True
        for bell in self._bells.values():
            bell.set()

    def _hear(self, payload: bytes) -> None:
        if payload == OWNERSHIP_CHANGED:
            self._on_ownership_changed()
            return
        bell = self._bells.get(payload.decode(errors="replace"))
        if bell is not None:
            bell.set()

    def _look(self) -> None:
        """
        The fallback for a wake-up that was lost while the line stood: one round trip for all our queues. One
        consumer is woken in any case, for Dramatiq counts a worker that asks for nothing as dead.
        """
        held = sorted(self.lanes.held())
        if not held:
            return
        lengths = self.client.pipeline(transaction=False)
        for partition in held:
            lengths.llen(f"{NAMESPACE}:{queue_name(partition)}")
        filled = [partition for partition, length in zip(held, lengths.execute(), strict=True) if length]
        self.wake([*filled, random.choice(held)])  # noqa: S311 - any will do


class WakingConsumer(Consumer):
    """What Dramatiq's consumer thread of one queue asks for messages."""

    def __init__(self, broker: WakingBroker, queue: str, partition: int, bell: threading.Event) -> None:
        self._broker = broker
        self._queue = queue
        self._partition = partition
        self._bell = bell
        self._outstanding = False

    def __next__(self) -> MessageProxy | None:
        if self._broker.ending:
            time.sleep(ENDING_PAUSE_SECONDS)
            return None
        self._bell.clear()  # before we look, so that a ring after it wakes us
        message = None if self._outstanding else self._fetch()
        if message is None:
            self._bell.wait()
            return None
        self._outstanding = True
        return MessageProxy(message)

    def ack(self, message: MessageProxy) -> None:
        """The message is done with, also when Redis cannot be told: it would be harmless to see it again."""
        self._finish(self._broker.do_ack, message)

    def nack(self, message: MessageProxy) -> None:
        """It is not one of ours: Dramatiq keeps it for a week among the dead letters."""
        log.warning("message_refused", queue=self._queue, message=str(message))
        self._finish(self._broker.do_nack, message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Back into the queue with what was fetched and not begun; the worker ends."""
        ids = [message.options["redis_message_id"] for message in messages]
        if ids:
            self._tolerantly(lambda: self._broker.do_requeue(self._queue, *ids))

    def _fetch(self) -> Message[Any] | None:
        if not self._broker.lanes.holds(self._partition):
            return None
        found = self._tolerantly(lambda: self._broker.do_fetch(self._queue, 1))
        if not found or found[0] is None:
            return None
        try:
            return Message.decode(found[0])
        except DecodeError:
            log.warning("message_unreadable", queue=self._queue)
            self._bell.set()  # there may be another behind it
            return None

    def _finish(self, tell: Callable[[str, str], Any], message: MessageProxy) -> None:
        self._tolerantly(lambda: tell(self._queue, message.options["redis_message_id"]))
        self._outstanding = False
        self._bell.set()  # what was rung meanwhile waits in the queue

    def _tolerantly(self, act: Callable[[], Any]) -> Any:
        """A fault of Redis costs a wake-up, never the consumer: the listener, or the sweep, sees to the rest."""
        try:
            return act()
        except (redis.RedisError, OSError) as fault:
            log.debug("redis_fault", queue=self._queue, fault=str(fault))
            return None


class LogMessages(Middleware):
    """How long a doorbell waited, for those who look closely; the batches have their own line."""

    def before_process_message(self, _broker: Broker, message: MessageProxy) -> None:
        """One is about to be answered."""
        waited_ms = time.time_ns() // 1_000_000 - message.message_timestamp
        log.debug("doorbell_heard", queue=message.queue_name, waited_ms=waited_ms)
