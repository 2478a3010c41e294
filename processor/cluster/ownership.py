"""
Partitions: which worker owns each, and which of them have work.

Ownership decides only speed: the consumer of one worker takes the doorbells of a partition. The advisory lock keeps
batches apart. This module writes `workers` and `ownership`, and no row that a batch locks. The functions take the
caller's connection (in autocommit) and raise DatabaseUnavailable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from processor.cluster import alarms
from processor.storage import connections, statements

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from processor.storage.connections import Connection

#: Seconds after its last heartbeat until a worker loses its partitions. A takeover is promised within 5 s, and takes
#: one more heartbeat, or longer on a busy machine.
LEASE_TTL_SECONDS: Final = 3
#: Seconds after which the row of an expired worker is deleted: operators can look at it until then.
EXPIRED_ROWS_SECONDS: Final = 3_600

SQL = statements.beside(__file__)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """
    The answer to a heartbeat: the state of the worker's lease, and of all partitions.
    """

    #: False if the lease had expired and was not renewed. Other workers may own its partitions now.
    renewed: bool
    #: Workers with a valid lease, this one included.
    workers: int
    owned: frozenset[int]
    #: Partitions that no worker with a valid lease owns.
    free: int
    #: Seconds until the first lease of another worker expires; None if there is no other worker.
    next_expiry_seconds: float | None


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """
    A partition as operators see it.
    """

    id: int
    #: `host:pid` of the worker that drains it, while its lease is valid.
    owner: str | None
    #: Rows in the inbox.
    backlog: int
    #: Age of the oldest row; None if there is none.
    oldest_seconds: float | None
    paused: bool
    #: The backend of another role that holds a lock against its batches.
    locked_by: str | None


def join(connection: Connection, worker: UUID, host: str, pid: int) -> None:
    """
    Register a worker, under an id that was never used before.
    """
    _run(connection, "join", worker=worker, host=host, pid=pid, lease_seconds=LEASE_TTL_SECONDS)


def heartbeat(connection: Connection, worker: UUID) -> Heartbeat:
    """
    Renew the lease of a worker. A worker whose lease has expired must `join` again, under another id.
    """
    [(renewed, workers, owned, free, next_expiry)] = _run(
        connection, "heartbeat", worker=worker, lease_seconds=LEASE_TTL_SECONDS
    )
    return Heartbeat(renewed, workers, frozenset(owned), free, next_expiry)


def claim(connection: Connection, worker: UUID, most: int) -> frozenset[int]:
    """
    Take up to `most` partitions that are free or whose owner's lease has expired. Returns the claimed ones.

    A suspended owner may hold the lock of a batch, so its backends are ended first, before the caller drains.
    """
    claimed = dict(_run(connection, "claim", worker=worker, most=most))
    expired = [partition for partition, was_owned in claimed.items() if was_owned]
    if expired:
        _run(connection, "end_holders", partitions=expired, lock_class=connections.LOCK_CLASS)
        _run(connection, "delete_expired", after_seconds=EXPIRED_ROWS_SECONDS)
    return frozenset(claimed)


def release(connection: Connection, worker: UUID, partitions: Collection[int]) -> None:
    """
    Give back some partitions, between two batches.
    """
    _run(connection, "release", worker=worker, partitions=list(partitions))


def leave(connection: Connection, worker: UUID) -> frozenset[int]:
    """
    Give back all partitions and remove the worker. Returns the partitions that it owned.
    """
    return frozenset(partition for (partition,) in _run(connection, "leave", worker=worker))


def forget(connection: Connection, host: str, pids: Collection[int]) -> None:
    """
    Remove worker processes that ended without `leave`, which frees their partitions.

    A process that still runs loses only its lease by this: it joins again under another id.
    """
    _run(connection, "forget", host=host, pids=list(pids))


def presence(connection: Connection, host: str) -> tuple[int, frozenset[int]]:
    """
    Return the number of partitions that no running worker owns, and the process ids of the running workers of `host`.

    A worker counts as running while its lease is valid.
    """
    [(free, pids)] = _run(connection, "presence", host=host)
    return free, frozenset(pids)


def hidden(connection: Connection, partitions: Collection[int]) -> list[int]:
    """
    Return those of the given partitions that have rows below their low-water mark: no batch will decide these.
    """
    return [partition for (partition,) in _run(connection, "hidden", partitions=list(partitions))]


def neglected(
    connection: Connection, partitions: Collection[int], older_than_seconds: float
) -> tuple[list[int], set[int]]:
    """
    Return those of the given partitions whose oldest work is older, and that had no batch for as long. The partition
    with the oldest work comes first. Paused partitions are not among them, and are returned as a set beside them.
    """
    rows = _run(connection, "neglected", partitions=list(partitions), older_than_seconds=older_than_seconds)
    paused = {partition for partition, is_paused in rows if is_paused}
    return [partition for partition, is_paused in rows if not is_paused], paused


def list_partitions(connection: Connection) -> list[PartitionStatus]:
    """
    Return all partitions, in order.
    """
    return [
        PartitionStatus(
            number, None if host is None else f"{host}:{pid}", backlog, oldest_seconds, paused, locked_by
        )
        for number, host, pid, backlog, oldest_seconds, paused, locked_by in _run(
            connection, "list", fresh_seconds=alarms.FRESH_SECONDS
        )
    ]


def _run(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connections.faults():
        cursor = connection.execute(SQL[name], parameters)
        return cursor.fetchall() if cursor.description else []
