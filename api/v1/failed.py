"""
Parked requests, for those who run Teller: seen with what went wrong, sent back into their queues, or refunded.

Nothing is decided here: a replay is a wish in the inbox, a refund is a request of its own.
"""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, Field

from api.services import Call
from api.v1.requests import ACCEPTED, RECORDED, Request, RequestList
from api.web import problems, submission
from api.web.auth import ADMINS, OPERATORS
from api.web.fields import ID_PATTERN, Amount, Body, Text, optional
from api.web.pagination import Page, listed
from api.web.parsing import read_id
from api.web.problems import RETRY_AFTER_SECONDS, NotFound
from api.web.routing import Answer, AnswerDoc, Routes
from api.web.submission import Origin
from processor.domain.model import Outcome
from processor.intake.intake import Submission
from processor.operations import failed_requests
from processor.operations.failed_requests import NotFailed
from processor.reading import attempts, requests
from processor.reading.requests import RequestFilter

routes = Routes("Parked requests")

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


class InspectedRequest(Request):
    """A request with its traceback and its gateway calls."""

    trace: str | None = Field(description="The traceback of the fault in deciding it.")
    attempts: list[Attempt]


class Replayed(BaseModel):
    """How many failed requests match, and how many of them were replayed now."""

    matched: int
    replayed: int


FailureCode = Annotated[str, Field(pattern=r"^[a-z_]{1,64}$", examples=["gateway_unreachable"])]
ResourceId = Annotated[str, Field(pattern=ID_PATTERN)]


class Parked(Page):
    """Which of the parked requests, and which part of them."""

    code: FailureCode = optional()
    resource: ResourceId = optional()


class Replay(Body):
    """Why a request is tried again."""

    reason: Text


class Replays(Replay):
    """Which parked requests are tried again, and why."""

    code: FailureCode = optional("Those that failed so; left out: all.")
    resource: ResourceId = optional("Those after this resource; left out: all.")
    dry_run: bool = Field(default=False, description="Only say how many there are.")


class Refund(Body):
    """Why something is given back, and how much of it."""

    reason: Text
    amount: Amount = optional("Left out: all that is left. What is held goes back whole, or not at all.")


@routes.add(
    "GET",
    "/v1/admin/failed",
    roles=OPERATORS,
    query=Parked,
    answers={200: AnswerDoc("Newest first.", RequestList)},
)
def list_failed(call: Call) -> Answer:
    """
    List parked requests.

    Those that Teller could not finish, or whose gateway's answer is unknown. Nothing is lost, and what they hold
    stays held, until they are replayed or refunded.
    """
    wanted: Parked = call.query
    which = RequestFilter("failed", resource=wanted.resource, code=wanted.code)
    with call.services.connection() as connection:
        page = requests.list_requests(connection, None, which, wanted.limit, wanted.cursor)
    return Answer(listed(page))


@routes.add(
    "GET",
    "/v1/admin/requests/<request>",
    roles=OPERATORS,
    answers={200: AnswerDoc("As it is now.", InspectedRequest)},
    problems=(NotFound,),
)
def inspect_request(call: Call, request: str) -> Answer:
    """
    Read a request with what went wrong.

    The traceback, if it was parked by a fault in deciding it, and each call of its gateway, oldest first.
    """
    named = read_id(request, "request")
    record = call.services.request(named)
    with call.services.connection() as connection:
        trace = attempts.read_trace(connection, named)
        calls = [attempt.document() for attempt in attempts.read_attempts(connection, named)]
    return Answer(record.document() | {"trace": trace, "attempts": calls})


@routes.add(
    "POST",
    "/v1/admin/requests/<request>/replay",
    roles=OPERATORS,
    body=Replay,
    answers=RECORDED,
    problems=(NotFound, NotFailed),
)
def replay_request(call: Call, request: str) -> Answer:
    """
    Replay a parked request.

    Sends it to the end of its queue, to be tried as if it were new. It keeps its id and can never take twice;
    saying it twice is saying it once.
    """
    named = read_id(request, "request")
    body: Replay = call.body
    with call.services.connection() as connection:
        record, replayed = failed_requests.replay(connection, named, call.caller, body.reason)
    call.services.doorbell.notify_all(replayed.partitions)
    headers = {
        "Location": f"/v1/requests/{named}",
        "Retry-After": str(RETRY_AFTER_SECONDS),
        "ETag": submission.etag(record, None),
    }
    return Answer(record.document(), 202, headers)


@routes.add(
    "POST",
    "/v1/admin/replay",
    roles=OPERATORS,
    body=Replays,
    answers={200: AnswerDoc("How many match, and how many were sent back.", Replayed)},
)
def replay_requests(call: Call) -> Answer:
    """
    Replay all parked requests that match.

    Those of one resource are decided in the order in which they were decided at first. One that is on its way
    already matches, and is not sent twice. With `dry_run` nothing is sent.
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
    roles=ADMINS,
    body=Refund,
    answers=ACCEPTED,
    problems=(*submission.PROBLEMS, NotFound),
    request_headers=submission.REQUEST_HEADERS,
)
def refund_request(call: Call, request: str) -> Answer:
    """
    Refund a request.

    A request of kind `refund`, decided in its turn: of a parked one it releases what is held, of a completed one
    it gives back all that is left or `amount` of it. Rejected when that would be more than was taken.
    """
    named = read_id(request, "request")
    body: Refund = call.body

    def make(origin: Origin) -> Submission:
        with call.services.connection() as connection:
            return failed_requests.refund(
                connection, named, body.amount, body.reason, call.caller, origin.idempotency_key
            )

    return submission.accept(call, "refund", make=make)
