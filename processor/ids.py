"""
Request ids: UUIDs of version 7.
"""

import secrets
import threading
import time
import uuid

#: Bits of a UUIDv7 below its millisecond: 12 of sub-millisecond time, 62 random ones (RFC 9562, 6.2, method 3).
SUB_MILLISECOND_STEPS = 4096

NANOSECONDS_PER_MILLISECOND = 1_000_000


class _Clock:
    """
    Ticks of 1/4096 millisecond that never repeat or run backwards within a process.
    """

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def tick(self) -> int:
        millisecond, rest = divmod(time.time_ns(), NANOSECONDS_PER_MILLISECOND)
        tick = (
            millisecond * SUB_MILLISECOND_STEPS + rest * SUB_MILLISECOND_STEPS // NANOSECONDS_PER_MILLISECOND
        )
        with self._lock:
            self._last = max(tick, self._last + 1)
            return self._last


_clock = _Clock()


def new_id() -> uuid.UUID:
    """
    Return a UUIDv7 (RFC 9562). Ids sort by the time of their creation, and strictly increase within a process.
    """
    millisecond, fraction = divmod(_clock.tick(), SUB_MILLISECOND_STEPS)
    return uuid.UUID(int=millisecond << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62))
