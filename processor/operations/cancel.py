"""
Cancel a request.

A command cancels it in its turn. The batch decides whether the command comes in time.
"""

from typing import Any, Final
from uuid import UUID

from processor.clients.keys import Caller
from processor.errors import TellerError
from processor.intake import commands
from processor.intake.commands import Recorded
from processor.reading import requests as stored_requests
from processor.records import audit
from processor.records.documents import RequestRecord
from processor.storage import connections
from processor.storage.connections import Connection

#: The stages that accept the command. A reservation that is held is decided already: it is released instead.
CANCELLABLE_STAGES: Final = frozenset({"queued", "awaiting_confirmation", "awaiting_approval"})


class NotCancellable(TellerError):
    """The request is decided already."""

    code = "not_cancellable"


class ReasonRefused(TellerError):
    """A client gives no reason for a cancel."""

    code = "invalid"


def cancel(
    connection: Connection, request_id: UUID, by: Caller, reason: str | None = None
) -> tuple[RequestRecord, Recorded]:
    """
    Record the command that cancels a request. The caller then notifies the worker.

    An operator's command has an audit line in the same transaction, and may have a reason. A client's has neither.
    Returns the request as it is now, and the command.
    Raises ReasonRefused, RequestNotFound, NotCancellable, DatabaseUnavailable.
    """
    if reason is not None and not by.is_operator:
        raise ReasonRefused("only operators and admins give a reason")
    payload: dict[str, Any] = {"by": "operator" if by.is_operator else "client"}
    if reason is not None:
        payload["reason"] = reason
    with connections.faults(), connection.transaction():
        request, _ = stored_requests.read_request(connection, request_id, by.sees)
        if request.is_final or request.stage not in CANCELLABLE_STAGES:
            raise NotCancellable(f"the request is decided already: {request.stage or request.status}")
        recorded = commands.record_command(connection, request_id, "cancel", by.actor, payload)
        if recorded.is_new and by.is_operator:
            audit.note(connection, by.actor, "cancel", request_id, reason)
    return request, recorded
