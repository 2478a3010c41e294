"""
Commands on a request that exists already: cancel, confirm, approve, deny, settle, replay.
"""

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from processor.domain.model import Verb
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)


def record_command(
    connection: Connection, request_id: UUID, verb: Verb, actor: str, payload: dict[str, Any] | None = None
) -> int:
    """
    Put a command on a request (cancel, confirm, replay, …) into the inbox of its home partition,
    which decides what comes of it in its turn. A command given twice counts once.

    Returns the partition to notify. Raises DatabaseUnavailable; LookupError when there is no such request.
    """
    parameters = {
        "request_id": request_id,
        "verb": verb,
        "payload": Jsonb((payload or {}) | {"actor": actor}),
    }
    with connections.faults():
        rows = connection.execute(SQL["record_command"], parameters).fetchall()
    if not rows:
        raise LookupError(f"no request {request_id}")
    partition: int = rows[0][0]
    return partition
