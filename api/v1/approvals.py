"""
Withdrawals that wait: confirmed with a code by whoever asked, approved or denied by somebody of another client.

Nothing is decided here: each is a word for the inbox.
"""

from typing import Any

from api.services import Call
from api.v1.codes import Typed
from api.web import responses, submission
from api.web.auth import CLIENTS, OPERATORS
from api.web.fields import Body, Nothing, Text, optional
from api.web.problems import RETRY_AFTER_SECONDS, NotFound
from api.web.routing import Answer, Routes, Shown, request_id
from processor.clients.codes import CodeCooldown, CodeInvalid, CodeLocked
from processor.intake.commands import Recorded
from processor.operations import approvals
from processor.operations.approvals import ApproverIsRequester, NotAwaitingApproval, NotAwaitingConfirmation
from processor.records.documents import RequestRecord

routes = Routes("Confirmations")

_RECORDED = {
    202: Shown(
        "It is recorded; what follows is decided in its turn.",
        responses.Request,
        headers=("Location", "Retry-After", "ETag"),
    )
}


class Confirmation(Body):
    """The code that the account was sent."""

    code: Typed


class Approval(Body):
    """Why it is right."""

    reason: Text = optional()


class Denial(Body):
    """Why it must not be."""

    reason: Text


@routes.add(
    "POST",
    "/v1/requests/<request>/confirm",
    roles=CLIENTS,
    body=Confirmation,
    answers=_RECORDED,
    problems=(NotFound, NotAwaitingConfirmation, CodeInvalid, CodeLocked),
)
def confirm(call: Call, request: str) -> Answer:
    """
    Confirm a withdrawal with its code.

    It is then decided like a new one, in the place that it gets now. Wrong tries are counted.
    """
    named = request_id(request)
    body: Confirmation = call.body
    with call.services.connection() as connection:
        result = approvals.confirm(connection, call.services.settings, named, body.code, call.caller)
    return _recorded(call, *result)


@routes.add(
    "POST",
    "/v1/requests/<request>/code",
    roles=CLIENTS,
    body=Nothing,
    body_optional=True,
    answers={202: Shown("It will be sent.", responses.CodeSent)},
    problems=(NotFound, NotAwaitingConfirmation, CodeCooldown, CodeLocked),
)
def send_code_again(call: Call, request: str) -> Answer:
    """
    Send the code of a withdrawal again.

    A new one, to the account's e-mail address; the one before is invalid.
    """
    named = request_id(request)
    with call.services.connection() as connection:
        code = approvals.send_code_again(connection, call.services.settings, named, call.caller)
    call.services.doorbell.notify_couriers()
    return Answer(code.document(), 202)


@routes.add(
    "POST",
    "/v1/admin/requests/<request>/approve",
    roles=OPERATORS,
    body=Approval,
    body_optional=True,
    answers=_RECORDED,
    problems=(NotFound, ApproverIsRequester, NotAwaitingApproval),
)
def approve_request(call: Call, request: str) -> Answer:
    """
    Approve a withdrawal.

    It is then decided like a new one, in the place that it gets now. By a client other than the one that asked.
    """
    named = request_id(request)
    body: Approval = call.body
    with call.services.connection() as connection:
        result = approvals.approve(connection, named, call.caller, body.reason)
    return _recorded(call, *result)


@routes.add(
    "POST",
    "/v1/admin/requests/<request>/deny",
    roles=OPERATORS,
    body=Denial,
    answers=_RECORDED,
    problems=(NotFound, ApproverIsRequester, NotAwaitingApproval),
)
def deny_request(call: Call, request: str) -> Answer:
    """
    Deny a withdrawal.

    It is rejected, `denied`, with your reason. By a client other than the one that asked.
    """
    named = request_id(request)
    body: Denial = call.body
    with call.services.connection() as connection:
        result = approvals.deny(connection, named, call.caller, body.reason)
    return _recorded(call, *result)


def _recorded(call: Call, record: RequestRecord, command: Recorded) -> Answer:
    call.services.doorbell.notify(command.partition)
    headers: dict[str, Any] = {
        "Location": f"/v1/requests/{record.id}",
        "Retry-After": str(RETRY_AFTER_SECONDS),
        "ETag": submission.etag(record, None),
    }
    return Answer(record.document(), 202, headers)
