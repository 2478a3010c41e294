"""
Errors as the outside sees them: problem+json (RFC 9457), and a page that explains each.

The only place that knows which HTTP status an error becomes. An error of the processor has a code; the table
here gives that code a status, a title and an explanation.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

import pydantic_core
from flask import Response

from processor.clients.codes import CodeCooldown, CodeInvalid, CodeLocked
from processor.clients.webhooks import WEBHOOKS_MAX, TooManyWebhooks
from processor.errors import (
    DatabaseUnavailable,
    IdempotencyKeyReused,
    PartitionSaturated,
    SchemaError,
    TellerError,
)
from processor.gateways.addresses import WebhookAddressRefused
from processor.operations.approvals import ApproverIsRequester, NotAwaitingApproval, NotAwaitingConfirmation
from processor.operations.cancel import NotCancellable
from processor.operations.failed_requests import NotFailed
from processor.operations.resends import WebhookDisabled

#: The media type of every error.
PROBLEM_JSON = "application/problem+json"
#: Seconds after which what was refused for now may be tried again.
RETRY_AFTER_SECONDS = 1


class Malformed(TellerError):
    """The body is not JSON."""

    code = "malformed"


class Invalid(TellerError):
    """The body or the query is of the wrong shape. `errors`: a JSON pointer and a sentence for each mistake."""

    code = "invalid"

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{error['pointer'] or 'the body'}: {error['detail']}" for error in errors[:3])
        )
        self.errors = errors

    @classmethod
    def at(cls, pointer: str, detail: str) -> Self:
        """One mistake."""
        return cls([{"pointer": pointer, "detail": detail}])


class Unauthorized(TellerError):
    """No key, or one that is not (or no longer) valid."""

    code = "unauthorized"


class Forbidden(TellerError):
    """The key's role may not do this."""

    code = "forbidden"


class RateLimited(TellerError):
    """Too often: to be tried again after so many seconds."""

    code = "rate_limited"

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class NotFound(TellerError):
    """There is no such thing, or it is somebody else's: both are answered alike."""

    code = "not_found"


class NameServiceSilent(TellerError):
    """The name in an address could not be looked up in time."""

    code = "name_service_silent"


class IdempotencyKeyMissing(TellerError):
    """A POST that makes a request came without an idempotency key."""

    code = "idempotency_key_missing"


class BodyTooLarge(TellerError):
    """The body has more bytes than we read."""

    code = "body_too_large"


class UnsupportedMediaType(TellerError):
    """The body says that it is something else than JSON."""

    code = "unsupported_media_type"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: what it is called, what it means and why it comes, and what to do about it."""

    status: int
    title: str
    explanation: str
    remedy: str


PROBLEMS: dict[str, Kind] = {
    Malformed.code: Kind(
        400,
        "The body is not JSON",
        "The body could not be read as JSON (RFC 8259) in UTF-8. NaN and Infinity are no JSON.",
        "Send what a JSON library wrote; detail says at which line and column the reading ended.",
    ),
    IdempotencyKeyMissing.code: Kind(
        400,
        "An Idempotency-Key is required",
        "Every POST that makes a request needs a header Idempotency-Key of 1 to 255 printable characters, chosen by "
        "you: without it, nobody could tell a retry from a second request.",
        "Use one key for one intent and send it again with every retry: it then happens once.",
    ),
    Unauthorized.code: Kind(
        401,
        "A valid key is required",
        "The key is missing, unknown, has expired or was revoked.",
        "Send Authorization: Bearer <key>. An admin makes keys: in the console, or with teller keys create.",
    ),
    Forbidden.code: Kind(
        403,
        "Not allowed",
        "The role of your key (client, operator or admin) does not allow this.",
        "Use a key of the role that detail names, or ask somebody who has one.",
    ),
    NotFound.code: Kind(
        404,
        "Not found",
        "There is nothing at this address, or it belongs to another client: both are answered alike.",
        "Look at the address for a slip, and whether the key is of the client that owns it.",
    ),
    "method_not_allowed": Kind(
        405,
        "Method not allowed",
        "The address exists, and takes other methods.",
        "Use one of those that the header Allow names.",
    ),
    NotCancellable.code: Kind(
        409,
        "Too late to cancel",
        "The request is decided already. Its status says how it ended.",
        "What was taken can only be refunded, by an admin.",
    ),
    NotFailed.code: Kind(
        409,
        "Not parked",
        "Only a request whose status is failed can be replayed. Its status says what it is; one that was replayed a "
        "moment ago is being tried again already.",
        "Read the request again; there may be nothing left to do.",
    ),
    TooManyWebhooks.code: Kind(
        409,
        "Too many webhooks",
        f"A client may have {WEBHOOKS_MAX} webhooks, for each is told of each of its requests.",
        "Delete one that is no longer needed first.",
    ),
    WebhookDisabled.code: Kind(
        409,
        "The webhook is disabled",
        "It answered 410 Gone, so nothing is sent to it any more.",
        "When the receiver is back, delete the webhook and register its address anew; it gets a new secret.",
    ),
    BodyTooLarge.code: Kind(
        413,
        "The body is too large",
        "A body may have at most 1 MiB (1,048,576 bytes).",
        "Send less at a time, such as fewer items in a batch.",
    ),
    UnsupportedMediaType.code: Kind(
        415,
        "Not JSON",
        "The header Content-Type says that the body is something else than JSON.",
        "Send the body as JSON, with Content-Type: application/json (or leave that header out).",
    ),
    Invalid.code: Kind(
        422,
        "The request is not valid",
        "It is JSON, but not of the right shape: a field is missing, unknown, of the wrong type or out of range. "
        "Query parameters count, too.",
        "The member errors points at each mistake with a JSON pointer (RFC 6901), and says what it should be.",
    ),
    IdempotencyKeyReused.code: Kind(
        422,
        "The idempotency key was used for something else",
        "Your client used this Idempotency-Key before, with another body.",
        "A retry must send the same body; another intent needs another key.",
    ),
    WebhookAddressRefused.code: Kind(
        422,
        "Nothing is sent to this address",
        "A webhook's URL begins with https:// and names a host whose addresses are all public: none that is private, "
        "loopback, link-local or reserved, none of a cloud's metadata service. It holds no user and no password.",
        "Register an address that can be reached from the internet. Who runs Teller in a closed network sets "
        "TELLER_ALLOW_PRIVATE_WEBHOOKS=1.",
    ),
    ApproverIsRequester.code: Kind(
        403,
        "Somebody else must say so",
        "A withdrawal is approved, or denied, by an admin or operator of another client than the one that made it.",
        "Ask somebody whose key belongs to another client.",
    ),
    NotAwaitingConfirmation.code: Kind(
        409,
        "It waits for no code",
        "Only a withdrawal in the stage awaiting_confirmation is confirmed with a code.",
        "Read the request: its status and stage say what it is, and whether it was confirmed already.",
    ),
    NotAwaitingApproval.code: Kind(
        409,
        "It waits for no approval",
        "Only a withdrawal in the stage awaiting_approval is approved or denied.",
        "Read the request: its status and stage say what it is; somebody else may have been first.",
    ),
    CodeInvalid.code: Kind(
        422,
        "The code is not valid",
        "It is wrong, was used, has expired, or was replaced by a newer one.",
        "attempts_remaining says how often the present code may still be tried; at 0, ask for a new one.",
    ),
    CodeCooldown.code: Kind(
        429,
        "A code was sent a moment ago",
        "Each destination is given one code in TELLER_CODE_COOLDOWN_SECONDS, whoever asks. Nothing was sent.",
        "Use the code that was sent, or try again after Retry-After seconds.",
    ),
    CodeLocked.code: Kind(
        429,
        "Locked for today",
        "There were too many wrong tries of codes at this destination today (UTC). Until tomorrow your client can "
        "neither try nor ask for one.",
        "Try again after Retry-After seconds.",
    ),
    RateLimited.code: Kind(
        429,
        "Too many requests",
        "This key makes more requests in a second than it may (TELLER_RATE_LIMIT), or too many sign-ins from your "
        "address have failed (TELLER_SIGN_IN_LIMIT). Nothing was done.",
        "Try again after Retry-After seconds. The headers RateLimit-Policy and RateLimit tell what you may, and what "
        "is left of it; /v1/batches takes up to 1,000 requests at once.",
    ),
    "internal_error": Kind(
        500,
        "Something went wrong here",
        "A mistake of ours. The log has the details under the X-Request-Id of the answer.",
        "Whether the request was made, the same POST with the same Idempotency-Key finds out. If it stays so, tell "
        "who runs this Teller that X-Request-Id.",
    ),
    DatabaseUnavailable.code: Kind(
        503,
        "The database is not available",
        "Nothing is known about what was under way.",
        "Try again after Retry-After seconds: the same POST with the same Idempotency-Key finds out, and does it if "
        "it was not done.",
    ),
    SchemaError.code: Kind(
        503,
        "The database is not ready",
        "The database is not migrated to the schema that this version needs.",
        "Who runs this Teller runs teller migrate.",
    ),
    NameServiceSilent.code: Kind(
        503,
        "The address could not be looked up",
        "The name service did not say in time where the URL leads. Nothing was registered.",
        "Try again after Retry-After seconds.",
    ),
    PartitionSaturated.code: Kind(
        503,
        "Too much is waiting",
        "The partition of this resource has as much waiting as it may have. Nothing was stored.",
        "Try again after Retry-After seconds, with the same Idempotency-Key.",
    ),
}

#: What Flask's own errors are called here.
_HTTP_ERRORS = {400: "malformed", 404: "not_found", 405: "method_not_allowed"}
_REFUSED_FOR_NOW = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_UNAUTHENTICATED = {"WWW-Authenticate": 'Bearer realm="teller"'}


def type_of(code: str) -> str:
    """The relative URI of a kind of problem; it answers with its explanation."""
    return f"/problems/{code.replace('_', '-')}"


def status_of(error: TellerError) -> int:
    """The HTTP status of an error."""
    return PROBLEMS[error.code].status if error.code in PROBLEMS else 500


def document(error: TellerError) -> dict[str, Any]:
    """An error as the JSON of RFC 9457. What has no entry in the table is told to nobody but the log."""
    code = error.code if error.code in PROBLEMS else "internal_error"
    problem = _document(code, str(error) if code == error.code else "")
    if isinstance(error, Invalid):
        problem["errors"] = error.errors
    elif isinstance(error, CodeInvalid):
        problem["attempts_remaining"] = error.attempts_remaining
    return problem


def document_of(code: str) -> dict[str, Any]:
    """What the JSON of this kind of problem looks like."""
    return _document(code, "")


def answer(error: TellerError) -> Response:
    """An error as an HTTP response."""
    return _response(document(error), retry_after_seconds=error.retry_after_seconds)


def answer_http(status: int, headers: dict[str, str]) -> Response:
    """An error that Flask found by itself (no such route, wrong method, body too large) as a problem."""
    return _response(_document(_HTTP_ERRORS.get(status, "internal_error"), ""), headers)


def internal_error() -> Response:
    """The answer to what nobody expected; says nothing about it."""
    return _response(_document("internal_error", ""))


def _document(code: str, detail: str) -> dict[str, Any]:
    kind = PROBLEMS[code]
    return {
        "type": type_of(code),
        "title": kind.title,
        "status": kind.status,
        "detail": detail or f"{kind.explanation} {kind.remedy}",
        "code": code,
    }


def _response(
    problem: dict[str, Any], headers: dict[str, str] | None = None, retry_after_seconds: int | None = None
) -> Response:
    response = Response(pydantic_core.to_json(problem), problem["status"], headers, content_type=PROBLEM_JSON)
    if problem["status"] == HTTPStatus.UNAUTHORIZED:
        response.headers.update(_UNAUTHENTICATED)
    elif problem["status"] in _REFUSED_FOR_NOW:
        response.headers["Retry-After"] = str(retry_after_seconds or RETRY_AFTER_SECONDS)
    return response
