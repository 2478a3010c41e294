"""
Requests that wait for a code or for an approval.

The client that made a request confirms it with a code. An admin or operator of another client approves or denies
it. Each route records a command, which the worker decides.
"""

from api.services import Call
from api.v1.codes import Code, CodeSent
from api.v1.requests import RECORDED
from api.web import problems, submission
from api.web.fields import Body, Nothing, Text, optional
from api.web.parsing import read_id
from api.web.problems import NotFound
from api.web.routing import Answer, AnswerDoc, Routes
from processor.clients.codes import CodeCooldown, CodeInvalid, CodeLocked
from processor.domain.roles import CLIENTS, OPERATORS
from processor.errors import Archived
from processor.intake.commands import Recorded
from processor.operations import approvals
from processor.operations.approvals import ApproverIsRequester, NotAwaitingApproval, NotAwaitingConfirmation
from processor.records.documents import RequestRecord

routes = Routes("Confirmations")

problems.declare(
    ApproverIsRequester.code,
    status=403,
    title="The approver must belong to another client",
    explanation="A request is approved or denied by an admin or operator of another client than the one that "
    "made it.",
    remedy="Use a key of another client.",
)
problems.declare(
    NotAwaitingConfirmation.code,
    status=409,
    title="The request is not awaiting a code",
    explanation="Only a request in the stage awaiting_confirmation can be confirmed with a code.",
    remedy="Read the request: its status and stage show whether it was confirmed already.",
)
problems.declare(
    NotAwaitingApproval.code,
    status=409,
    title="The request is not awaiting approval",
    explanation="Only a request in the stage awaiting_approval can be approved or denied.",
    remedy="Read the request: its status and stage show whether it was approved or denied already.",
)


class Confirmation(Body):
    """The code that was sent to the account."""

    code: Code


class Approval(Body):
    """The reason for an approval."""

    reason: Text = optional()


class Denial(Body):
    """The reason for a denial."""

    reason: Text


@routes.add(
    "POST",
    "/v1/requests/<request>/confirm",
    roles=CLIENTS,
    body=Confirmation,
    answers=RECORDED,
    problems=(NotFound, Archived, NotAwaitingConfirmation, CodeInvalid, CodeLocked),
)
def confirm(call: Call, request: str) -> Answer:
    """
    Confirm a request with its code.

    The request joins the end of its queue and is decided like a new one. Wrong codes are counted.
    """
    request_id = read_id(request, "request")
    body: Confirmation = call.body
    with call.services.connection() as connection:
        result = approvals.confirm(connection, call.services.settings, request_id, body.code, call.caller)
    return _recorded(call, *result)


@routes.add(
    "POST",
    "/v1/requests/<request>/code",
    roles=CLIENTS,
    body=Nothing,
    body_optional=True,
    answers={202: AnswerDoc("The code will be sent.", CodeSent)},
    problems=(NotFound, Archived, NotAwaitingConfirmation, CodeCooldown, CodeLocked),
)
def send_code_again(call: Call, request: str) -> Answer:
    """
    Send the code of a request again.

    A new code goes to the account's e-mail address. It replaces the code before.
    """
    request_id = read_id(request, "request")
    with call.services.connection() as connection:
        code = approvals.send_code_again(connection, call.services.settings, request_id, call.caller)
    call.services.doorbell.notify_couriers()
    return Answer(code.document(), 202)


@routes.add(
    "POST",
    "/v1/admin/requests/<request>/approve",
    roles=OPERATORS,
    body=Approval,
    body_optional=True,
    answers=RECORDED,
    problems=(NotFound, Archived, ApproverIsRequester, NotAwaitingApproval),
)
def approve_request(call: Call, request: str) -> Answer:
    """
    Approve a request.

    The request joins the end of its queue and is decided like a new one. Your key must belong to another client
    than the one that made it.
    """
    request_id = read_id(request, "request")
    body: Approval = call.body
    with call.services.connection() as connection:
        result = approvals.approve(connection, request_id, call.caller, body.reason)
    return _recorded(call, *result)


@routes.add(
    "POST",
    "/v1/admin/requests/<request>/deny",
    roles=OPERATORS,
    body=Denial,
    answers=RECORDED,
    problems=(NotFound, Archived, ApproverIsRequester, NotAwaitingApproval),
)
def deny_request(call: Call, request: str) -> Answer:
    """
    Deny a request.

    The request is rejected with the code `denied` and your reason. Your key must belong to another client than the
    one that made it.
    """
    request_id = read_id(request, "request")
    body: Denial = call.body
    with call.services.connection() as connection:
        result = approvals.deny(connection, request_id, call.caller, body.reason)
    return _recorded(call, *result)


def _recorded(call: Call, record: RequestRecord, command: Recorded) -> Answer:
    call.services.doorbell.notify(command.partition)
    return submission.recorded(record)
