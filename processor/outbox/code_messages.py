"""
Code messages: the one-time codes that are to be sent now.

The row of a code is also its message. So both are written in one transaction, and a code that was replaced is no
longer sent. The courier claims here, sends (`workers/courier/code_messages.py`), and records the results. A claim
computes the digits; the `repr` of a message does not show them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from processor.clients import codes
from processor.outbox import tries
from processor.outbox.tries import SendResult
from processor.settings import Settings
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The pauses after the first, second … try that failed, in seconds. After the try that follows the last pause, a code
#: is given up.
PAUSES_SECONDS: Final = (1.0, 5.0, 30.0, 120.0, 600.0)

SQL = statements.beside(__file__)


class ConfirmedRequest(NamedTuple):
    """The request that a code confirms."""

    request_id: UUID
    kind: str
    amount: int | None
    resource_id: str
    account: str | None


@dataclass(frozen=True, slots=True)
class CodeMessage:
    """A code that belongs to this courier until its lease expires. `tries` includes this try."""

    id: UUID
    token: UUID
    tries: int
    destination: str
    created_at: datetime
    expires_at: datetime
    #: The code is no longer accepted.
    is_expired: bool
    #: None: a client uses the code for a purpose of its own.
    confirms: ConfirmedRequest | None
    digits: str = field(repr=False)

    @property
    def message_id(self) -> str:
        """The id of the message, the same for each try."""
        return f"code_{self.id.hex}"


def claim(connection: Connection, settings: Settings, limit: int, lease_seconds: float) -> list[CodeMessage]:
    """
    Give the turn to codes whose destinations are free again, and claim at most `limit` codes that are due.

    Raises DatabaseUnavailable.
    """
    parameters = {
        "limit": limit,
        "lease_seconds": lease_seconds,
        "cooldown_seconds": settings.code_cooldown_seconds,
        "ttl_seconds": settings.code_ttl_seconds,
    }
    with connections.faults():
        connection.execute(SQL["take_turns"], parameters)
        rows = connection.execute(SQL["claim"], parameters).fetchall()
    return [
        CodeMessage(
            code_id,
            token,
            number,
            destination,
            created_at,
            expires_at,
            is_expired,
            None if request[0] is None else ConfirmedRequest(*request),
            codes.digits_of(settings.secret, code_id),
        )
        for code_id, token, number, destination, created_at, expires_at, is_expired, *request in rows
    ]


def next_due(connection: Connection) -> float:
    """Return the seconds until the next code is due, or infinity. Raises DatabaseUnavailable."""
    return tries.seconds_until_due(connection, SQL["next"])


def record(connection: Connection, settings: Settings, results: Sequence[SendResult[CodeMessage]]) -> None:
    """Write results in one statement. To repeat it changes nothing. Raises DatabaseUnavailable."""
    parameters = {**tries.columns(results), "ttl_seconds": settings.code_ttl_seconds}
    with connections.faults():
        connection.execute(SQL["record"], parameters)
