"""
The doorbell notifies workers, couriers and waiting clients, after a commit.

A doorbell is a message in a queue of Dramatiq that reports that a partition has work. It never carries the work. So a
message that is lost, doubled or late is harmless, and the sweep finds the work within two seconds. This module writes
the messages without Dramatiq, because the API imports it.
"""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import redis
import structlog

from processor.domain.partitioning import queue_name
from processor.errors import TellerError
from workers.doorbell import clients
from workers.doorbell.check import Probe
from workers.doorbell.condition import condition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workers.doorbell.check import RedisCheck
    from workers.doorbell.names import Names

#: The message on the channel `wake` for partitions that became free. Other workers claim them at once.
OWNERSHIP_CHANGED: Final = b"ownership"
#: The size of an id on the channel `decided`.
ID_BYTES: Final = 16

#: The actor that drains.
ACTOR_NAME: Final = "drain"

#: The time after which a partition is notified again although no worker has acknowledged, in milliseconds.
MARKER_TTL_MS: Final = 1_000
#: The messages that wait in a queue. The second replaces one that a worker fetched and lost.
MESSAGES_WAITING_MAX: Final = 2
#: The longest time to connect, or to wait for the answer to a command, in seconds. A Redis that is busy or in another
#: region is in time. Only the sending thread and the first acknowledgement of an outage wait for it.
TIMEOUT_SECONDS: Final = 1.0
#: The interval between two tests of a Redis that is unavailable, while there is nothing to send, in seconds.
PROBE_SECONDS: Final = 0.5
#: The ids that wait to be announced. Older ones are dropped, and their clients find the decision when they next read.
ANNOUNCEMENTS_MAX: Final = 50_000
#: The time that `close` waits for notifications that are not sent yet, in seconds.
CLOSE_TIMEOUT_SECONDS: Final = 0.5
#: The pause between two rounds of the sending thread, in seconds. It groups notifications, and so makes batches
#: larger.
REST_SECONDS: Final = 0.002

# One script, so that all partitions take one round trip and each message is complete when it is visible. Each
# partition has three keys (marker, list, messages) and three arguments (queue, message id, message). The list and the
# messages are those of Dramatiq's dispatch.lua.
_NOTIFY: Final = """
for i = 0, #KEYS / 3 - 1 do
    local marker, waiting, messages = KEYS[3 * i + 1], KEYS[3 * i + 2], KEYS[3 * i + 3]
    local queue, id, message = ARGV[3 * i + 4], ARGV[3 * i + 5], ARGV[3 * i + 6]
    if redis.call('SET', marker, '1', 'NX', 'PX', ARGV[1]) then
        if redis.call('LLEN', waiting) < tonumber(ARGV[2]) then
            redis.call('HSET', messages, id, message)
            redis.call('RPUSH', waiting, id)
        end
        redis.call('PUBLISH', ARGV[3], queue)
    end
end
"""

log = structlog.get_logger(__name__)


class Doorbell:
    """
    Sends notifications from a thread of its own, which starts with the first of them, after any fork.

    `find_names` returns the names of the installation. It may read them from the database, on the sending thread, and
    raise a TellerError while that is unavailable. While `check` finds a fault of Redis, nothing is acknowledged.

    Only `acknowledge` and `close` wait for Redis. No method raises for a fault of Redis; `faults` counts them.
    """

    def __init__(
        self, redis_url: str, find_names: Callable[[], Names], check: RedisCheck | None = None
    ) -> None:
        self._find_names = find_names
        self._check = check
        self._client = clients.connect(redis_url, timeout_seconds=TIMEOUT_SECONDS, retries=1)
        self._notify_script = self._client.register_script(_NOTIFY)
        self._probe = Probe(self._client)
        self._changed = threading.Condition()
        self._partitions: set[int] = set()
        self._decided: list[uuid.UUID] = []
        self._ownership_changed = False
        self._couriers_needed = False
        #: An acknowledgement failed, so the sending thread must find out when Redis is available again.
        self._must_probe = False
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None
        #: The rounds and acknowledgements that failed since the process started.
        self.faults = 0
        #: The last round or acknowledgement failed.
        self.is_unavailable = False
        #: The end of the last outage, in monotonic seconds.
        self._available_since = -math.inf

    @property
    def reaches_workers(self) -> bool:
        """
        Whether each commit is notified at present.

        For MARKER_TTL_MS after an outage, markers that were not acknowledged during it can silence their partitions.
        """
        seconds = MARKER_TTL_MS / 1_000
        if self._check is not None and not self._check.has_worked_for(seconds):
            return False
        return not self.is_unavailable and time.monotonic() - self._available_since > seconds

    def notify(self, partition: int) -> None:
        """Notify the worker of a partition that has work. Called after the commit. Returns at once."""
        self.notify_all((partition,))

    def notify_all(self, partitions: Iterable[int]) -> None:
        """
        Notify the workers of partitions that have work. Called after the commit, because a drain reads only once.

        Returns at once. Notifications of one partition that are not sent yet are sent as one.
        """
        with self._changed:
            self._partitions.update(partitions)
            self._wake_sender()

    def announce(self, request_ids: Iterable[uuid.UUID]) -> None:
        """Announce decided requests to the clients that wait for them. Called after the commit. Returns at once."""
        with self._changed:
            self._decided.extend(request_ids)
            if len(self._decided) > ANNOUNCEMENTS_MAX:
                del self._decided[:-ANNOUNCEMENTS_MAX]
            self._wake_sender()

    def notify_couriers(self) -> None:
        """Notify the couriers that rows are due. Called after the commit. Returns at once."""
        with self._changed:
            self._couriers_needed = True
            self._wake_sender()

    def announce_ownership(self) -> None:
        """Notify the other workers that partitions are free. Called after the commit. Returns at once."""
        with self._changed:
            self._ownership_changed = True
            self._wake_sender()

    def acknowledge(self, partitions: Iterable[int]) -> None:
        """
        Let the next commit of each partition notify again. Called before the drain reads their inboxes.

        Afterwards, a commit between the read and the acknowledgement would be taken for one that was read. Waits for
        at most TIMEOUT_SECONDS, and not at all while Redis is unavailable: then the sweep finds the next commit.
        """
        if self.is_unavailable or (self._check is not None and self._check.condition is not None):
            return
        if not self._attempt(lambda: self._client.delete(*map(self._find_names().marker, partitions))):
            with self._changed:
                self._must_probe = True
                self._wake_sender()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all notifications are sent, or have failed. Returns False if the time is over before."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._busy or self._has_work()), timeout_seconds)

    def close(self) -> None:
        """Send the remaining notifications within CLOSE_TIMEOUT_SECONDS, and close the connections."""
        self.flush(CLOSE_TIMEOUT_SECONDS)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._client.close()

    # ---------------------------------------------------------------- the sending thread

    def _wake_sender(self) -> None:
        """Start or wake the thread. The caller holds the lock."""
        if self._closing or not self._has_work():
            return
        if self._thread is None or not self._thread.is_alive():  # a fork copies no threads
            self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
            self._thread.start()
        if not self._busy:  # else it reads the queues after this round
            self._changed.notify_all()

    def _has_work(self) -> bool:
        return bool(
            self._partitions
            or self._decided
            or self._ownership_changed
            or self._couriers_needed
            or self._must_probe
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(
                    lambda: self._closing or self._has_work(), PROBE_SECONDS if self.is_unavailable else None
                )
                if self._closing:
                    return
                self._busy = True
                partitions, self._partitions = sorted(self._partitions), set()
                decided, self._decided = self._decided, []
                ownership_changed, self._ownership_changed = self._ownership_changed, False
                couriers_needed, self._couriers_needed = self._couriers_needed, False
                self._must_probe = False
            self._attempt(lambda: self._send(partitions, decided, ownership_changed, couriers_needed))  # noqa: B023 - called at once
            time.sleep(REST_SECONDS)

    def _send(
        self,
        partitions: list[int],
        decided: list[uuid.UUID],
        ownership_changed: bool,
        couriers_needed: bool,
    ) -> None:
        names = self._find_names()
        # Messages without a queue come first: a Redis without memory refuses the others alone.
        if decided:
            ids = b"".join(request_id.bytes for request_id in decided)
            self._client.publish(names.channel("decided"), ids)
        if ownership_changed:
            self._client.publish(names.channel("wake"), OWNERSHIP_CHANGED)
        if couriers_needed:
            self._client.publish(names.channel("couriers"), b"due")
        if partitions:
            keys: list[str] = []
            arguments: list[Any] = [MARKER_TTL_MS, MESSAGES_WAITING_MAX, names.channel("wake")]
            for partition in partitions:
                queue = queue_name(partition)
                message_id, message = _message(queue, partition)
                keys += [names.marker(partition), names.waiting(partition), names.messages(partition)]
                arguments += [queue, message_id, message]
            self._notify_script(keys, arguments)
        elif self.is_unavailable:
            self._probe(names)

    def _attempt(self, act: Callable[[], Any]) -> bool:
        """
        Run an act of Redis. Returns False for a fault, which is counted; the first of an outage is logged.

        A database that does not show the names of the installation is a fault, too.
        """
        try:
            act()
        except (redis.RedisError, OSError, TellerError) as fault:
            self.faults += 1
            if not self.is_unavailable:
                self.is_unavailable = True
                log.warning("doorbell_fault", condition=condition_of(fault), fault=str(fault))
            return False
        if self.is_unavailable:
            self._available_since = time.monotonic()
            self.is_unavailable = False
            log.info("doorbell_available", faults=self.faults)
        return True


def _message(queue: str, partition: int) -> tuple[str, bytes]:
    """Return the key and the text of a Dramatiq message that calls `drain(partition)`, as its JSONEncoder writes."""
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
