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
from processor.operations import approvals
from processor.operations.approvals import (
    ApproverIsRequester,
    NotAwaitingApproval,
    NotAwaitingConfirmation,
    Verdict,
)
from processor.reading import requests as stored_requests
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
    record = _read(call, request)
    body: Confirmation = call.body
    with call.services.connection() as connection:
        partition = approvals.confirm(
            connection, call.services.settings, record.id, body.code, call.caller.actor
        )
    return _recorded(call, record, partition)


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
    record = _read(call, request)
    with call.services.connection() as connection:
        asked = approvals.send_again(connection, call.services.settings, record.id, call.caller.actor)
    call.services.doorbell.notify_couriers()
    return Answer(asked.document(), 202)


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
    body: Approval = call.body
    return _judge(call, request, "approve", body.reason if "reason" in body.model_fields_set else None)


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
    body: Denial = call.body
    return _judge(call, request, "deny", body.reason)


def _judge(call: Call, request: str, verdict: Verdict, reason: str | None) -> Answer:
    record = _read(call, request)
    with call.services.connection() as connection:
        partition = approvals.judge(
            connection,
            record.id,
            verdict,
            client=call.caller.client,
            actor=call.caller.actor,
            reason=reason,
        )
    return _recorded(call, record, partition)


def _read(call: Call, request: str) -> RequestRecord:
    named = request_id(request)
    with call.services.connection() as connection:
        found = stored_requests.read_request(connection, named, call.caller.sees)
    if found is None:
        raise NotFound("there is no such request")
    return found[0]


def _recorded(call: Call, record: RequestRecord, partition: int) -> Answer:
    call.services.doorbell.notify(partition)
    headers: dict[str, Any] = {
        "Location": f"/v1/requests/{record.id}",
        "Retry-After": str(RETRY_AFTER_SECONDS),
        "ETag": submission.etag(record, None),
    }
    return Answer(record.document(), 202, headers)
