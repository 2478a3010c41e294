"""
Code messages: the one-time codes that are to be sent now.

The row of a code is also its message. So both are written in one transaction, and a code that was replaced is no
longer sent. The courier claims here, sends (`workers/courier/code_messages.py`), and records the results. A claim
computes the digits; the `repr` of a message does not show them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.clients import codes
from processor.domain.amounts import Unit
from processor.outbox import tries
from processor.outbox.tries import DueClient, SendResult
from processor.settings import Settings
from processor.storage import connections, statements
from processor.storage.connections import Connection
from processor.tracing.correlation import Correlation

#: The pauses after the first, second … try that failed, in seconds. After the try that follows the last pause, a code
#: is given up.
PAUSES_SECONDS: Final = (1.0, 5.0, 30.0, 120.0, 600.0)

#: The destinations of one client that one look reads.
DESTINATIONS_PER_LOOK: Final = 32

SQL = statements.beside(__file__)


class ConfirmedRequest(NamedTuple):
    """The request that a code confirms."""

    #: The unit of its amount.
    unit: Unit
    #: The HTTP call that made it.
    correlation: Correlation
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


class Turns(NamedTuple):
    """The waiting codes of a client, as far as one look goes."""

    client: str
    #: The last destination. The next look continues behind it.
    last: str
    destinations: int
    #: The destinations of which a code got the turn.
    granted: int
    #: The seconds until another of these destinations may be free. None: all have the turn.
    seconds: float | None


def waiting_clients(connection: Connection, after: str) -> list[str]:
    """
    Read which clients have codes that wait for their destination: those behind `after`, at most CLIENTS_PER_LOOK.

    Raises DatabaseUnavailable.
    """
    parameters = {"after": after, "limit": tries.CLIENTS_PER_LOOK}
    with connections.faults():
        return [client for (client,) in connection.execute(SQL["waiting_clients"], parameters).fetchall()]


def take_turns(connection: Connection, settings: Settings, afters: Mapping[str, str]) -> list[Turns]:
    """
    Give the turn to codes whose destinations are free again.

    `afters` has the clients, and for each the destination behind which the look begins. Raises DatabaseUnavailable.
    """
    parameters = {
        "clients": list(afters.keys()),
        "afters": list(afters.values()),
        "destinations": DESTINATIONS_PER_LOOK,
        "cooldown_seconds": settings.code_cooldown_seconds,
    }
    with connections.faults():
        return [Turns(*row) for row in connection.execute(SQL["take_turns"], parameters).fetchall()]


def due(connection: Connection, after: str) -> list[DueClient]:
    """
    Read which clients have codes with the turn: those behind `after`. Raises DatabaseUnavailable.
    """
    return tries.due_clients(connection, SQL["due"], after)


def claim(
    connection: Connection, settings: Settings, client: str, limit: int, lease_seconds: float
) -> list[CodeMessage]:
    """Claim at most `limit` codes of a client that have the turn and are due. Raises DatabaseUnavailable."""
    parameters = {
        "client": client,
        "limit": limit,
        "lease_seconds": lease_seconds,
        "ttl_seconds": settings.code_ttl_seconds,
    }
    with connections.faults():
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
            _confirmed(request),
            codes.digits_of(settings.secret, code_id),
        )
        for code_id, token, number, destination, created_at, expires_at, is_expired, *request in rows
    ]


def _confirmed(row: list[Any]) -> ConfirmedRequest | None:
    """Return the request of a code, from the columns that `claim` selects after those of the code."""
    unit, decimals, x_request_id, traceparent, *request = row
    if request[0] is None:
        return None
    return ConfirmedRequest(Unit(unit, decimals), Correlation(x_request_id, traceparent), *request)


def record(connection: Connection, settings: Settings, results: Sequence[SendResult[CodeMessage]]) -> None:
    """Write results in one statement. To repeat it changes nothing. Raises DatabaseUnavailable."""
    parameters = {**tries.columns(results), "ttl_seconds": settings.code_ttl_seconds}
    with connections.faults():
        connection.execute(SQL["record"], parameters)
