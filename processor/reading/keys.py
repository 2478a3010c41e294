"""
Keys as the console shows them: without their secrets, a page at a time, and what hangs on each.

Making and revoking them is in `keys.py`.
"""

from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from processor.clients.keys import Key, Role
from processor.records.pages import Page, page, read_cursor
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: What hangs on a key is counted up to here.
COUNTED_MAX: Final = 100
#: Clients to choose from.
CLIENTS_MAX: Final = 200

KeyState = Literal["valid", "expired", "revoked"]

SQL = statements.beside(__file__)


class Beside(NamedTuple):
    """What hangs on a key; each counted up to COUNTED_MAX."""

    #: Other valid keys of its client, and other valid keys of admins.
    of_client: int
    of_admins: int
    #: Who is signed in at the console with it.
    sessions: int


def list_keys(
    connection: Connection,
    client: str | None,
    role: Role | None,
    state: KeyState | None,
    limit: int,
    cursor: str | None,
) -> Page[Key]:
    """Keys that were ever made, newest first. Raises CursorInvalid, DatabaseUnavailable."""
    [before] = read_cursor(cursor, UUID)
    parameters: dict[str, Any] = {"client": client, "role": role, "before": before}
    # Only the conditions that are asked for, so that each has the plan that its index gives it.
    filters = [SQL[f"filter_{name}"] for name, value in parameters.items() if value is not None]
    filters += [] if state is None else [SQL[f"filter_{state}"]]
    statement = SQL["list_keys"].replace("{filters}", " AND ".join(filters) or "true")
    with connections.faults():
        rows = connection.execute(statement, parameters | {"limit": limit + 1}).fetchall()
    return page([Key(*row) for row in rows], limit, lambda key: (str(key.id),))


def read_key(connection: Connection, key_id: UUID) -> Key | None:
    """One of them. Raises DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_key"], {"id": key_id}).fetchone()
    return None if row is None else Key(*row)


def read_beside(connection: Connection, key: Key) -> Beside:
    """What hangs on it. Raises DatabaseUnavailable."""
    parameters = {"id": key.id, "client": key.client, "most": COUNTED_MAX}
    with connections.faults():
        [row] = connection.execute(SQL["count_others"], parameters).fetchall()
    return Beside(*row)


def find_clients(connection: Connection) -> list[str]:
    """The newest clients, to choose from. Raises DatabaseUnavailable."""
    with connections.faults():
        rows = connection.execute(SQL["find_clients"], {"limit": CLIENTS_MAX}).fetchall()
    return [client for (client,) in rows]


def is_client(connection: Connection, client: str) -> bool:
    """Whether there is one of this id. Raises DatabaseUnavailable."""
    with connections.faults():
        return connection.execute(SQL["find_client"], {"id": client}).fetchone() is not None
