"""
Reservations that are held: capture, release, and those whose time is over.

The row of the hold has the first capture or release that was accepted before the expiry. Its command goes through the
queue, and from then on the hold does not expire.
"""

from collections.abc import Collection
from typing import Any, Final, Literal
from uuid import UUID

from processor.clients.keys import Caller
from processor.errors import TellerError
from processor.intake import commands
from processor.intake.commands import Recorded
from processor.operations.cancel import ReasonRefused
from processor.reading import requests as stored_requests
from processor.records import audit
from processor.records.documents import RequestRecord
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL: Final = statements.beside(__file__)


class NotHeld(TellerError):
    """The request is not a reservation that is held, or its capture or release was accepted already."""

    code = "not_held"


class MoreThanHeld(TellerError):
    """The amount to capture is more than the reservation holds."""

    code = "invalid"


class LegsAreCapturedWhole(TellerError):
    """The capture of a reservation with legs has an amount."""

    code = "invalid"


def capture(
    connection: Connection, request_id: UUID, by: Caller, amount: int | None = None
) -> tuple[RequestRecord, Recorded]:
    """
    Record the command that takes what a reservation holds, or `amount` of it. The caller then notifies the worker.

    The rest is given back. An operator's command has an audit line in the same transaction. Returns the request as it
    is now, and the command. Raises RequestNotFound, NotHeld, MoreThanHeld, LegsAreCapturedWhole, DatabaseUnavailable.
    """
    return _command(connection, request_id, "capture", by, amount)


def release(
    connection: Connection, request_id: UUID, by: Caller, reason: str | None = None
) -> tuple[RequestRecord, Recorded]:
    """
    Record the command that gives back what a reservation holds. The caller then notifies the worker.

    An operator's command has an audit line in the same transaction, with the reason. Returns the request as it is
    now, and the command. Raises ReasonRefused, RequestNotFound, NotHeld, DatabaseUnavailable.
    """
    if reason is not None and not by.is_operator:
        raise ReasonRefused("only operators and admins give a reason")
    return _command(connection, request_id, "release", by, None, reason)


def _command(
    connection: Connection,
    request_id: UUID,
    verb: Literal["capture", "release"],
    by: Caller,
    amount: int | None,
    reason: str | None = None,
) -> tuple[RequestRecord, Recorded]:
    parameters: dict[str, Any] = {"request_id": request_id, "command": verb, "amount": amount}
    with connections.faults(), connection.transaction():
        request, _ = stored_requests.read_request(connection, request_id, by.sees)
        if request.stage != "held":
            raise NotHeld(f"the request is not held: {request.stage or request.status}")
        if amount is not None and request.legs:
            raise LegsAreCapturedWhole(
                "the reservation has legs: a capture takes all of them, so it has no amount"
            )
        if amount is not None and amount > (request.amount or 0):
            raise MoreThanHeld(f"must be at most {request.amount}, which is held")
        if connection.execute(SQL["accept"], parameters).fetchone() is None:
            raise NotHeld("its capture or release was accepted already, or its time is over")
        recorded = commands.record_command(connection, request_id, verb, by.actor)
        if by.is_operator:
            detail = None if amount is None else {"amount": amount}
            audit.note(connection, by.actor, verb, request_id, reason, detail)
    return request, recorded


def expired(connection: Connection, partitions: Collection[int]) -> set[frozenset[int]]:
    """
    Return the partitions that batches need to expire the reservations of these partitions.

    Each element is one of them or, for reservations with legs, the partitions of all legs: also other ones. Those
    with a paused partition are left out. Raises DatabaseUnavailable.
    """
    with connections.faults():
        rows = connection.execute(SQL["expired"], {"partitions": list(partitions)})
        return {frozenset(every or (home,)) for home, every in rows}
