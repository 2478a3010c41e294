"""
One-time codes on their way: which are to be sent now, in PostgreSQL. The row of a code is its delivery, too, so the
two are written in one transaction, and a code that was replaced is not sent any more.

The courier claims here, sends (`workers/courier/code_messages.py`), and records the result. The digits are only in
what is sent: a claim computes them, and its `repr` does not show them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from processor.clients import codes
from processor.settings import Settings
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The pauses after the first, second … try that failed, in seconds. After the try that follows the last one, it is
#: not sent any more.
PAUSES_SECONDS: Final = (1.0, 5.0, 30.0, 120.0, 600.0)

SQL = statements.beside(__file__)


class Purpose(NamedTuple):
    """The request that a code confirms."""

    request_id: UUID
    kind: str
    amount: int | None
    resource_id: str
    account: str | None


@dataclass(frozen=True, slots=True)
class CodeDelivery:
    """One code that is ours to send until the lease runs out. `tries` counts this one, too."""

    id: UUID
    token: UUID
    tries: int
    destination: str
    created_at: datetime
    expires_at: datetime
    #: Nobody could use it any more.
    is_expired: bool
    #: None: it is for what the client who asked for it knows.
    confirms: Purpose | None
    digits: str = field(repr=False)

    @property
    def message_id(self) -> str:
        """The same over all tries."""
        return f"code_{self.id.hex}"


class Sent(NamedTuple):
    """How one try ended: sent, or given up, or (`pause_seconds`) to be tried again."""

    delivery: CodeDelivery
    is_sent: bool
    pause_seconds: float | None = None
    error: str | None = None


def claim(connection: Connection, settings: Settings, limit: int, lease_seconds: float) -> list[CodeDelivery]:
    """
    Give their turn to codes whose destinations may be written to again, and take up to `limit` that are due. Raises
    DatabaseUnavailable.
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
        CodeDelivery(
            code_id,
            token,
            tries,
            destination,
            created_at,
            expires_at,
            is_expired,
            None if asked[0] is None else Purpose(*asked),
            codes.digits_of(settings.secret, code_id),
        )
        for code_id, token, tries, destination, created_at, expires_at, is_expired, *asked in rows
    ]


def next_due(connection: Connection) -> float | None:
    """In how many seconds the next code is due; None: there is none. Raises DatabaseUnavailable."""
    with connections.faults():
        [(seconds,)] = connection.execute(SQL["next"]).fetchall()
    return None if seconds is None else float(seconds)


def record(connection: Connection, settings: Settings, tries: Iterable[Sent]) -> None:
    """Write how tries ended, as one statement. Repeating it changes nothing. Raises DatabaseUnavailable."""
    sent = list(tries)
    parameters = {
        "ids": [one.delivery.id for one in sent],
        "tokens": [one.delivery.token for one in sent],
        "pauses": [one.pause_seconds for one in sent],
        "ttl_seconds": settings.code_ttl_seconds,
    }
    with connections.faults():
        connection.execute(SQL["record"], parameters)


def failed(delivery: CodeDelivery, error: str, *, for_good: bool = False) -> Sent:
    """A try that failed: to be tried again after the pause of the schedule, or, after the last, not."""
    if for_good or delivery.tries > len(PAUSES_SECONDS):
        return Sent(delivery, is_sent=False, error=error)
    return Sent(delivery, is_sent=False, pause_seconds=PAUSES_SECONDS[delivery.tries - 1], error=error)
