"""
Commands on a request that exists already: cancel, confirm, approve, deny, settle, replay.
"""

from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from processor.archive.lookup import missing
from processor.domain.model import Verb
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)


class Recorded(NamedTuple):
    """A command in the inbox."""

    #: The home partition of the request. The caller notifies its worker.
    partition: int
    #: False: the inbox had this command already, and keeps the first.
    is_new: bool


def record_command(
    connection: Connection, request_id: UUID, verb: Verb, actor: str, payload: dict[str, Any] | None = None
) -> Recorded:
    """
    Put a command into the inbox of the request's home partition, which decides it in its turn.

    Raises RequestNotFound, Archived, DatabaseUnavailable.
    """
    parameters = {
        "request_id": request_id,
        "verb": verb,
        "payload": Jsonb((payload or {}) | {"actor": actor}),
    }
    with connections.faults():
        row = connection.execute(SQL["record_command"], parameters).fetchone()
    if row is None:
        raise missing(connection, request_id, None)
    return Recorded(*row)
