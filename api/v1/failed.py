"""
Failed requests, for operators and admins: read with their faults, replayed or refunded.

A replay is a command in the inbox, and a refund is a request of its own. The worker decides both.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field

from api.services import Call
from api.v1.requests import ACCEPTED, RECORDED, Request, RequestList
from api.web import problems, submission
from api.web.fields import ID_PATTERN, Amount, Body, Text, optional
from api.web.pagination import Page, listed
from api.web.parsing import read_id
from api.web.problems import Invalid, NotFound
from api.web.routing import Answer, AnswerDoc, Routes
from processor.domain.kinds import KINDS
from processor.domain.model import Outcome
from processor.domain.roles import OPERATORS
from processor.errors import Archived
from processor.operations import failed_requests
from processor.operations.failed_requests import LegsHaveNoAmount, NotFailed
from processor.reading import attempts, request_detail, request_lists
from processor.reading.request_lists import RequestFilter

routes = Routes("Failed requests")

problems.declare(
    NotFailed.code,
    status=409,
    title="The request has not failed",
    explanation="Only a request with the status failed can be replayed. A request that was replayed a moment ago is "
    "being tried again already.",
    remedy="Read the request again: there may be nothing left to do.",
)


class Attempt(BaseModel):
    """One call of a gateway."""

    started_at: AwareDatetime
    ended_at: AwareDatetime | None = Field(description="null: the call is in flight, or its end is unknown.")
    status: int | None = Field(description="The HTTP status of the answer.")
    outcome: Outcome | None
    error: str | None


class Notification(BaseModel):
    """A notification about a request, by webhook or e-mail."""

    id: int
    type: str
    webhook: str | None = Field(json_schema_extra={"format": "uuid"})
    email: str | None
    status: Literal["pending", "delivered", "failed"]
    tries: int
    due_at: AwareDatetime | None = Field(description="The time of the next try; null: there is none.")
    last_status: int | None
    last_error: str | None = Field(description="The last fault, with the words of the mail server.")
    created_at: AwareDatetime
    delivered_at: AwareDatetime | None


class InspectedRequest(Request):
    """A request with its traceback, its gateway calls and its notifications."""

    trace: str | None = Field(description="The traceback of the fault in deciding it.")
    attempts: list[Attempt]
    notifications: list[Notification]


class Replayed(BaseModel):
    """How many failed requests match, and how many of them were replayed now."""

    matched: int
    replayed: int


FailureCode = Annotated[str, Field(pattern=r"^[a-z_]{1,64}$", examples=["gateway_unreachable"])]
ResourceId = Annotated[str, Field(pattern=ID_PATTERN)]


class FailedQuery(Page):
    """The failed requests that a client asks for."""

    code: FailureCode = optional()
    resource: ResourceId = optional()


class Replay(Body):
    """The reason for a replay."""

    reason: Text


class Replays(Replay):
    """The failed requests that are replayed, and the reason."""

    code: FailureCode = optional("The `error.code` of the requests. Left out: all codes.")
    resource: ResourceId = optional("The resource of the requests. Left out: all resources.")
    dry_run: bool = Field(default=False, description="Count the requests without replaying them.")


class Refund(Body):
    """The reason for a refund, and its amount."""

    reason: Text
    amount: Amount = optional("Left out: the whole rest. A hold can only be released as a whole.")


@routes.add(
    "GET",
    "/v1/admin/failed",
    roles=OPERATORS,
    query=FailedQuery,
    answers={200: AnswerDoc("Newest first.", RequestList)},
)
def list_failed(call: Call) -> Answer:
    """
    List failed requests.

    Teller could not finish these requests, or the gateway's answer is unknown. Nothing is lost. Their holds remain
    until they are replayed or refunded.
    """
    query: FailedQuery = call.query
    which = RequestFilter("failed", resource=query.resource, code=query.code)
    with call.services.connection() as connection:
        page = request_lists.list_requests(connection, None, which, query.limit, query.cursor)
    return Answer(listed(page))


@routes.add(
    "GET",
    "/v1/admin/requests/<request>",
    roles=OPERATORS,
    answers={200: AnswerDoc("The request.", InspectedRequest)},
    problems=(NotFound, Archived),
)
def inspect_request(call: Call, request: str) -> Answer:
    """
    Read a request with its faults.

    Includes the traceback if a fault occurred while it was decided. Also each call of its gateway and each
    notification about it, oldest first.
    """
    request_id = read_id(request, "request")
    record = call.services.request(request_id)
    with call.services.connection() as connection:
        trace = attempts.read_trace(connection, request_id)
        notifications = [one.document() for one in request_detail.read_notifications(connection, request_id)]
        calls = [attempt.document() for attempt in attempts.read_attempts(connection, request_id)]
    return Answer(record.document() | {"trace": trace, "attempts": calls, "notifications": notifications})


@routes.add(
    "POST",
    "/v1/admin/requests/<request>/replay",
    roles=OPERATORS,
    body=Replay,
    answers=RECORDED,
    problems=(NotFound, Archived, NotFailed),
)
def replay_request(call: Call, request: str) -> Answer:
    """
    Replay a failed request.

    Moves it to the end of its queue, where it is decided as if it were new. It keeps its id and can never take twice.
    A second replay before that has no effect.
    """
    request_id = read_id(request, "request")
    body: Replay = call.body
    with call.services.connection() as connection:
        record, replayed = failed_requests.replay(connection, request_id, call.caller, body.reason)
    call.services.doorbell.notify_all(replayed.partitions)
    return submission.recorded(record)


@routes.add(
    "POST",
    "/v1/admin/replay",
    roles=OPERATORS,
    body=Replays,
    answers={200: AnswerDoc("How many match, and how many were replayed now.", Replayed)},
)
def replay_requests(call: Call) -> Answer:
    """
    Replay all failed requests that match.

    The requests of one resource are decided in the order of their first decisions. A request whose replay is queued
    already also matches, and is not replayed twice. With `dry_run` nothing is replayed.
    """
    body: Replays = call.body
    with call.services.connection() as connection:
        replayed = failed_requests.replay_all(
            connection, body.code, body.resource, call.caller.actor, body.reason, dry_run=body.dry_run
        )
    call.services.doorbell.notify_all(replayed.partitions)
    return Answer({"matched": replayed.matched, "replayed": len(replayed.sent)})


@routes.add(
    "POST",
    "/v1/admin/requests/<request>/refund",
    roles=KINDS["refund"].roles,
    body=Refund,
    answers=ACCEPTED,
    problems=(*submission.PROBLEMS, NotFound, Archived),
    request_headers=submission.REQUEST_HEADERS,
)
def refund_request(call: Call, request: str) -> Answer:
    """
    Refund a request.

    Makes a request of kind `refund`, which is decided in its turn. For a failed request it releases the hold. For a
    completed request it gives back `amount`, or the whole rest. It is rejected if that exceeds what was taken.
    A request with legs is refunded as a whole, or rejected with the code of the leg that cannot be undone.
    """
    request_id = read_id(request, "request")
    body: Refund = call.body
    key = submission.read_key(call)
    try:
        with call.services.connection() as connection:
            record, is_replayed = failed_requests.refund(
                call.services.accept, connection, request_id, body.amount, body.reason, call.caller, key
            )
    except LegsHaveNoAmount as refusal:
        raise Invalid.at("/amount", str(refusal)) from refusal
    return submission.accepted(call, record, is_replayed=is_replayed)
