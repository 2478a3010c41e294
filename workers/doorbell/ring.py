"""
The doorbell: tells workers that a partition has work, and waiting clients that their requests are decided.

The message *is* not the work, it says "partition 7 has work": lost, doubled or late, it costs a second (the
sweep's) at most. It is a message of Dramatiq's, put into Dramatiq's own queue. Touches Redis only, and imports
nothing of Dramatiq: the API imports this module too.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from processor.domain.partitioning import queue_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Where the name of a queue is published that a message was put into.
WAKE_CHANNEL: Final = "teller:wake"
#: Published there in place of a queue's name when partitions became free, so that others claim them at once.
OWNERSHIP_CHANGED: Final = b"ownership"
#: Where ids of decided requests are published, ID_BYTES each, one after the other.
DECIDED_CHANNEL: Final = "teller:decided"
ID_BYTES: Final = 16
#: Published when there is something to call, deliver or mail; what it is, is in PostgreSQL.
COURIER_CHANNEL: Final = "teller:couriers"

#: The actor that drains, and the namespace of Dramatiq's keys (its RedisBroker's default).
ACTOR_NAME: Final = "drain"
NAMESPACE: Final = "dramatiq"

#: How long a partition counts as rung without an answer, in milliseconds.
MARKER_TTL_MS: Final = 1_000
#: Messages that may wait in a queue: one would do, the second covers one that is lost on its way.
MESSAGES_WAITING_MAX: Final = 2
#: How long a Redis that is away or stuck may hold up whoever uses it, in seconds: connecting and answer together.
TIMEOUT_SECONDS: Final = 0.1
#: Decided ids that may wait to be announced; what is more, is not announced (who waits, looks from time to time).
ANNOUNCEMENTS_MAX: Final = 50_000
#: How long `close` waits for what is still to be rung, in seconds.
CLOSE_TIMEOUT_SECONDS: Final = 0.5
#: Between two rounds of the ringer, in seconds: what is rung meanwhile goes together, and finds bigger batches.
REST_SECONDS: Final = 0.002

# All in one round trip, and nobody sees half of it. For each partition three keys (marker, list, messages; the
# latter two as in Dramatiq's dispatch.lua) and three arguments (queue, message id, message).
_RING: Final = """
local rung = 0
for i = 0, #KEYS / 3 - 1 do
    local marker, waiting, messages = KEYS[3 * i + 1], KEYS[3 * i + 2], KEYS[3 * i + 3]
    local queue, id, message = ARGV[3 * i + 4], ARGV[3 * i + 5], ARGV[3 * i + 6]
    if redis.call('SET', marker, '1', 'NX', 'PX', ARGV[1]) then
        if redis.call('LLEN', waiting) < tonumber(ARGV[2]) then
            redis.call('HSET', messages, id, message)
            redis.call('RPUSH', waiting, id)
            rung = rung + 1
        end
        redis.call('PUBLISH', ARGV[3], queue)
    end
end
return rung
"""

log = structlog.get_logger(__name__)


class Doorbell:
    """
    Rings and announces from a thread of its own, begun when it is first needed (so after a fork): none of
    its methods but `answer` and `close` waits for Redis, and none raises. `faults` counts what failed.
    """

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(
            redis_url,
            socket_timeout=TIMEOUT_SECONDS / 2,
            socket_connect_timeout=TIMEOUT_SECONDS / 2,
            # A connection that a restarted Redis closed is made anew once; a slow one is not waited for twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._ring_script = self._client.register_script(_RING)
        self._changed = threading.Condition()
        self._partitions: set[int] = set()
        self._decided: list[uuid.UUID] = []
        self._ownership_changed = False
        self._couriers_needed = False
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None
        #: Rings, answers and announcements that failed since the process began.
        self.faults = 0
        self._away = False

    def notify(self, partition: int) -> None:
        """Say that a partition has work. After the commit, never before: the drain looks only once."""
        self.notify_all((partition,))

    def notify_all(self, partitions: Iterable[int]) -> None:
        """
        `ring` for several. Returns at once; what is rung twice before the bell gets to it, is rung once.
        """
        with self._changed:
            self._partitions.update(partitions)
            self._wake_ringer()

    def announce(self, request_ids: Iterable[uuid.UUID]) -> None:
        """Tell whoever waits for these requests that they are decided. After the commit; returns at once."""
        with self._changed:
            self._decided.extend(request_ids)
            if len(self._decided) > ANNOUNCEMENTS_MAX:
                del self._decided[:-ANNOUNCEMENTS_MAX]
            self._wake_ringer()

    def notify_couriers(self) -> None:
        """Tell the couriers that something is due. After the commit; returns at once."""
        with self._changed:
            self._couriers_needed = True
            self._wake_ringer()

    def announce_ownership(self) -> None:
        """Tell the other workers that partitions are free. After the commit; returns at once."""
        with self._changed:
            self._ownership_changed = True
            self._wake_ringer()

    def acknowledge(self, partition: int) -> None:
        """
        Take note of the ring. Before the drain looks, so that whoever commits after that look rings again.
        """
        self._attempt(lambda: self._client.delete(_marker(partition)))

    def close(self) -> None:
        """Ring and announce what is still to be, within CLOSE_TIMEOUT_SECONDS, and let go of Redis."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._busy or self._has_work()), CLOSE_TIMEOUT_SECONDS)
            self._closing = True
            self._changed.notify_all()
        self._client.close()

    # ---------------------------------------------------------------- the ringer

    def _wake_ringer(self) -> None:
        """The caller holds the lock."""
        if self._closing or not self._has_work():
            return
        if self._thread is None or not self._thread.is_alive():  # a fork takes no threads along
            self._thread = threading.Thread(target=self._run, name="ringer", daemon=True)
            self._thread.start()
        if not self._busy:  # else it looks again by itself
            self._changed.notify_all()

    def _has_work(self) -> bool:
        return bool(self._partitions or self._decided or self._ownership_changed or self._couriers_needed)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closing or self._has_work())
                if self._closing:
                    return
                self._busy = True
                partitions, self._partitions = sorted(self._partitions), set()
                decided, self._decided = self._decided, []
                ownership_changed, self._ownership_changed = self._ownership_changed, False
                couriers_needed, self._couriers_needed = self._couriers_needed, False
            self._attempt(lambda: self._send(partitions, decided, ownership_changed, couriers_needed))  # noqa: B023 - called at once
            time.sleep(REST_SECONDS)

    def _send(
        self,
        partitions: list[int],
        decided: list[uuid.UUID],
        ownership_changed: bool,
        couriers_needed: bool,
    ) -> None:
        if decided:
            self._client.publish(DECIDED_CHANNEL, b"".join(request_id.bytes for request_id in decided))
        if partitions:
            keys: list[str] = []
            arguments: list[Any] = [MARKER_TTL_MS, MESSAGES_WAITING_MAX, WAKE_CHANNEL]
            for partition in partitions:
                queue = queue_name(partition)
                message_id, message = _message(queue, partition)
                keys += [_marker(partition), f"{NAMESPACE}:{queue}", f"{NAMESPACE}:{queue}.msgs"]
                arguments += [queue, message_id, message]
            self._ring_script(keys, arguments)
        if ownership_changed:
            self._client.publish(WAKE_CHANNEL, OWNERSHIP_CHANGED)
        if couriers_needed:
            self._client.publish(COURIER_CHANNEL, b"due")

    def _attempt(self, act: Callable[[], Any]) -> None:
        """Do it, or count that it failed; says so once, until it works again."""
        try:
            act()
        except (redis.RedisError, OSError) as fault:
            self.faults += 1
            if not self._away:
                self._away = True
                log.warning("doorbell_fault", fault=str(fault))
        else:
            if self._away:
                self._away = False
                log.info("doorbell_works_again", faults=self.faults)


def _marker(partition: int) -> str:
    return f"teller:rung:{partition}"


def _message(queue: str, partition: int) -> tuple[str, bytes]:
    """
    The id under which Redis holds it, and a Dramatiq message that calls `drain(partition)`, as its JSONEncoder
    would write it.
    """
    redis_message_id = str(uuid.uuid4())
    message = {
        "queue_name": queue,
        "actor_name": ACTOR_NAME,
        "args": [partition],
        "kwargs": {},
        "options": {"redis_message_id": redis_message_id},
        "message_id": str(uuid.uuid4()),
        "message_timestamp": time.time_ns() // 1_000_000,
    }
    return redis_message_id, json.dumps(message, separators=(",", ":")).encode()
