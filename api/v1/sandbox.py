"""
The sandbox gateway, for trials, served if TELLER_GATEWAYS has it (docs/gateways.md).

Called by the courier over HTTP like any other, so it asks for no key, but for the courier's signature.
"""

import time
from typing import Any, ClassVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.services import Call
from api.web import idempotency
from api.web.fields import Body
from api.web.large_bodies import TooManyLargeBodies
from api.web.problems import (
    RETRY_AFTER_SECONDS,
    BodyTooLarge,
    IdempotencyKeyMissing,
    Invalid,
    Malformed,
    NotFound,
    Unauthorized,
    UnsupportedMediaType,
)
from api.web.responses import AllOf
from api.web.routing import Answer, AnswerDoc, Routes
from processor.domain.roles import OPERATORS
from processor.errors import DatabaseUnavailable
from processor.gateways import sandbox, signatures
from processor.records.documents import timestamp
from processor.settings import BUILTIN, SANDBOX

routes = Routes("Sandbox gateway")


class SandboxPayout(BaseModel):
    """The sandbox gateway has paid."""

    reference: str


class SandboxRefusal(BaseModel):
    """The sandbox gateway has not paid."""

    reason: str


class SandboxCall(BaseModel):
    """A call that the sandbox gateway received, and the status of its answer."""

    at: AwareDatetime
    status: int


class SandboxPast(AllOf[SandboxCall]):
    """The calls that the sandbox gateway received for a request."""

    payouts: int = Field(description="One, or none.")


class Order(BaseModel):
    """
    The order that a gateway receives. The sandbox reads the destination alone, and accepts any other value.

    A check would answer 422, which means a definite no.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)

    request: Any = Field(default=None, description="The id of the request.")
    kind: Any = None
    account: Any = None
    resource: Any = None
    amount: Any = None
    destination: Any = Field(
        default=None,
        description="`decline`, `unavailable`, `flaky` or `slow`. Any other order is paid at once.",
        examples=["flaky"],
    )
    metadata: Any = None


class Past(Body):
    """The request whose calls a client asks for."""

    request: str = Field(description="The id of a request.", json_schema_extra={"format": "uuid"})


def _refuse_if_not_served(call: Call) -> None:
    if call.services.settings.gateways.get(SANDBOX) != BUILTIN:
        raise NotFound("the sandbox gateway is not served here")


def _refuse_unsigned(call: Call) -> None:
    """
    Check the signature over the bytes of the body, which are not parsed before.

    The signature covers the message id. The courier uses the idempotency key as that id.
    """
    _refuse_if_not_served(call)
    key = idempotency.read_key(call.header("HTTP_IDEMPOTENCY_KEY"))
    settings = call.services.settings
    signed = signatures.is_signed(
        call.header("HTTP_WEBHOOK_ID") or "",
        call.header("HTTP_WEBHOOK_TIMESTAMP") or "",
        call.raw,
        call.header("HTTP_WEBHOOK_SIGNATURE") or "",
        signatures.gateway_key(settings.gateway_secret, settings.secret),
        time.time(),
    )
    if not signed or call.header("HTTP_WEBHOOK_ID") != key:
        raise Unauthorized("this call is not signed with the gateway secret")


@routes.add(
    "POST",
    "/sandbox/gateway",
    roles=frozenset(),
    body=Order,
    answers={
        200: AnswerDoc("Paid, by this call or an earlier one.", SandboxPayout),
        422: AnswerDoc("Declined for good.", SandboxRefusal),
        503: AnswerDoc("Unavailable; the outcome is unknown.", SandboxRefusal, headers=("Retry-After",)),
    },
    problems=(
        BodyTooLarge,
        DatabaseUnavailable,
        IdempotencyKeyMissing,
        Invalid,
        Malformed,
        NotFound,
        TooManyLargeBodies,
        Unauthorized,
        UnsupportedMediaType,
    ),
    request_headers=("IdempotencyKey",),
    authenticate=_refuse_unsigned,
)
def call_sandbox(call: Call) -> Answer:
    """
    Pay as a gateway.

    `destination` selects the answer: `decline` 422, `unavailable` always 503, `flaky` 503 twice and then 200, `slow`
    200 after 3 s. Every other destination gets 200. The gateway pays once for each Idempotency-Key, which is the id
    of a request. Calls are signed like the delivery of a webhook.
    """
    key = idempotency.read_key(call.header("HTTP_IDEMPOTENCY_KEY"))
    destination = call.body.destination if isinstance(call.body.destination, str) else None
    with call.services.connection() as connection:
        reply = sandbox.perform(connection, _request_id(key), destination)
    with call.services.views.aside():  # a pause holds up no other call of the courier
        time.sleep(reply.pause_seconds)
    if reply.reference is not None:
        return Answer({"reference": reply.reference}, reply.status)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if reply.status >= 500 else {}  # noqa: PLR2004
    return Answer({"reason": reply.reason}, reply.status, headers)


@routes.add(
    "GET",
    "/sandbox/gateway/calls",
    roles=OPERATORS,
    query=Past,
    answers={200: AnswerDoc("Oldest first, all in one page.", SandboxPast)},
    problems=(NotFound,),
)
def list_sandbox_calls(call: Call) -> Answer:
    """
    Read the calls of the sandbox gateway.

    Lists the calls for one request, and counts the payouts, which are one or none.
    """
    _refuse_if_not_served(call)
    past: Past = call.query
    with call.services.connection() as connection:
        calls, payouts = sandbox.read_past(connection, _request_id(past.request, "/request"))
    return Answer(
        {"data": [{"at": timestamp(one.at), "status": one.status} for one in calls], "payouts": payouts}
    )


def _request_id(text: str, pointer: str = "") -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Invalid.at(pointer, "must be the id of a request") from None
