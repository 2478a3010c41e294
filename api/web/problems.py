"""
Errors as clients receive them: problem+json (RFC 9457), with a page for each type of problem.

An error has a code. PROBLEMS gives each code its HTTP status, title and explanation. The general problems are
declared here; each noun declares its own beside its routes.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self

import pydantic_core
from flask import Response

from api.web import prefix
from processor.errors import Archived, DatabaseUnavailable, Forbidden, SchemaError, TellerError

#: The media type of every error.
PROBLEM_JSON: Final = "application/problem+json"
#: The usual `Retry-After` of a 429 or 503, in seconds.
RETRY_AFTER_SECONDS: Final = 1


class Malformed(TellerError):
    """The body is not JSON, or a header is ambiguous."""

    code = "malformed"


class Invalid(TellerError):
    """
    The body or the query has the wrong shape.

    `errors` has a JSON pointer and a sentence for each mistake.
    """

    code = "invalid"

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{error['pointer'] or 'the body'}: {error['detail']}" for error in errors[:3])
        )
        self.errors = errors

    @classmethod
    def at(cls, pointer: str, detail: str) -> Self:
        """Create the error for one mistake."""
        return cls([{"pointer": pointer, "detail": detail}])


class Unauthorized(TellerError):
    """The key is missing, or it is not valid (or no longer valid)."""

    code = "unauthorized"


class RateLimited(TellerError):
    """The client has reached a limit. It may try again after `retry_after_seconds`."""

    code = "rate_limited"

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class NotFound(TellerError):
    """There is no such object, or it belongs to another client. The answer is the same in both cases."""

    code = "not_found"


class IdempotencyKeyMissing(TellerError):
    """A POST that makes a request came without an idempotency key."""

    code = "idempotency_key_missing"


class BodyTooLarge(TellerError):
    """The body exceeds the limit."""

    code = "body_too_large"


class UnsupportedMediaType(TellerError):
    """The body is declared as something other than JSON."""

    code = "unsupported_media_type"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A type of problem: its status and title, its meaning, and the action that resolves it."""

    status: int
    title: str
    explanation: str
    remedy: str
    #: Attributes of the error that its JSON has as members of the same name.
    members: tuple[str, ...] = ()


#: All types of problems by code. Complete when `api.app` is imported.
PROBLEMS: Final[dict[str, ProblemType]] = {}


def declare(
    code: str, *, status: int, title: str, explanation: str, remedy: str, members: tuple[str, ...] = ()
) -> None:
    """
    Add a type of problem. Raises ValueError if its code is taken.
    """
    if code in PROBLEMS:
        raise ValueError(f"the problem {code} is declared twice")
    PROBLEMS[code] = ProblemType(status, title, explanation, remedy, members)


declare(
    Malformed.code,
    status=400,
    title="The request cannot be read",
    explanation="The body could not be read as JSON (RFC 8259) in UTF-8. NaN and Infinity are not JSON. "
    "Or a header was sent twice with different values.",
    remedy="Send the output of a JSON library, and each header once. detail names the line and column at which the "
    "parser stopped, or the header.",
)
declare(
    IdempotencyKeyMissing.code,
    status=400,
    title="An Idempotency-Key is required",
    explanation="Every POST that makes a request needs a header Idempotency-Key of 1 to 255 printable characters, "
    "chosen by the client. Without it, a retry could not be distinguished from a second request.",
    remedy="Use one key for each intended request, and send it again with every retry: the request is made once.",
)
declare(
    Unauthorized.code,
    status=401,
    title="A valid key is required",
    explanation="The key is missing, unknown, expired or revoked.",
    remedy="Send Authorization: Bearer <key>. An admin creates keys in the console or with teller keys create.",
)
declare(
    Forbidden.code,
    status=403,
    title="Not allowed",
    explanation="The role of your key (client, operator or admin) does not allow this.",
    remedy="Use a key with a role that detail names.",
)
declare(
    NotFound.code,
    status=404,
    title="Not found",
    explanation="There is nothing at this address, or it belongs to another client. "
    "The answer is the same in both cases.",
    remedy="Check the spelling of the address, and that the key belongs to the client that owns the object.",
)
declare(
    Archived.code,
    status=410,
    title="In the archive",
    explanation="The request was finished long ago, and has left the database for a file of the archive. The member "
    "archive has the name of the file. For a resource at a time in the past, archive is null.",
    remedy="The operator of this Teller has the file. A request in the archive can no longer be changed or refunded.",
    members=("archive",),
)
declare(
    "method_not_allowed",
    status=405,
    title="Method not allowed",
    explanation="The address exists, and accepts other methods.",
    remedy="Use a method that the header Allow names.",
)
declare(
    BodyTooLarge.code,
    status=413,
    title="The body is too large",
    explanation="A body may have at most 1 MiB (1,048,576 bytes).",
    remedy="Send less at a time, such as fewer items in a batch.",
)
declare(
    UnsupportedMediaType.code,
    status=415,
    title="Not JSON",
    explanation="The header Content-Type declares the body as something other than JSON.",
    remedy="Send the body as JSON with Content-Type: application/json, or without that header.",
)
declare(
    Invalid.code,
    status=422,
    title="The request is not valid",
    explanation="The body is JSON of the wrong shape: a field is missing, unknown, of the wrong type or out of "
    "range. The same applies to query parameters.",
    remedy="The member errors has a JSON pointer (RFC 6901) to each mistake, and the values that are valid there.",
    members=("errors",),
)
declare(
    RateLimited.code,
    status=429,
    title="Too many requests",
    explanation="This key exceeds its number of requests in a second (TELLER_RATE_LIMIT), or too many sign-ins from "
    "your address have failed (TELLER_SIGN_IN_LIMIT). Nothing was done.",
    remedy="Try again after Retry-After seconds. The headers RateLimit-Policy and RateLimit state the limit and "
    "how much of it is left. Each item of a batch counts as a request.",
)
declare(
    "internal_error",
    status=500,
    title="Something went wrong here",
    explanation="This is a fault in Teller. Its log has the details under the X-Request-Id of the answer.",
    remedy="To find out whether the request was made, send the same POST with the same Idempotency-Key. If the "
    "problem persists, report that X-Request-Id to the operator of this Teller.",
)
declare(
    DatabaseUnavailable.code,
    status=503,
    title="The database is not available",
    explanation="The outcome of a request that was being made is unknown.",
    remedy="Try again after Retry-After seconds. The same POST with the same Idempotency-Key finds out, and makes "
    "the request if it was not made.",
)
declare(
    SchemaError.code,
    status=503,
    title="The database is not ready",
    explanation="The database is not migrated to the schema that this version needs.",
    remedy="The operator of this Teller runs teller migrate.",
)

#: The codes of Flask's own errors, by status.
_HTTP_ERRORS: Final = {400: "malformed", 404: "not_found", 405: "method_not_allowed"}
_TEMPORARY: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_UNAUTHENTICATED: Final = {"WWW-Authenticate": 'Bearer realm="teller"'}


def type_of(code: str) -> str:
    """Return the relative URI of a type of problem. It leads to the page that explains it."""
    return prefix.address(path_of(code))


def path_of(code: str) -> str:
    """Return the path of the page that explains a type of problem."""
    return f"/problems/{code.replace('_', '-')}"


def status_of(error: TellerError) -> int:
    """Return the HTTP status of an error."""
    return PROBLEMS[error.code].status if error.code in PROBLEMS else 500


def document(error: TellerError) -> dict[str, Any]:
    """
    Return an error as the JSON of RFC 9457.

    The message of an error without a declared problem appears in the log alone.
    """
    if error.code not in PROBLEMS:
        return _document("internal_error", "")
    members = {name: getattr(error, name) for name in PROBLEMS[error.code].members}
    return _document(error.code, detail_of(error)) | members


def detail_of(error: TellerError) -> str:
    """
    Return the message of an error as clients may read it, or "".

    A message of PostgreSQL, which can name a table or a host, appears in the log alone.
    """
    return "" if isinstance(error, DatabaseUnavailable) else str(error)


def document_of(code: str) -> dict[str, Any]:
    """Return an example of the JSON of a type of problem."""
    return _document(code, "")


def answer(error: TellerError) -> Response:
    """Return an error as an HTTP response."""
    return _response(document(error), retry_after_seconds=error.retry_after_seconds)


def answer_http(status: int, headers: dict[str, str]) -> Response:
    """Return an error that Flask found itself (no such route, wrong method, body too large) as a problem."""
    return _response(_document(_HTTP_ERRORS.get(status, "internal_error"), ""), headers)


def internal_error() -> Response:
    """Return the response to an unexpected error. It has no details."""
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
    elif problem["status"] in _TEMPORARY:
        response.headers["Retry-After"] = str(retry_after_seconds or RETRY_AFTER_SECONDS)
    return response
