"""
Pause and resume partitions.

A paused partition accepts requests and decides none.
"""

from processor.clients.keys import Caller
from processor.errors import TellerError
from processor.records import audit
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)


class PartitionNotFound(TellerError):
    """No partition has this number."""

    code = "not_found"


def pause(connection: Connection, partition: int, by: Caller, reason: str | None = None) -> bool:
    """
    Pause a partition until `resume`.

    Waits for the partition's lock, so no batch of it runs when this returns. Returns False if it was paused already.
    Raises PartitionNotFound, DatabaseUnavailable.
    """
    lock = {"lock_class": connections.LOCK_CLASS, "partition": partition}
    with connections.faults(), connection.transaction():
        _require(connection, partition)
        connection.execute(SQL["lock_partition"], lock)
        parameters = {"partition": partition, "actor": by.actor}
        is_new = connection.execute(SQL["pause"], parameters).rowcount == 1
        if is_new:
            audit.note(connection, by.actor, "partition_paused", None, reason, {"partition": partition})
    return is_new


def resume(connection: Connection, partition: int, by: Caller, reason: str | None = None) -> bool:
    """
    Resume a partition. The caller then notifies its worker.

    Returns False if it was not paused. Raises PartitionNotFound, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        _require(connection, partition)
        was_paused = connection.execute(SQL["resume"], {"partition": partition}).rowcount == 1
        if was_paused:
            audit.note(connection, by.actor, "partition_resumed", None, reason, {"partition": partition})
    return was_paused


def _require(connection: Connection, partition: int) -> None:
    """Raises PartitionNotFound if no partition has this number."""
    if connection.execute(SQL["partition_exists"], {"partition": partition}).fetchall() != [(True,)]:
        raise PartitionNotFound(f"there is no partition {partition}")
