"""
Checks that Redis carries notifications: that a message can be put into a queue, announced, and taken again.

A subscription can stand while Redis refuses all of that, as without memory or on a replica. So each look does all of
it, with keys of its own.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import redis
import structlog

from processor.errors import TellerError
from workers.doorbell import clients
from workers.doorbell.condition import condition_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.doorbell.condition import Condition
    from workers.doorbell.listener import Listener
    from workers.doorbell.names import Names

#: The longest time to connect, or to wait for the answer, in seconds.
TIMEOUT_SECONDS: Final = 1.0
#: The interval between two looks, in seconds.
INTERVAL_SECONDS: Final = 0.25
#: Redis is slow if each of the last LOOKS looks took longer than SLOW_SECONDS. One of them alone may have waited for
#: this process.
LOOKS: Final = 5
SLOW_SECONDS: Final = 0.03
#: The sleep that shows how long this process waits for its turn, in seconds.
LAG_SLEEP_SECONDS: Final = 0.0005
#: The time for which `condition` waits for the first look, in seconds.
FIRST_LOOK_SECONDS: Final = 1.0
#: The expiry of the marker of a look, in milliseconds.
MARKER_TTL_MS: Final = 1_000

# The commands of `Doorbell` and of the consumers of a worker. SET comes first: a Redis without memory refuses only a
# script that has written nothing yet.
_PROBE: Final = """
redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]);
redis.call('HSET', KEYS[3], '1', '1');
redis.call('RPUSH', KEYS[2], '1');
redis.call('LLEN', KEYS[2]);
redis.call('PUBLISH', ARGV[2], '');
redis.call('HGET', KEYS[3], redis.call('LPOP', KEYS[2]));
redis.call('HDEL', KEYS[3], '1');
return redis.call('DEL', KEYS[1]);
"""

log = structlog.get_logger(__name__)


class Probe:
    """Does with a client once all that notifications need."""

    def __init__(self, client: redis.Redis) -> None:
        self._script = client.register_script(_PROBE)

    def __call__(self, names: Names) -> None:
        """Put a message into a queue, announce it, and take it. Raises RedisError, OSError."""
        self._script(names.probe_keys(), [MARKER_TTL_MS, names.channel("probe")])


class RedisCheck:
    """
    Looks at Redis on a thread of its own. `on_change` is called there after each change of the condition.

    A `listener` that has no subscription is a fault as well.
    """

    def __init__(
        self,
        redis_url: str,
        find_names: Callable[[], Names],
        *,
        listener: Listener | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = clients.connect(redis_url, timeout_seconds=TIMEOUT_SECONDS, retries=1)
        self._probe = Probe(self._client)
        self._find_names = find_names
        self._listener = listener
        self._on_change = on_change
        self._seconds: deque[float] = deque(maxlen=LOOKS)
        self._condition: Condition | None = None
        #: The end of the last outage, in monotonic seconds.
        self._works_since = -math.inf
        self._has_looked = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis check", daemon=True)

    @property
    def condition(self) -> Condition | None:
        """The fault that the last look found, or None."""
        return self._condition

    def has_worked_for(self, seconds: float) -> bool:
        """Return whether no look has found a fault for this time."""
        return self._condition is None and time.monotonic() - self._works_since > seconds

    def first_condition(self) -> Condition | None:
        """Return the fault that the last look found. Waits for the first one, for up to FIRST_LOOK_SECONDS."""
        self._has_looked.wait(FIRST_LOOK_SECONDS)
        return self._condition

    def start(self) -> None:
        """Start the thread, after any fork. Redis may be unavailable."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Waits for at most TIMEOUT_SECONDS."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_SECONDS)
        self._client.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._note(self.look())
            except Exception:
                log.exception("redis_check_fault")
            self._has_looked.set()
            self._stopping.wait(INTERVAL_SECONDS)

    def look(self) -> Condition | None:
        """Look once. Returns the fault. While the names are unknown, Redis must only answer."""
        try:
            names = self._find_names()
        except TellerError:
            names = None
        began = time.perf_counter()
        try:
            if names is None:
                self._client.ping()
            else:
                self._probe(names)
        except (redis.RedisError, OSError) as fault:
            self._seconds.clear()
            return condition_of(fault)
        took = time.perf_counter() - began
        self._seconds.append(took - _lag_seconds())
        if len(self._seconds) == LOOKS and min(self._seconds) > SLOW_SECONDS:
            return "slow"
        if self._listener is not None:
            if self._listener.broken:
                return self._listener.condition
            self._listener.follow()
        return None

    def _note(self, condition: Condition | None) -> None:
        before, self._condition = self._condition, condition
        if before is not None and condition is None:
            self._works_since = time.monotonic()
        if before != condition:
            self._on_change()


def _lag_seconds() -> float:
    """Return how much too late a sleep ends: other threads have the interpreter, or the processor."""
    began = time.perf_counter()
    time.sleep(LAG_SLEEP_SECONDS)
    return time.perf_counter() - began - LAG_SLEEP_SECONDS
