"""
Whether workers and couriers do their jobs, as the database shows it.

A process that is suspended, dead or stuck cannot report itself, but its work grows old. All times are of the
database's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from processor.cluster import alarms
from processor.storage import connections, statements

if TYPE_CHECKING:
    from processor.storage.connections import Connection

#: A partition without a worker with a valid lease counts as unowned after this time. A takeover is faster.
UNOWNED_SECONDS: Final = 10.0
#: The age of work that counts as undecided, unless its partition is paused.
UNDECIDED_SECONDS: Final = 10.0
#: Effects and deliveries that have been due for longer are overdue.
OVERDUE_SECONDS: Final = 60.0
#: The limit of the count of overdue effects.
OVERDUE_MAX: Final = 10_000
#: The limits of the other counts.
BACKLOG_MAX: Final = 100_000
FAILED_MAX: Final = 10_000
#: The clients or webhooks with waiting rows that are looked at, in each table.
TURNS_MAX: Final = 1_000

SQL = statements.beside(__file__)


class RowCounts(NamedTuple):
    """Counts whose cost grows with the rows, up to a limit."""

    #: Rows of the inbox, up to BACKLOG_MAX.
    backlog: int
    #: Deliveries to present webhooks that failed for good, up to FAILED_MAX.
    deliveries_failed: int


@dataclass(frozen=True, slots=True)
class Health:
    """The state of all partitions and of the outbox, at one time."""

    paused: int
    #: Partitions without a worker for UNOWNED_SECONDS.
    unowned: int
    #: Partitions that are not paused and have work older than UNDECIDED_SECONDS.
    undecided: int
    #: Age of the oldest work, also in paused partitions; 0 if there is none.
    oldest_seconds: float
    #: The requests that all partitions have decided, ever.
    decided: int
    #: Effects that have been due for OVERDUE_SECONDS, up to OVERDUE_MAX.
    effects_overdue: int
    #: Whether a delivery or a code has been due for as long.
    has_overdue_deliveries: bool
    #: The codes of the alarms that workers raised.
    alarms: list[str]
    #: Webhooks whose last tries failed, up to FAILED_MAX.
    webhooks_failing: int
    #: The calls in a row without a definite answer, by gateway, from three on and while calls are due.
    unanswered: dict[str, int]

    @property
    def causes(self) -> list[str]:
        """The names of the failing parts."""
        found = {
            "unowned": self.unowned,
            "undecided": self.undecided,
            "couriers": self.effects_overdue or self.has_overdue_deliveries,
        }
        return [name for name, holds in found.items() if holds] + self.alarms

    @property
    def attention(self) -> list[str]:
        """The names of states that an operator should know, while Teller itself works."""
        found = {"paused": self.paused, "webhooks": self.webhooks_failing, "gateways": self.unanswered}
        return [name for name, holds in found.items() if holds]


def read_health(connection: Connection) -> Health:
    """
    Read the health of all partitions, workers and couriers. Raises DatabaseUnavailable.
    """
    paused, unowned, undecided, oldest_seconds, decided = _one(
        connection, "read_partitions", unowned_seconds=UNOWNED_SECONDS, undecided_seconds=UNDECIDED_SECONDS
    )
    [effects] = _one(
        connection,
        "count_overdue_effects",
        overdue_seconds=OVERDUE_SECONDS,
        turns=TURNS_MAX,
        most=OVERDUE_MAX,
    )
    [deliveries] = _one(
        connection, "has_overdue_deliveries", overdue_seconds=OVERDUE_SECONDS, turns=TURNS_MAX
    )
    failing, unanswered = _one(connection, "read_attention", most=FAILED_MAX, turns=TURNS_MAX)
    return Health(
        paused,
        unowned,
        undecided,
        oldest_seconds,
        decided,
        effects,
        deliveries,
        alarms.current(connection),
        failing,
        unanswered,
    )


def count_rows(connection: Connection) -> RowCounts:
    """
    Count the rows of the inbox and the failed deliveries. Raises DatabaseUnavailable.
    """
    return RowCounts(
        *_one(connection, "count_rows", backlog_max=BACKLOG_MAX, failed_max=FAILED_MAX, turns=TURNS_MAX)
    )


def _one(connection: Connection, name: str, **parameters: Any) -> tuple[Any, ...]:
    with connections.faults():
        [row] = connection.execute(SQL[name], parameters).fetchall()
    return row
