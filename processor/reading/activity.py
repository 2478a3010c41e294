"""
The requests of the last hour, day and week, by their status now.

Only the newest requests are counted, so the cost does not grow with their number. A period that reaches further back
has at least as many, and its rate is that of the requests that were counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from processor.domain.roles import LAB_CLIENT
from processor.ids import first_id_at, time_of
from processor.storage import connections, statements

if TYPE_CHECKING:
    from processor.storage.connections import Connection

#: The periods, the longest first.
PERIODS: Final = (("week", timedelta(days=7)), ("day", timedelta(days=1)), ("hour", timedelta(hours=1)))
#: The newest requests that are counted.
COUNTED_MAX: Final = 20_000

SQL = statements.beside(__file__)


@dataclass(frozen=True, slots=True)
class Activity:
    """The requests that were accepted since a time, by their status now, without those of the race lab."""

    name: str
    since: datetime
    by_status: dict[str, int]
    #: Whether there are more: the counts are those of the newest COUNTED_MAX.
    is_cut: bool
    #: The time that the counted requests span.
    seconds: float

    @property
    def accepted(self) -> int:
        """The number of all of them."""
        return sum(self.by_status.values())

    @property
    def per_second(self) -> float:
        """The mean rate."""
        return self.accepted / max(self.seconds, 0.001)


def read_activity(connection: Connection, now: datetime) -> list[Activity]:
    """
    Read the counts of each period before `now`, the shortest first. Raises DatabaseUnavailable.
    """
    bounds = {name: first_id_at(now - length) for name, length in PERIODS}
    parameters = {**bounds, "most": COUNTED_MAX, "without": LAB_CLIENT}
    with connections.faults():
        rows = connection.execute(SQL["count_newest"], parameters).fetchall()
    is_full = sum(row[1] for row in rows) >= COUNTED_MAX
    oldest = min((UUID(row[4]) for row in rows), default=None)
    found = []
    for place, (name, length) in enumerate(PERIODS, 1):
        is_cut = is_full and oldest is not None and oldest >= bounds[name]
        since = time_of(oldest) if is_cut and oldest is not None else now - length
        counts = {row[0]: row[place] for row in rows if row[place]}
        found.append(Activity(name, now - length, counts, is_cut, (now - since).total_seconds()))
    return found[::-1]
