"""
Requests that wait for a code, or for the approval of another client.

A right code, an approval and a denial are commands, and so is the expiry of a code. The batch of the home partition
decides them in their turn.
"""

from collections.abc import Collection
from typing import Final, Literal
from uuid import UUID

from processor.clients import codes
from processor.clients.codes import CodeLocked, CodeRequested
from processor.clients.keys import Caller
from processor.errors import TellerError
from processor.intake import commands
from processor.intake.commands import Recorded
from processor.reading import requests as stored_requests
from processor.records import audit
from processor.records.documents import RequestRecord
from processor.settings import Settings
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Requests that one run of the sweep expires.
EXPIRE_LIMIT: Final = 1_000

SQL = statements.beside(__file__)


class NotAwaitingConfirmation(TellerError):
    """The request does not wait for a code."""

    code = "not_awaiting_confirmation"

    def __init__(self, request: RequestRecord) -> None:
        super().__init__(f"the request does not wait for a code: {request.stage or request.status}")


class NotAwaitingApproval(TellerError):
    """The request does not wait for an approval."""

    code = "not_awaiting_approval"

    def __init__(self, request: RequestRecord) -> None:
        super().__init__(f"the request does not wait for an approval: {request.stage or request.status}")


class ApproverIsRequester(TellerError):
    """The client that made the request cannot approve or deny it."""

    code = "approver_is_requester"


def confirm(
    connection: Connection, settings: Settings, request_id: UUID, typed: str, by: Caller
) -> tuple[RequestRecord, Recorded]:
    """
    Use the code of a request, and record the command that confirms it. The caller then notifies the worker.

    A wrong try is counted in the same transaction. Returns the request as it is now, and the command.
    Raises RequestNotFound, NotAwaitingConfirmation, CodeInvalid, CodeLocked, DatabaseUnavailable.
    """
    recorded = None
    with connections.faults(), connection.transaction():
        stored_requests.read_request(connection, request_id, by.sees)
        tried = codes.attempt(connection, settings, "lock_code_of_request", {"request_id": request_id}, typed)
        # Read again under the lock of the code, for which the batch waits.
        request, _ = stored_requests.read_request(connection, request_id, by.sees)
        if tried.is_right:
            recorded = commands.record_command(connection, request_id, "confirm", by.actor)
            audit.note(connection, by.actor, "confirm", request_id, None)
    if request.stage != "awaiting_confirmation":
        raise NotAwaitingConfirmation(request)
    if recorded is None:
        raise tried.refused()
    return request, recorded


def send_code_again(
    connection: Connection, settings: Settings, request_id: UUID, by: Caller
) -> CodeRequested:
    """
    Replace the code of a request that waits for one. The caller then notifies the couriers.

    Raises RequestNotFound, NotAwaitingConfirmation, CodeCooldown, CodeLocked, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        stored_requests.read_request(connection, request_id, by.sees)
        wanted = {"request_id": request_id, "request_limit": codes.WRONG_TRIES_OF_A_REQUEST_MAX}
        locked = connection.execute(SQL["lock_destination"], wanted).fetchone()
        request, _ = stored_requests.read_request(connection, request_id, by.sees)
        if locked is None or request.stage != "awaiting_confirmation":
            raise NotAwaitingConfirmation(request)
        client, destination, is_locked = locked
        if is_locked:
            raise CodeLocked(codes.seconds_of_the_day(connection))
        parameters = codes.parameters_of(settings, client, destination) | {"request_id": request_id}
        row = connection.execute(codes.SQL["replace_code_of_request"], parameters).fetchone()
        if row is None:
            raise codes.refusal(connection, parameters)
        audit.note(connection, by.actor, "code_sent_again", request_id, None)
    return CodeRequested(parameters["destination"], *row)


def approve(
    connection: Connection, request_id: UUID, by: Caller, reason: str | None
) -> tuple[RequestRecord, Recorded]:
    """
    Record the approval of a request by another client. The caller then notifies the worker.

    Returns the request as it is now, and the command.
    Raises RequestNotFound, ApproverIsRequester, NotAwaitingApproval, DatabaseUnavailable.
    """
    return _judge(connection, request_id, "approve", by, reason)


def deny(connection: Connection, request_id: UUID, by: Caller, reason: str) -> tuple[RequestRecord, Recorded]:
    """
    Record the denial of a request by another client. The caller then notifies the worker.

    Returns the request as it is now, and the command.
    Raises RequestNotFound, ApproverIsRequester, NotAwaitingApproval, DatabaseUnavailable.
    """
    return _judge(connection, request_id, "deny", by, reason)


def _judge(
    connection: Connection,
    request_id: UUID,
    verdict: Literal["approve", "deny"],
    by: Caller,
    reason: str | None,
) -> tuple[RequestRecord, Recorded]:
    with connections.faults(), connection.transaction():
        request, _ = stored_requests.read_request(connection, request_id, by.sees)
        if request.client_id == by.client:
            raise ApproverIsRequester(
                "the request is of your own client: another client must approve or deny it"
            )
        if request.stage != "awaiting_approval":
            raise NotAwaitingApproval(request)
        recorded = commands.record_command(connection, request_id, verdict, by.actor, {"reason": reason})
        if recorded.is_new:
            audit.note(connection, by.actor, verdict, request_id, reason)
    return request, recorded


def expire(connection: Connection, partitions: Collection[int]) -> set[int]:
    """
    Record the command that expires each request of these partitions whose last code expired.

    Returns the partitions that have work now. Raises DatabaseUnavailable.
    """
    parameters = {"partitions": list(partitions), "limit": EXPIRE_LIMIT}
    with connections.faults():
        return {partition for (partition,) in connection.execute(SQL["expire"], parameters)}
