"""
Address notices: mails to the address that an account no longer has, about the change.

`accounts.set_email` writes a row in the transaction of the change. The courier claims it here, sends a mail
(`workers/courier/address_notices.py`), and deletes the row when it records the result.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from processor.outbox import tries
from processor.outbox.tries import DueClient, SendResult
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The notices that one client sends in an hour. The others wait, those to addresses that stood longest first.
NOTICES_PER_HOUR: Final = 300
#: The notices that one client sends to one mailbox in an hour. The others wait.
NOTICES_PER_MAILBOX: Final = 10
#: The notices that all clients together send to one mailbox in an hour.
NOTICES_OF_ALL: Final = 3 * NOTICES_PER_MAILBOX
#: The notices that one client still sends to a mailbox in an hour when all together have reached their limit.
NOTICES_OF_SHARE: Final = 1
#: The notices of one client that one claim reads.
NOTICES_PER_LOOK: Final = 200

_LIMITS: Final = {
    "{notices_per_hour}": NOTICES_PER_HOUR,
    "{notices_per_mailbox}": NOTICES_PER_MAILBOX,
    "{notices_of_all}": NOTICES_OF_ALL,
    "{notices_of_share}": NOTICES_OF_SHARE,
}


def _with_limits(text: str) -> str:
    for name, limit in _LIMITS.items():
        text = text.replace(name, str(limit))
    return text


SQL = {name: _with_limits(text) for name, text in statements.beside(__file__).items()}


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


def due(connection: Connection, after: str) -> list[DueClient]:
    """
    Read which clients have notices, in the order of their ids: those behind `after`. Raises DatabaseUnavailable.
    """
    return tries.due_clients(connection, SQL["due"], after)


def claim(connection: Connection, client: str, limit: int, lease_seconds: float) -> list[AddressNotice]:
    """Claim at most `limit` notices of a client that are due. Raises DatabaseUnavailable."""
    parameters = {
        "client": client,
        "limit": limit,
        "lease_seconds": lease_seconds,
        "window": NOTICES_PER_LOOK,
    }
    with connections.faults():
        return [AddressNotice(*row) for row in connection.execute(SQL["claim"], parameters).fetchall()]


def record(connection: Connection, results: Sequence[SendResult[AddressNotice]]) -> None:
    """Write results in one statement. To repeat it changes nothing. Raises DatabaseUnavailable."""
    with connections.faults():
        connection.execute(SQL["record"], tries.columns(results))
