"""
The requests of the last hour, day and week, by what became of them.

The time is cut into parts, and the first requests of each part are read. A part that has more is estimated by the
time that those requests span. So few requests are counted exactly, and many are estimated at the same cost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from processor.ids import first_id_at
from processor.storage import connections, statements

if TYPE_CHECKING:
    from processor.storage.connections import Connection

#: The periods that are shown, and their names.
PERIODS: Final = (("hour", timedelta(hours=1)), ("day", timedelta(days=1)), ("week", timedelta(days=7)))
#: The parts of a period, and the requests of each that are read.
PARTS: Final = 50
SAMPLE: Final = 100

SQL = statements.beside(__file__)


class _Part(NamedTuple):
    """The sample of a part of a period."""

    by_status: Counter[str]
    last: UUID


@dataclass(frozen=True, slots=True)
class Activity:
    """The requests that were accepted since a time, by their status now."""

    name: str
    since: datetime
    seconds: float
    by_status: dict[str, int]
    #: Whether the counts are estimates.
    is_estimated: bool

    @property
    def accepted(self) -> int:
        """The number of all of them."""
        return sum(self.by_status.values())

    @property
    def per_second(self) -> float:
        """The mean rate of the period."""
        return self.accepted / self.seconds


def read_activity(connection: Connection, now: datetime) -> list[Activity]:
    """
    Read the counts of each period before `now`. Raises DatabaseUnavailable.
    """
    return [_read(connection, name, now, length) for name, length in PERIODS]


def _read(connection: Connection, name: str, now: datetime, length: timedelta) -> Activity:
    since = now - length
    bounds = [first_id_at(since + length * place / PARTS) for place in range(PARTS)]
    bounds.append(first_id_at(now + timedelta(minutes=1)))  # also those of a clock that is a little ahead
    parameters = {"lowers": bounds[:-1], "uppers": bounds[1:], "limit": SAMPLE}
    parts: dict[int, _Part] = {}
    with connections.faults():
        for place, status, count, last in connection.execute(SQL["sample"], parameters).fetchall():
            part = parts.setdefault(place - 1, _Part(Counter(), UUID(int=0)))
            part.by_status[status] += count
            parts[place - 1] = part._replace(last=max(part.last, UUID(last)))
    total: Counter[str] = Counter()
    is_estimated = False
    for place, part in parts.items():
        factor = 1.0
        if part.by_status.total() >= SAMPLE:
            is_estimated = True
            begin = since + length * place / PARTS
            spanned = max((_time_of(part.last) - begin).total_seconds(), 0.001)
            factor = max(1.0, length.total_seconds() / PARTS / spanned)
        for status, count in part.by_status.items():
            total[status] += round(count * factor)
    return Activity(name, since, length.total_seconds(), dict(total), is_estimated)


def _time_of(request_id: UUID) -> datetime:
    """
    Return the time of acceptance that an id carries, to the millisecond.
    """
    return datetime.fromtimestamp((request_id.int >> 80) / 1_000, UTC)
