"""
Requests: state, ledger lines and history of each, and its cancellation.
"""

from typing import Annotated, Any, Final, get_args
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from api.services import Call
from api.web import long_poll, problems, submission
from api.web.fields import ID_PATTERN, KEY_PATTERN, Body, OneOf, Text, optional
from api.web.pagination import Page, listed
from api.web.parsing import read_id
from api.web.problems import Invalid, NotFound
from api.web.responses import AllOf, ListOf
from api.web.routing import Answer, AnswerDoc, Routes
from processor.domain.kinds import KINDS
from processor.domain.model import EntryKind, RejectionCode, Stage, Status
from processor.errors import Archived
from processor.operations import cancel as cancellations
from processor.operations.cancel import NotCancellable, ReasonRefused
from processor.reading import request_lists, requests
from processor.reading.request_lists import RequestFilter
from processor.reading.requests import Place
from processor.records.documents import RequestRecord

routes = Routes("Requests")

problems.declare(
    NotCancellable.code,
    status=409,
    title="Too late to cancel",
    explanation="The request is decided already. Its status shows the decision.",
    remedy="An admin can refund a request that is completed or has failed. A reservation that is held is released.",
)


RequestKind = Annotated[str, OneOf(KINDS)]


class Error(BaseModel):
    """The reason for the status of a request that is rejected, cancelled, refunded or failed."""

    code: str = Field(
        examples=["out_of_stock"],
        description=f"If the request is rejected, one of: {', '.join(get_args(RejectionCode))}.",
    )
    reason: str | None = Field(
        default=None, description="The reason that the gateway, the approver or the operator gave."
    )
    resource: str | None = Field(
        default=None, description="The resource of the leg that was refused, if the request has `legs`."
    )


class ShownLeg(BaseModel):
    """One resource of a request, with the amount that is taken or given."""

    resource: str
    take: int | None = None
    give: int | None = None


class WaitingFor(BaseModel):
    """The reason why a queued request waits."""

    partition: int
    paused: bool


class Request(BaseModel):
    """A request and its present state."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    kind: RequestKind
    status: Status
    stage: Stage | None
    resource: str | None = Field(default=None, description="A request with `legs` has none, and no amount.")
    account: str | None
    amount: int | None = None
    legs: list[ShownLeg] | None = Field(
        default=None, description="The legs as they were sent, if the request has several resources."
    )
    error: Error | None
    result: dict[str, Any] | None
    refunded: int
    version: int
    sequence: int | None = Field(description="The number of its decision within its partition, without gaps.")
    metadata: dict[str, Any]
    created_at: AwareDatetime
    decided_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    apply_before: AwareDatetime | None = None
    refund_of: str | None = None
    expires_at: AwareDatetime | None = Field(
        default=None, description="While a reservation is held: the time until which it can be captured."
    )
    position: int | None = Field(
        default=None,
        description="While the request is queued: the number of requests of its partition before it. Exact up to"
        " 1,000; 1,000 also stands for more.",
    )
    waiting_for: WaitingFor | None = Field(
        default=None, description="While the request is queued: the paused partition of one of its legs."
    )


class RequestList(ListOf[Request]):
    """Requests."""


class Entry(BaseModel):
    """One immutable line of a resource's ledger, with the state after it."""

    resource: str
    version: int
    kind: EntryKind
    request: str | None = Field(
        description="Null, like `account`: the request is of another client, from before the resource was yours."
    )
    account: str | None
    amount: int
    available: int | None = Field(
        description="Null, like `held`: the resource belongs to another client now."
    )
    held: int | None
    created_at: AwareDatetime


class EntryList(ListOf[Entry]):
    """Ledger lines."""


class Event(BaseModel):
    """A state that a request entered."""

    at: AwareDatetime
    status: Status
    stage: Stage | None
    actor: str
    detail: str | None
    trace: str | None = Field(
        default=None, description="For operators and admins: the traceback of the fault."
    )


class EventList(AllOf[Event]):
    """The history of a request."""


#: The answers of a route that makes a request.
ACCEPTED: Final = {
    202: AnswerDoc(
        "Accepted: the request is durable and will be decided in its turn.",
        Request,
        headers=("Location", "Retry-After", "ETag", "Idempotency-Replayed", "Preference-Applied"),
    ),
    200: AnswerDoc(
        "The request is final already: the call waited for it, or used its key again.",
        Request,
        headers=("Location", "ETag", "Idempotency-Replayed", "Preference-Applied"),
    ),
}
#: The answer of a route that records a command about a request.
RECORDED: Final = {
    202: AnswerDoc(
        "The command is recorded and will be decided in its turn.",
        Request,
        headers=("Location", "Retry-After", "ETag"),
    )
}


class RequestQuery(Page):
    """The requests that a client asks for."""

    status: Status = optional()
    kind: RequestKind = optional()
    resource: Annotated[str, Field(pattern=ID_PATTERN)] = optional()
    account: Annotated[str, Field(pattern=ID_PATTERN)] = optional()
    idempotency_key: Annotated[str, Field(pattern=KEY_PATTERN)] = optional(
        "The request that was made with this key. Each client may have one."
    )
    client: Annotated[str, Field(pattern=ID_PATTERN)] = optional(
        "For operators and admins: only the requests of this client. A client has its own anyway."
    )


class Cancellation(Body):
    """The reason of a cancellation."""

    reason: Text = optional("From operators and admins only, who may leave it out. The audit keeps it.")


@routes.add(
    "GET",
    "/v1/requests/<request>",
    answers={
        200: AnswerDoc("The request.", Request, headers=("ETag", "Preference-Applied")),
        304: AnswerDoc(
            "Unchanged since the `ETag` in `If-None-Match`.", headers=("ETag", "Preference-Applied")
        ),
    },
    problems=(NotFound, Archived),
    request_headers=("Prefer", "IfNoneMatch"),
)
def get_request(call: Call, request: str) -> Answer:
    """
    Read a request.

    While it is queued, `position` is the number of requests of its partition before it. `waiting_for` names a paused
    partition that one of its legs is in.
    """
    request_id = read_id(request, "request")
    record, place = _read(call, request_id)
    headers: dict[str, str] = {}
    seconds = long_poll.read_preference(call.header("HTTP_PREFER"))
    if seconds is not None:
        record = submission.wait_for(call, record, seconds, headers)
        if record.is_final:
            place = None
        elif seconds > 0:
            record, place = _read(call, request_id)  # the place changes without an announcement
    headers["ETag"] = submission.etag(record, place)
    if _matches(call.header("HTTP_IF_NONE_MATCH"), headers["ETag"]):
        return Answer(None, 304, headers)
    document = record.document()
    if place is not None:
        document |= place.document()
    return Answer(document, 200, headers)


@routes.add(
    "GET",
    "/v1/requests",
    query=RequestQuery,
    answers={200: AnswerDoc("Newest first.", RequestList)},
)
def list_requests(call: Call) -> Answer:
    """
    List requests.

    A client gets its own requests. Operators and admins get those of all clients. They are ordered by `created_at`,
    and by `id` among those of the same time. A page may be shorter than `limit` while there is a `next_cursor`.
    """
    query: RequestQuery = call.query
    which = RequestFilter(
        query.status,
        query.kind,
        query.resource,
        query.account,
        client=query.client,
        key=query.idempotency_key,
    )
    with call.services.connection() as connection:
        page = request_lists.list_requests(connection, call.caller.sees, which, query.limit, query.cursor)
    return Answer(listed(page))


@routes.add(
    "GET",
    "/v1/requests/<request>/entries",
    query=Page,
    answers={200: AnswerDoc("Newest first.", EntryList)},
    problems=(NotFound, Archived),
)
def list_request_entries(call: Call, request: str) -> Answer:
    """
    Read the ledger lines of a request.

    Includes those of all resources that it changed, and those of its refunds.
    """
    request_id = read_id(request, "request")
    part: Page = call.query
    _read(call, request_id)
    with call.services.connection() as connection:
        page = requests.list_request_entries(
            connection, request_id, call.caller.sees, part.limit, part.cursor
        )
    return Answer(listed(page))


@routes.add(
    "GET",
    "/v1/requests/<request>/events",
    answers={200: AnswerDoc("Oldest first, all in one page.", EventList)},
    problems=(NotFound, Archived),
)
def list_events(call: Call, request: str) -> Answer:
    """
    Read the history of a request.

    Each state that it entered, with time and actor.
    """
    request_id = read_id(request, "request")
    _read(call, request_id)
    with call.services.connection() as connection:
        events = requests.read_events(connection, request_id, traces=call.caller.sees is None)
    return Answer({"data": events})


@routes.add(
    "POST",
    "/v1/requests/<request>/cancel",
    body=Cancellation,
    body_optional=True,
    answers=RECORDED,
    problems=(NotFound, Archived, NotCancellable),
)
def cancel(call: Call, request: str) -> Answer:
    """
    Cancel a request.

    Records a command, which may come too late. The status of the request shows the result. Operators and admins may
    give a reason.
    """
    request_id = read_id(request, "request")
    body: Cancellation = call.body
    try:
        with call.services.connection() as connection:
            record, command = cancellations.cancel(connection, request_id, call.caller, body.reason)
    except ReasonRefused as refused:
        raise Invalid.at("/reason", str(refused)) from None
    call.services.doorbell.notify(command.partition)
    return submission.recorded(record)


def _read(call: Call, request_id: UUID) -> tuple[RequestRecord, Place | None]:
    with call.services.connection() as connection:
        return requests.read_request(connection, request_id, call.caller.sees)


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether the client has this representation, by weak comparison (RFC 9110, 13.1.2)."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
