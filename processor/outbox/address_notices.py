"""
Addresses that an account no longer has, and that are still to be told so, in PostgreSQL.

`accounts.set_email` writes a row together with the change. The courier claims it here, sends a mail
(`workers/courier/address_notices.py`), and records what came of it; then the row is gone.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from processor.outbox.deliveries import PAUSES_SECONDS
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)


class AddressChange(NamedTuple):
    """One mail that is ours to send until the lease runs out. `tries` counts this one, too."""

    id: UUID
    token: UUID
    tries: int
    account: str
    #: The old address: where the mail goes.
    email: str
    #: The new one, so far as the old one may see it; None: there is none any more.
    became: str | None
    changed_at: datetime

    @property
    def message_id(self) -> str:
        """The same over all tries."""
        return f"address_{self.id.hex}"


class Told(NamedTuple):
    """How one try ended: sent, or given up, or (`pause_seconds`) to be tried again."""

    change: AddressChange
    pause_seconds: float | None = None
    error: str | None = None


def claim(connection: Connection, limit: int, lease_seconds: float) -> list[AddressChange]:
    """Take up to `limit` that are due. Raises DatabaseUnavailable."""
    parameters = {"limit": limit, "lease_seconds": lease_seconds}
    with connections.faults():
        return [AddressChange(*row) for row in connection.execute(SQL["claim"], parameters).fetchall()]


def next_due(connection: Connection) -> float | None:
    """In how many seconds the next one is due; None: there is none. Raises DatabaseUnavailable."""
    with connections.faults():
        [(seconds,)] = connection.execute(SQL["next"]).fetchall()
    return None if seconds is None else float(seconds)


def record(connection: Connection, tries: Iterable[Told]) -> None:
    """Write how tries ended, as one statement. Repeating it changes nothing. Raises DatabaseUnavailable."""
    told = list(tries)
    parameters = {
        "ids": [one.change.id for one in told],
        "tokens": [one.change.token for one in told],
        "pauses": [one.pause_seconds for one in told],
    }
    with connections.faults():
        connection.execute(SQL["record"], parameters)


def failed(change: AddressChange, error: str, *, for_good: bool = False) -> Told:
    """A try that failed: to be tried again after the pause of the schedule, or, after the last, not."""
    if for_good or change.tries > len(PAUSES_SECONDS):
        return Told(change, error=error)
    return Told(change, PAUSES_SECONDS[change.tries - 1], error)
