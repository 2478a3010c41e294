"""
Ids: UUIDs of version 7.

The id of a request carries the time of its acceptance, by the clock of the database. Requests that are sorted by id
are therefore sorted by (`created_at`, `id`), from however many hosts they come.
"""

import secrets
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Final

#: Bits of a UUIDv7 below its millisecond: 12 of sub-millisecond time, 62 random ones (RFC 9562, 6.2, method 3).
SUB_MILLISECOND_STEPS = 4096

NANOSECONDS_PER_MILLISECOND = 1_000_000


#: The highest two bits of the last eight bytes, which are 10 in each UUID, as a signed number.
_VARIANT: Final = -(1 << 63)
#: The random bits of the last eight bytes of a request's id. Those above them are its place in its group.
_RANDOM_BITS: Final = 46
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


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


def new_tails(count: int) -> list[int]:
    """
    Return the last eight bytes of the ids of a group of requests, as signed numbers that rise with the place.

    `accept_requests` makes the ids of them, and accepted_id makes the same ids. `count` is at most 65,536.
    """
    return [_VARIANT | place << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS) for place in range(count)]


def accepted_id(accepted_at: datetime, tail: int) -> uuid.UUID:
    """
    Return the id of a request that was accepted at this time. A later microsecond has a greater id.
    """
    return uuid.UUID(int=_head(accepted_at) << 64 | tail & (1 << 64) - 1)


def first_id_at(moment: datetime) -> uuid.UUID:
    """
    Return the bound between the ids of requests that were accepted before this time, and those from then on.

    Times that no id can have are taken as the nearest that it can.
    """
    return uuid.UUID(int=_head(max(moment, _EPOCH)) << 64)


def time_of(made: uuid.UUID) -> datetime:
    """
    Return the time that an id carries, to the millisecond.
    """
    return datetime.fromtimestamp((made.int >> 80) / 1_000, UTC)


def _head(moment: datetime) -> int:
    millisecond, microsecond = divmod((moment - _EPOCH) // _MICROSECOND, 1000)
    return millisecond << 16 | 0x7 << 12 | microsecond * SUB_MILLISECOND_STEPS // 1000
