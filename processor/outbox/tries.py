"""
Tries: the result of sending something once, and the time of the next try.

Shared by deliveries, code messages and address notices. Gateway calls have outcomes of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, Protocol, TypeVar

from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from processor.storage.connections import Connection

#: The clients of a queue that one look reads. The next look continues behind them.
CLIENTS_PER_LOOK: Final = 256
#: An id before that of every client.
BEFORE_FIRST: Final = ""

#: The subject of a fault of a mail. `workers/courier/mail_faults.py` finds it out.
Concern = Literal["recipient", "mail", "busy", "sender", "server"]
DeliveryStatus = Literal["pending", "delivered", "failed"]


class Claimed(Protocol):
    """A row that belongs to this courier until its lease expires."""

    @property
    def id(self) -> UUID | int:
        """The key of the row."""

    @property
    def token(self) -> UUID:
        """The token of the lease. A result counts only with the token that its row has."""

    @property
    def tries(self) -> int:
        """The number of tries, this one included."""


Item = TypeVar("Item", bound=Claimed)


class SendResult(NamedTuple, Generic[Item]):
    """The result of one try: sent, to be repeated after `pause_seconds`, or given up."""

    item: Item
    is_sent: bool
    error: str | None = None
    pause_seconds: float | None = None
    #: The status that an endpoint answered.
    http_status: int | None = None
    #: The endpoint answered that it no longer exists.
    is_gone: bool = False
    #: The try counts. Otherwise the item keeps its tries.
    is_counted: bool = True
    #: The subject of a fault of a mail, and the words of the mail server. They may repeat the mail: no log has them.
    concern: Concern | None = None
    words: str | None = None

    @property
    def status(self) -> DeliveryStatus:
        """The status of the row after this try."""
        if self.is_sent:
            return "delivered"
        return "failed" if self.pause_seconds is None else "pending"


def sent(item: Item, http_status: int | None = None) -> SendResult[Item]:
    """Return the result of a try that succeeded."""
    return SendResult(item, is_sent=True, http_status=http_status)


def given_up(item: Item, error: str) -> SendResult[Item]:
    """Return the result of a try that failed and is not repeated."""
    return SendResult(item, is_sent=False, error=error)


def failed(
    item: Item, error: str, pauses: Sequence[float], *, http_status: int | None = None, is_gone: bool = False
) -> SendResult[Item]:
    """
    Return the result of a try that failed. It is repeated after the pause that `pauses` has for it, in seconds.

    After the last pause, and where the endpoint is gone, it is given up.
    """
    is_last = is_gone or item.tries > len(pauses)
    pause_seconds = None if is_last else pauses[item.tries - 1]
    return SendResult(item, False, error, pause_seconds, http_status, is_gone)


def postponed(
    item: Item, error: str, concern: Concern | None = None, pause_seconds: float = 0.0
) -> SendResult[Item]:
    """
    Return the result of a try that does not count, because the means of sending were unavailable.

    Without a pause the item keeps its place in the queue, as old as it is.
    """
    return SendResult(
        item, is_sent=False, error=error, pause_seconds=pause_seconds, is_counted=False, concern=concern
    )


def columns(results: Sequence[SendResult[Any]]) -> dict[str, list[Any]]:
    """Return the parameters that every statement that records results has, as arrays of equal length."""
    return {
        "ids": [result.item.id for result in results],
        "tokens": [result.item.token for result in results],
        "pauses": [result.pause_seconds for result in results],
        "counted": [result.is_counted for result in results],
    }


class DueClient(NamedTuple):
    """A client that has messages in a queue, and the seconds until the first is due (0: now)."""

    client: str
    seconds: float


def due_clients(connection: Connection, query: str, after: str) -> list[DueClient]:
    """
    Run a query for the clients of a queue, in the order of their ids: those behind `after`, at most CLIENTS_PER_LOOK.

    Raises DatabaseUnavailable.
    """
    with connections.faults():
        rows = connection.execute(query, {"after": after, "limit": CLIENTS_PER_LOOK}).fetchall()
    return [DueClient(*row) for row in rows]
