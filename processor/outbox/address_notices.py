"""
Address notices: mails to the address that an account no longer has, about the change.

`accounts.set_email` writes a row in the transaction of the change. The courier claims it here, sends a mail
(`workers/courier/address_notices.py`), and deletes the row when it records the result.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from processor.outbox import tries
from processor.outbox.tries import SendResult
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)


class AddressNotice(NamedTuple):
    """A notice that belongs to this courier until its lease expires. `tries` includes this try."""

    id: UUID
    token: UUID
    tries: int
    account: str
    #: The old address, which receives the mail.
    email: str
    #: The new address, masked. None: the account has no address now.
    became: str | None
    changed_at: datetime

    @property
    def message_id(self) -> str:
        """The id of the message, the same for each try."""
        return f"address_{self.id.hex}"


def claim(connection: Connection, limit: int, lease_seconds: float) -> list[AddressNotice]:
    """Claim at most `limit` notices that are due. Raises DatabaseUnavailable."""
    parameters = {"limit": limit, "lease_seconds": lease_seconds}
    with connections.faults():
        return [AddressNotice(*row) for row in connection.execute(SQL["claim"], parameters).fetchall()]


def next_due(connection: Connection) -> float:
    """Return the seconds until the next notice is due, or infinity. Raises DatabaseUnavailable."""
    return tries.seconds_until_due(connection, SQL["next"])


def record(connection: Connection, results: Sequence[SendResult[AddressNotice]]) -> None:
    """Write results in one statement. To repeat it changes nothing. Raises DatabaseUnavailable."""
    with connections.faults():
        connection.execute(SQL["record"], tries.columns(results))
