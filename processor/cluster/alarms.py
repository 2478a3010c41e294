"""
Alarms: reasons why workers do not work. A Redis may carry no notifications, and a role that was taken over may do
what PostgreSQL cannot refuse.

A worker looks for it and writes the alarm. `/readyz` and the list of partitions name it.
"""

from typing import Any, Final, NamedTuple

from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The time after which an alarm about locks is over, unless it was seen again.
FRESH_SECONDS: Final = 10
#: The time after which an alarm about Redis is over. A worker raises it more often.
REDIS_FRESH_SECONDS: Final = 3
#: The time for which a worker may wait for a lock before the holder is looked up: less than its lock timeout.
WAITED_SECONDS: Final = 0.2
#: Rows that one look deletes.
DELETE_LIMIT: Final = 1_000

SQL = statements.beside(__file__)


class Blocker(NamedTuple):
    """A backend of another role that keeps a worker from working."""

    #: Its process id; 0: a prepared transaction.
    pid: int
    role: str
    application: str
    #: The partitions whose lock it holds. None among them: a worker waits for another lock of it.
    partitions: tuple[int | None, ...]

    def __str__(self) -> str:
        name = f" ({self.application})" if self.application else ""
        return f"{self.role}{name}, process {self.pid}"


def blockers(connection: Connection) -> list[Blocker]:
    """
    Return the backends of other roles that hold the lock of a partition, or that a worker waits for now.

    The roles of the caller and of the workers are the same. Raises DatabaseUnavailable.
    """
    parameters = {"lock_class": connections.LOCK_CLASS, "waited_seconds": WAITED_SECONDS}
    return [
        Blocker(pid, role, application, tuple(partitions))
        for pid, role, application, partitions in _run(connection, "blockers", parameters)
    ]


def note_locked(connection: Connection, blocker: Blocker) -> None:
    """Raise the alarm about a backend that was seen twice. Raises DatabaseUnavailable."""
    parameters = {"detail": str(blocker), "partitions": list(blocker.partitions)}
    _run(connection, "note_locked", parameters)


def note_redis(connection: Connection, detail: str) -> None:
    """Raise the alarm that this worker gets no notifications. Raises DatabaseUnavailable."""
    _run(connection, "note_redis", {"detail": detail})


def delete_nowhere(connection: Connection) -> int:
    """
    Delete inbox rows in partitions that do not exist, and raise the alarm. Returns their number.

    Raises DatabaseUnavailable.
    """
    [(rows,)] = _run(connection, "delete_nowhere", {"limit": DELETE_LIMIT})
    return int(rows)


def current(connection: Connection) -> list[str]:
    """Return the codes of the alarms that are not over. Raises DatabaseUnavailable."""
    parameters = {"fresh_seconds": FRESH_SECONDS, "redis_seconds": REDIS_FRESH_SECONDS}
    return [code for (code,) in _run(connection, "current", parameters)]


def _run(connection: Connection, name: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connections.faults():
        cursor = connection.execute(SQL[name], parameters)
        return cursor.fetchall() if cursor.description else []
