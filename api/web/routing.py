"""
Routes as data: address, roles, input and answers.

The module of a noun declares its routes with a decorator. The same declaration checks the input before the view is
called, and becomes the OpenAPI document, so the two cannot differ. A view takes a Call and returns an Answer, or
raises a TellerError.
"""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

import pydantic_core
from flask import Response

from api.web import parsing, turns
from api.web.auth import CONFIRM_SECONDS
from api.web.fields import NoQuery
from api.web.large_bodies import LARGE_BYTES, LargeBodies
from api.web.problems import BodyTooLarge, Malformed, UnsupportedMediaType
from api.web.unread_bodies import IS_READ
from processor.domain.roles import ALL_ROLES
from processor.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from wsgiref.types import StartResponse, WSGIEnvironment

    from pydantic import BaseModel

    from api.web.auth import Authenticator
    from api.web.long_poll import Waiters
    from api.web.turns import Turns
    from processor.clients.keys import Caller
    from processor.errors import TellerError
    from processor.intake.intake import Receipt, Submission
    from processor.records.documents import RequestRecord
    from processor.storage.connections import Connection

#: The limit of a body.
BODY_BYTES_MAX: Final = 1024 * 1024
#: The digits of a header Content-Length.
LENGTH_DIGITS_MAX: Final = 20
#: The keys of the WSGI environment that have route, client and problem for the log. REQUEST is the id of the request
#: that the call made or names, and FAULT the exception that no view expected.
ROUTE: Final = "teller.route"
CLIENT: Final = "teller.client"
PROBLEM: Final = "teller.problem"
REQUEST: Final = "teller.request"
FAULT: Final = "teller.fault"

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)

_STATUS_LINES: Final = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


def note_names(environ: dict[str, Any], names: Mapping[str, str]) -> None:
    """Note the request that an address names, for the log. Any other text of an address is in no log."""
    request = names.get("request")
    if request is not None and _UUID.fullmatch(request):
        environ[REQUEST] = request


class Services(Protocol):
    """The services that a call needs before its view, and that every POST needs."""

    @property
    def keys(self) -> Authenticator:
        """The keys of callers, with their rate limits."""

    @property
    def bodies(self) -> Turns:
        """The bodies that are being read."""

    @property
    def large_bodies(self) -> LargeBodies:
        """The turns of clients that send large bodies."""

    @property
    def views(self) -> Turns:
        """The views that are at work."""

    @property
    def waiters(self) -> Waiters[RequestRecord]:
        """The callers that wait for a decision."""

    def connection(self) -> AbstractContextManager[Connection]:
        """Lend a connection for a few statements. Raises DatabaseUnavailable."""

    def accept(self, submissions: Sequence[Submission]) -> list[Receipt]:
        """Make requests durable. Raises DatabaseUnavailable."""


ServicesT = TypeVar("ServicesT", bound=Services)


@dataclass(slots=True)
class Call(Generic[ServicesT]):
    """One HTTP request, checked by the declaration of its route."""

    services: ServicesT
    environ: dict[str, Any]
    #: The client that calls. Views of public routes must not use it.
    caller: Caller
    #: The checked body and query, of the types that the route names.
    body: Any = None
    query: Any = None
    #: The parsed body as it was sent, for the fingerprint, and its bytes, for a signature.
    sent: Any = None
    raw: bytes = b""
    #: The time at which key and role were last checked.
    admitted_at: float = 0.0

    def header(self, name: str) -> str | None:
        """Return a header of the request. `name` is spelled as in CGI, such as HTTP_PREFER."""
        value: str | None = self.environ.get(name)
        return value

    def turn(self) -> AbstractContextManager[None]:
        """
        Return a context for work that grows with the body. A large body waits for its turn there.

        Entering it raises TooManyLargeBodies.
        """
        if len(self.raw) <= LARGE_BYTES:
            return nullcontext()
        client = self.environ.get(CLIENT, "")
        return self.services.large_bodies.take(client, is_shared=self.services.views.is_shared())

    def confirm(self) -> None:
        """
        Check the key again after a wait of the view, if it was last checked a while ago, since it may be revoked.

        Raises Unauthorized, RateLimited, DatabaseUnavailable.
        """
        if time.monotonic() - self.admitted_at > CONFIRM_SECONDS:
            self.caller = self.services.keys.confirm(self.environ)
            self.admitted_at = time.monotonic()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a view: a document for JSON, or text of another type."""

    document: Mapping[str, Any] | str | bytes | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class AnswerDoc:
    """The description of one answer of a route, for the OpenAPI document."""

    description: str
    model: type[BaseModel] | None = None
    content_type: str = "application/json"
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One method at one address."""

    method: Method
    path: str
    tag: str
    name: str
    summary: str
    description: str
    view: Callable[..., Answer]
    #: The roles that may use it. Empty: the route is public and needs no key.
    roles: frozenset[str]
    body: type[BaseModel] | None
    #: Whether the body may be left out.
    body_optional: bool
    query: type[BaseModel]
    answers: Mapping[int, AnswerDoc]
    problems: tuple[type[TellerError], ...]
    #: The request headers that it reads, by their names in the components of the OpenAPI document.
    request_headers: tuple[str, ...]
    #: Authenticates the caller of a public route by the bytes of the body, before they are parsed.
    authenticate: Callable[[Call[Any]], None] | None
    #: The values of its body. None: as many as the body has room for.
    values_max: int | None

    def __post_init__(self) -> None:
        if self.body is not None and not self.roles and self.authenticate is None:
            raise ValueError(f"{self.method} {self.path} would parse the body of any caller")

    def check(self, services: ServicesT, environ: dict[str, Any]) -> Call[ServicesT]:
        """
        Check key, role and query of a request, and read its body, in this order. Raises a TellerError.

        A large body is parsed here, in its turn. All others are parsed by `parse`, in a place among the views.
        """
        call = Call(services, environ, None)  # type: ignore[arg-type]  # public routes have no caller
        if self.roles:
            self._admit(call, services.keys.caller(environ))
            values = parsing.split_query(environ.get("QUERY_STRING", ""))
            call.query = parsing.parse_query(self.query, values)
        elif self.authenticate is None:
            turns.act_for(self.path)  # callers without a key have the share of one client together
        if self.body is not None:
            with services.bodies.take(call.environ.get(CLIENT, self.path)):
                call.raw = _read(environ)
            if self.authenticate is not None:
                self.authenticate(call)
            if len(call.raw) > LARGE_BYTES:
                self._parse(call, self.body)
        return call

    def parse(self, call: Call[ServicesT]) -> None:
        """Check the body, unless `check` has done so because it is large. Raises a TellerError."""
        if self.body is not None and call.body is None:
            self._parse(call, self.body)

    def confirm(self, call: Call[ServicesT]) -> None:
        """
        Check key and role again if the body or the slot of the request took long, since the key may be revoked.

        Raises Unauthorized, Forbidden, RateLimited, DatabaseUnavailable.
        """
        if self.roles and time.monotonic() - call.admitted_at > CONFIRM_SECONDS:
            self._admit(call, call.services.keys.confirm(call.environ))

    def _admit(self, call: Call[ServicesT], caller: Caller) -> None:
        call.caller = caller
        call.admitted_at = time.monotonic()
        call.environ[CLIENT] = caller.client
        turns.act_for(caller.client)
        if caller.role not in self.roles:
            raise Forbidden(f"this needs the role {' or '.join(sorted(self.roles))}, yours is {caller.role}")

    def _parse(self, call: Call[ServicesT], model: type[BaseModel]) -> None:
        raw = call.raw
        if self.body_optional and not raw:
            call.sent = {}
            call.body = parsing.validate(model, call.sent)
            return
        _refuse_other_types(call.header("CONTENT_TYPE"))
        with call.turn():
            call.sent = parsing.parse_json(raw, values_max=self.values_max)
            call.body = parsing.validate(model, call.sent)


def _read(environ: dict[str, Any]) -> bytes:
    """
    Read a body, also a chunked one, whose stream the server ends.

    A body that breaks off is shorter than announced. In chunks it looks complete. A part of a JSON object is no
    object, but an empty body may have a meaning of its own. So no body in chunks may be empty.

    Raises BodyTooLarge, Malformed.
    """
    announced = environ.get("CONTENT_LENGTH") or "0"
    if announced.isdecimal() and len(announced) <= LENGTH_DIGITS_MAX and int(announced) <= BODY_BYTES_MAX:
        raw: bytes = environ["wsgi.input"].read(BODY_BYTES_MAX + 1)
        if len(raw) <= BODY_BYTES_MAX:
            environ[IS_READ] = True
        if len(raw) < int(announced) or (not raw and "HTTP_TRANSFER_ENCODING" in environ):
            raise Malformed("the body broke off, or is empty and sent in chunks")
        if len(raw) <= BODY_BYTES_MAX:
            return raw
    raise BodyTooLarge(f"a body may have at most {BODY_BYTES_MAX} bytes")


def _refuse_other_types(content_type: str | None) -> None:
    """Raise UnsupportedMediaType for a type other than JSON. A body without a type counts as JSON."""
    if content_type and content_type != "application/json":
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise UnsupportedMediaType(f"the body is sent as {media_type[:64]}, not as application/json")


class Routes:
    """The routes of one noun."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.all: list[Route] = []

    def add(
        self,
        method: Method,
        path: str,
        *,
        answers: Mapping[int, AnswerDoc],
        roles: frozenset[str] = ALL_ROLES,
        body: type[BaseModel] | None = None,
        body_optional: bool = False,
        query: type[BaseModel] = NoQuery,
        problems: tuple[type[TellerError], ...] = (),
        request_headers: tuple[str, ...] = (),
        authenticate: Callable[[Call[Any]], None] | None = None,
        values_max: int | None = parsing.VALUES_MAX,
    ) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
        """
        Declare a view.

        The first line of its docstring is the summary in the OpenAPI document, and the rest is the description.
        Raises ValueError for a route that would parse a body without authentication.
        """

        def declare(view: Callable[..., Answer]) -> Callable[..., Answer]:
            summary, _, description = (view.__doc__ or "").strip().partition("\n\n")
            self.all.append(
                Route(
                    method=method,
                    path=path,
                    tag=self.tag,
                    name=view.__name__,
                    summary=" ".join(summary.split()).rstrip("."),
                    description=" ".join(description.split()),
                    view=view,
                    roles=roles,
                    body=body,
                    body_optional=body_optional,
                    query=query,
                    answers=answers,
                    problems=problems,
                    request_headers=request_headers,
                    authenticate=authenticate,
                    values_max=values_max,
                )
            )
            return view

        return declare


class RawResponse(Response):
    """
    A response that Flask sends without changes.

    Flask's own class computes a Location from an IRI and filters the headers of a 304 each time. That would cost a
    tenth of the hot path.
    """

    def __init__(
        self, body: bytes, status: int, headers: list[tuple[str, str]]
    ) -> None:  # does not call super's, see above
        self._line = _STATUS_LINES[status]
        self._body = body
        self._headers = headers

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Send the response."""
        start_response(self._line, self._headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [self._body]


def respond(answer: Answer) -> Response:
    """Return an Answer as an HTTP response."""
    headers = list(answer.headers.items())
    document = answer.document
    if document is None:
        return RawResponse(b"", answer.status, headers)
    if isinstance(document, str):
        body = document.encode()
    else:
        body = document if isinstance(document, bytes) else pydantic_core.to_json(document)
    headers.append(("Content-Type", answer.content_type))
    headers.append(("Content-Length", str(len(body))))
    return RawResponse(body, answer.status, headers)
