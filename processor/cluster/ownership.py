"""
Partitions: which worker owns each, and which of them have work.

Ownership is a matter of speed (one worker's consumer takes a partition's doorbells); what keeps batches apart
is the advisory lock. Everything here writes `workers` and `ownership`, never what a batch locks. The functions
take the caller's connection (in autocommit) and raise DatabaseUnavailable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from processor.storage import connections, statements

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from processor.storage.connections import Connection

#: How long a worker may be silent before its partitions are free to others. The promise is 5 s: to see that a lease
#: ran out, and to claim, takes a beat, and longer on a busy machine.
LEASE_TTL_SECONDS: Final = 3
#: Rows of workers that are silent for longer are deleted: long enough to be seen by whoever looks for them.
BURIED_AFTER_SECONDS: Final = 3_600

SQL = statements.beside(__file__)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker learns when it renews its lease."""

    #: False: the lease had run out, and nothing was renewed. All it owned may be another's by now.
    renewed: bool
    #: Workers that live, itself included.
    living: int
    owned: frozenset[int]
    #: How many partitions no living worker owns.
    free: int
    #: Seconds until the first lease of another worker runs out; None without others.
    next_expiry_seconds: float | None


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A partition as an operator sees it."""

    id: int
    #: `host:pid` of the living worker that drains it.
    owner: str | None
    #: Inbox rows that wait.
    backlog: int
    #: Age of the oldest of them; None when none waits.
    oldest_seconds: float | None
    paused: bool


def join(connection: Connection, worker: UUID, host: str, pid: int) -> None:
    """Begin to live, under an id never used before."""
    _run(connection, "join", worker=worker, host=host, pid=pid, lease_seconds=LEASE_TTL_SECONDS)


def heartbeat(connection: Connection, worker: UUID) -> Heartbeat:
    """Renew the lease of a worker that lives; one whose lease ran out must `join` anew, under another id."""
    [(renewed, living, owned, free, next_expiry)] = _run(
        connection, "heartbeat", worker=worker, lease_seconds=LEASE_TTL_SECONDS
    )
    return Heartbeat(renewed, living, frozenset(owned), free, next_expiry)


def claim(connection: Connection, worker: UUID, most: int) -> frozenset[int]:
    """
    Take up to `most` partitions that are free or whose owner's lease ran out. The owner that fell silent
    may sit on the lock of a batch, so its backends there are ended first, before the caller drains.
    """
    claimed = dict(_run(connection, "claim", worker=worker, most=most))
    run_out = [partition for partition, was_owned in claimed.items() if was_owned]
    if run_out:
        _run(connection, "end_holders", partitions=run_out, lock_class=connections.LOCK_CLASS)
        _run(connection, "bury", after_seconds=BURIED_AFTER_SECONDS)
    return frozenset(claimed)


def release(connection: Connection, worker: UUID, partitions: Collection[int]) -> None:
    """Give back some partitions, between two batches."""
    _run(connection, "release", worker=worker, partitions=list(partitions))


def leave(connection: Connection, worker: UUID) -> frozenset[int]:
    """Give back everything and live no more; returns what was owned."""
    return frozenset(partition for (partition,) in _run(connection, "leave", worker=worker))


def forget(connection: Connection, host: str, pids: Collection[int]) -> None:
    """
    Free what worker processes own that have ended without a word. One that lives after all loses its lease by this,
    and no more: it begins anew under another id.
    """
    _run(connection, "forget", host=host, pids=list(pids))


def presence(connection: Connection, host: str) -> tuple[int, frozenset[int]]:
    """How many partitions no living worker owns, and the process ids of the workers of `host` that live."""
    [(free, pids)] = _run(connection, "presence", host=host)
    return free, frozenset(pids)


def waiting(connection: Connection, partitions: Collection[int]) -> list[int]:
    """Which of these have work that may be decided now."""
    return [partition for (partition,) in _run(connection, "waiting", partitions=list(partitions))]


def neglected(connection: Connection, partitions: Collection[int], older_than_seconds: float) -> list[int]:
    """
    Those among them with work older than that and no batch for as long, the longest waiting first.
    """
    rows = _run(connection, "neglected", partitions=list(partitions), older_than_seconds=older_than_seconds)
    return [partition for (partition,) in rows]


def list_partitions(connection: Connection) -> list[PartitionStatus]:
    """All of them, in order."""
    return [
        PartitionStatus(number, None if host is None else f"{host}:{pid}", backlog, oldest_seconds, paused)
        for number, host, pid, backlog, oldest_seconds, paused in _run(connection, "list")
    ]


def _run(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connections.faults():
        cursor = connection.execute(SQL[name], parameters)
        return cursor.fetchall() if cursor.description else []
