"""
Reservations in the tests of the store: their commands, and the end of their time.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from processor.clients.keys import Caller
from processor.operations import reservations
from processor.operations.reservations import NotHeld
from processor.storage import connections

if TYPE_CHECKING:
    from tests.store.store import Store


SHOP: Final = Caller(uuid.UUID(int=3), "shop", "till", "client")


def lapse(store: Store, request: uuid.UUID, seconds: float = 0.0) -> None:
    """Let the time of a reservation be over, or move its end."""
    store.owner.execute(
        "UPDATE reservations SET expires_at = clock_timestamp() + %s * interval '1 second' WHERE request_id = %s",
        (seconds, request),
    )


def command(store: Store, verb: str, request: uuid.UUID) -> bool:
    """Capture or release as the API does. Returns whether the command was accepted."""
    with connections.connect(store.database.api_url, application_name="test api") as connection:
        try:
            getattr(reservations, verb)(connection, request, SHOP)
        except NotHeld:
            return False
    return True


def quantities(store: Store, resource: str) -> tuple[int, int]:
    """Return the available and the held quantity."""
    [row] = store.owner.execute("SELECT available, held FROM resources WHERE id = %s", (resource,)).fetchall()
    return row
