"""
Withdrawals that wait: confirmed with a code by whoever asked, approved or denied by somebody of another client.

Nothing is decided here: each is a word for the inbox.
"""

from typing import Any

from api.services import Call
from api.v1.codes import CodeSent, Typed
from api.v1.requests import RECORDED
from api.web import problems, submission
from api.web.auth import CLIENTS, OPERATORS
from api.web.fields import Body, Nothing, Text, optional
from api.web.parsing import read_id
from api.web.problems import RETRY_AFTER_SECONDS, NotFound
from api.web.routing import Answer, AnswerDoc, Routes
from processor.clients.codes import CodeCooldown, CodeInvalid, CodeLocked
from processor.intake.commands import Recorded
from processor.operations import approvals
from processor.operations.approvals import ApproverIsRequester, NotAwaitingApproval, NotAwaitingConfirmation
from processor.records.documents import RequestRecord

routes = Routes("Confirmations")

problems.declare(
    ApproverIsRequester.code,
    status=403,
    title="The approver must belong to another client",
    explanation="A withdrawal is approved or denied by an admin or operator of another client than the one that "
    "made it.",
    remedy="Use a key of another client.",
)
problems.declare(
    NotAwaitingConfirmation.code,
    status=409,
    title="The request is not awaiting a code",
    explanation="Only a withdrawal in the stage awaiting_confirmation can be confirmed with a code.",
    remedy="Read the request: its status and stage show whether it was confirmed already.",
)
problems.declare(
    NotAwaitingApproval.code,
    status=409,
    title="The request is not awaiting approval",
    explanation="Only a withdrawal in the stage awaiting_approval can be approved or denied.",
    remedy="Read the request: its status and stage show whether it was approved or denied already.",
)


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
    answers=RECORDED,
    problems=(NotFound, NotAwaitingConfirmation, CodeInvalid, CodeLocked),
)
def confirm(call: Call, request: str) -> Answer:
    """
    Confirm a withdrawal with its code.

    It is then decided like a new one, in the place that it gets now. Wrong tries are counted.
    """
    named = read_id(request, "request")
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
    answers={202: AnswerDoc("It will be sent.", CodeSent)},
    problems=(NotFound, NotAwaitingConfirmation, CodeCooldown, CodeLocked),
)
def send_code_again(call: Call, request: str) -> Answer:
    """
    Send the code of a withdrawal again.

    A new one, to the account's e-mail address; the one before is invalid.
    """
    named = read_id(request, "request")
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
    answers=RECORDED,
    problems=(NotFound, ApproverIsRequester, NotAwaitingApproval),
)
def approve_request(call: Call, request: str) -> Answer:
    """
    Approve a withdrawal.

    It is then decided like a new one, in the place that it gets now. By a client other than the one that asked.
    """
    named = read_id(request, "request")
    body: Approval = call.body
    with call.services.connection() as connection:
        result = approvals.approve(connection, named, call.caller, body.reason)
    return _recorded(call, *result)


@routes.add(
    "POST",
    "/v1/admin/requests/<request>/deny",
    roles=OPERATORS,
    body=Denial,
    answers=RECORDED,
    problems=(NotFound, ApproverIsRequester, NotAwaitingApproval),
)
def deny_request(call: Call, request: str) -> Answer:
    """
    Deny a withdrawal.

    It is rejected, `denied`, with your reason. By a client other than the one that asked.
    """
    named = read_id(request, "request")
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
