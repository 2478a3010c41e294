"""
A Redis broker for Dramatiq, with consumers that sleep until they are notified, instead of polling.

Each partition has a queue and a consumer thread. A consumer takes one message at a time, and only while this process
holds its partition. A message leaves Redis when it is taken, so there is nothing to acknowledge. Dead workers leave
nothing to clean up. A lost message only costs time, since the sweep finds the work. Messages are not delayed or
retried here, because a drain retries its batch in place. A consumer survives an outage of Redis: it sleeps until the
listener has a connection again.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import redis
import structlog
from dramatiq.broker import Broker, Consumer, MessageProxy
from dramatiq.errors import DecodeError
from dramatiq.message import Message
from dramatiq.middleware import Middleware

from processor.domain.partitioning import queue_name
from workers.doorbell import clients, old_names
from workers.doorbell.listener import Listener
from workers.doorbell.ring import OWNERSHIP_CHANGED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workers.doorbell.names import Names
    from workers.worker.assignments import Assignments

#: The longest time to connect, or to wait for the answer to a command, in seconds.
TIMEOUT_SECONDS: Final = 1.0
#: The connections that all consumers of a process share.
CONNECTIONS_MAX: Final = 8
#: The pause of a consumer between two checks for its end, while the worker stops, in seconds.
ENDING_PAUSE_SECONDS: Final = 0.05

# Takes the first message of a queue. Its keys are the list of ids, and the messages by id.
_TAKE: Final = """
local id = redis.call('LPOP', KEYS[1]);
if not id then return false end;
local message = redis.call('HGET', KEYS[2], id);
redis.call('HDEL', KEYS[2], id);
return message;
"""

log = structlog.get_logger(__name__)


class WakingBroker(Broker):
    """
    A broker whose consumers are woken by the listener.

    `on_ownership_changed` is called on the listener's thread when another worker has released partitions.
    """

    def __init__(
        self,
        redis_url: str,
        names: Names,
        partition_count: int,
        assignments: Assignments,
        on_ownership_changed: Callable[[], None],
    ) -> None:
        super().__init__(middleware=[LogMessages()])
        self.queues: set[str] = set()
        self.assignments = assignments
        self.is_ending = False
        self._client = clients.connect(
            redis_url, timeout_seconds=TIMEOUT_SECONDS, retries=1, connections_max=CONNECTIONS_MAX
        )
        self._take_script = self._client.register_script(_TAKE)
        self._redis_url = redis_url
        self._names = names
        self._are_old_names_removed = False
        self._on_ownership_changed = on_ownership_changed
        self._partitions = {queue_name(partition): partition for partition in range(partition_count)}
        self._wake_ups = {queue: threading.Event() for queue in self._partitions}
        self.listener = Listener(
            redis_url, lambda: names, "wake", self._receive, self._on_connect, self._look
        )
        for queue in self._partitions:
            self.declare_queue(queue)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue without the one for delayed messages that Dramatiq adds, and so without a thread for it."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def get_declared_queues(self) -> set[str]:
        """Return the queues of all partitions."""
        return self.queues.copy()

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Refuse. `Doorbell` sends the messages, and coalesces them."""
        raise NotImplementedError(f"{message} is not enqueued here: use Doorbell (delay: {delay})")

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> WakingConsumer:  # noqa: ARG002
        """Return a consumer that takes one message at a time and has no timeout, because it is woken."""
        return WakingConsumer(self, queue_name, self._partitions[queue_name], self._wake_ups[queue_name])

    def take(self, partition: int) -> bytes | None:
        """Take the first message of a partition. Returns None if there is none. Raises RedisError, OSError."""
        keys = [self._names.waiting(partition), self._names.messages(partition)]
        taken: bytes | None = self._take_script(keys)
        return taken

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

    def _on_connect(self) -> None:
        if not self._are_old_names_removed:
            self._are_old_names_removed = True
            try:
                if not clients.is_cluster(self._redis_url):  # no earlier release used one
                    old_names.remove(self._client, len(self._partitions))
            except (redis.RedisError, OSError) as fault:  # such as a user without rights to them
                log.debug("old_names_remain", fault=str(fault))
        self.wake_held()

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
        """
        held = sorted(self.assignments.held())
        if not held:
            return
        lengths = self._client.pipeline(transaction=False)
        for partition in held:
            lengths.llen(self._names.waiting(partition))
        try:
            found = lengths.execute()
        except (redis.RedisError, OSError) as fault:
            log.debug("redis_fault", fault=str(fault))
            return
        self.wake(partition for partition, length in zip(held, found, strict=True) if length)


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

    def ack(self, _message: MessageProxy) -> None:
        """Finish a message."""
        self._outstanding = False
        self._wake_up.set()  # a message that came meanwhile waits in the queue

    def nack(self, message: MessageProxy) -> None:
        """Drop a message that calls no actor."""
        log.warning("message_refused", queue=self._queue, message=str(message))
        self.ack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Drop messages that were taken and not begun, when the worker stops: new owners drain what they claim."""

    def _fetch(self) -> Message[Any] | None:
        if not self._broker.assignments.holds(self._partition):
            return None
        try:
            taken = self._broker.take(self._partition)
        except (redis.RedisError, OSError) as fault:  # it costs one wake-up: the sweep finds the work
            log.debug("redis_fault", queue=self._queue, fault=str(fault))
            return None
        if taken is None:
            return None
        try:
            return Message.decode(taken)
        except DecodeError:
            log.warning("message_unreadable", queue=self._queue)
            self._wake_up.set()  # there may be another message
            return None


class LogMessages(Middleware):
    """Logs at level debug how long each doorbell waited."""

    def before_process_message(self, _broker: Broker, message: MessageProxy) -> None:
        """Log one doorbell."""
        waited_ms = time.time_ns() // 1_000_000 - message.message_timestamp
        log.debug("doorbell_received", queue=message.queue_name, waited_ms=waited_ms)
