"""
Keys: pages of them without their secrets, and the effects of a revocation.

`clients/keys.py` makes and revokes keys.
"""

from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from processor.clients.keys import Key, Role
from processor.records.pages import Page, page, read_cursor
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The limit of each count in Beside.
COUNTED_MAX: Final = 100
#: The limit of a list that asks for none, as that of the command line. Far above the keys of any installation.
KEYS_MAX: Final = 1_000_000
#: Clients that the form for a new key offers.
CLIENTS_MAX: Final = 200

KeyState = Literal["valid", "expired", "revoked"]

SQL = statements.beside(__file__)


class Beside(NamedTuple):
    """The other keys and the sessions that a revocation matters to, each counted up to COUNTED_MAX."""

    #: Other valid keys of its client, and other valid keys of admins.
    of_client: int
    of_admins: int
    #: Sessions of the console that this key began.
    sessions: int


def list_keys(
    connection: Connection,
    *,
    client: str | None = None,
    role: Role | None = None,
    state: KeyState | None = None,
    limit: int = KEYS_MAX,
    cursor: str | None = None,
) -> Page[Key]:
    """
    List keys, newest first. Without `state`, expired and revoked keys are among them.

    Raises CursorInvalid, DatabaseUnavailable.
    """
    [before] = read_cursor(cursor, UUID)
    parameters: dict[str, Any] = {"client": client, "role": role, "before": before}
    # Only the conditions in use, so that the planner picks the index of each.
    filters = [SQL[f"filter_{name}"] for name, value in parameters.items() if value is not None]
    filters += [] if state is None else [SQL[f"filter_{state}"]]
    statement = SQL["list_keys"].replace("{filters}", " AND ".join(filters) or "true")
    with connections.faults():
        rows = connection.execute(statement, parameters | {"limit": limit + 1}).fetchall()
    return page([Key(*row) for row in rows], limit, lambda key: (str(key.id),))


def read_key(connection: Connection, key_id: UUID) -> Key | None:
    """Return a key, or None. Raises DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_key"], {"id": key_id}).fetchone()
    return None if row is None else Key(*row)


def read_beside(connection: Connection, key: Key) -> Beside:
    """Count the other keys and the sessions. Raises DatabaseUnavailable."""
    parameters = {"id": key.id, "client": key.client, "most": COUNTED_MAX}
    with connections.faults():
        [row] = connection.execute(SQL["count_others"], parameters).fetchall()
    return Beside(*row)


def find_clients(connection: Connection) -> list[str]:
    """List the newest clients. Raises DatabaseUnavailable."""
    with connections.faults():
        rows = connection.execute(SQL["find_clients"], {"limit": CLIENTS_MAX}).fetchall()
    return [client for (client,) in rows]


def is_client(connection: Connection, client: str) -> bool:
    """Return whether a client has this id. Raises DatabaseUnavailable."""
    with connections.faults():
        return connection.execute(SQL["find_client"], {"id": client}).fetchone() is not None
