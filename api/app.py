"""
The Flask application: all nouns, and the code around each of their routes.

Flask only finds the view, and `shortcut` finds those of the API without it. `routing` checks the input, and
`problems` converts errors.
"""

from __future__ import annotations

import functools
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from api.console import application as console
from api.docs import openapi, pages
from api.lab import application as lab
from api.ops import health, metrics
from api.services import Services
from api.v1 import (
    accounts,
    approvals,
    audit,
    batches,
    codes,
    deposits,
    exchanges,
    failed,
    partitions,
    redemptions,
    requests,
    reservations,
    resources,
    sandbox,
    webhooks,
    withdrawals,
)
from api.web import headers, problems
from api.web.access_log import AccessLog
from api.web.large_bodies import TooManyLargeBodies
from api.web.prefix import UnderPrefix
from api.web.problems import Invalid, Malformed, RateLimited
from api.web.rate_limits import network_of
from api.web.routing import CLIENT, FAULT, PROBLEM, ROUTE, Route, note_names, respond
from api.web.shortcut import Shortcut
from api.web.turns import TooManyAtOnce
from processor.errors import TellerError
from processor.records.pages import CursorInvalid

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIApplication

    from api.web.shortcut import Handler
    from processor.settings import Settings

#: All nouns, in the order of the OpenAPI document. A new noun is one module and its place here.
NOUNS: Final = (
    resources,
    redemptions,
    withdrawals,
    reservations,
    deposits,
    exchanges,
    batches,
    requests,
    approvals,
    codes,
    accounts,
    webhooks,
    failed,
    partitions,
    audit,
    sandbox,
    health,
    pages,
)
batches.offer(route for noun in NOUNS for route in noun.routes.all)
ROUTES: Final[tuple[Route, ...]] = tuple(route for noun in NOUNS for route in noun.routes.all)

#: The refusals that a client gets for too many requests. They carry `Retry-After`.
_HELD: Final = (RateLimited, TooManyAtOnce, TooManyLargeBodies, webhooks.NameServiceTimeout)


def create_app(settings: Settings, services: Services | None = None) -> Flask:
    """
    Create the application with its threads and connections, in the process that serves.

    The caller closes `app.extensions["teller"]`, which are its Services.
    """
    services = services or Services.start(settings)
    app = Flask("api", static_folder=None)
    app.url_rule_class = _Rule
    app.url_map.merge_slashes = False  # no redirects: they have no problem+json
    app.extensions["teller"] = services
    metrics.register(
        services.metrics.registry,
        services.intake,
        services.waiters,
        services.doorbell,
        services.redis_check,
        services.gauges,
        services.health,
        services.disk,
        settings.metrics_file,
    )
    app.before_request(_refuse_double_slash)
    app.before_request(_refuse_ambiguous_headers)
    pages.install(app, functools.partial(openapi_document, settings.url_prefix))
    handlers = [(route, _handler(route, services)) for route in ROUTES]
    for route, handler in handlers:
        app.add_url_rule(
            route.path,
            endpoint=f"{route.method} {route.path}",
            view_func=_view(handler),
            methods=[route.method],
            provide_automatic_options=False,
        )
    console.install(app, services)
    lab.install(app, services)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_unexpected)
    direct: dict[tuple[str, str], Handler] = {
        (route.method, route.path): _direct(handler)
        for route, handler in handlers
        if route.path.startswith("/v1/")  # pages need Flask's contexts
    }
    application: WSGIApplication = Shortcut(app.wsgi_app, direct)
    application = AccessLog(application, services.metrics)
    if settings.url_prefix:
        application = UnderPrefix(application, settings.url_prefix)
    app.wsgi_app = application  # type: ignore[method-assign]  # Flask's documented way
    return app


class _Rule(Rule):
    """A rule that is matched, and from which no address is built. Its builders are most of an application's start."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:  # noqa: ARG002
        return _build_no_address


def _build_no_address(*_: object, **__: object) -> tuple[str, str]:
    raise NotImplementedError("no address is built from a route")


@functools.cache
def openapi_document(url_prefix: str = "") -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all routes, for a server that is published under a prefix."""
    return openapi.document(ROUTES, url_prefix)


def _handler(route: Route, services: Services) -> Handler:
    """
    Return the function that answers a route, from the WSGI environment and the names in the address.

    A request takes a place among the views once its body is read, so slow clients occupy none. The requests of a
    public route share places as those of one client do.
    """
    view = route.view
    path = route.path

    def handle(environ: dict[str, Any], names: dict[str, str]) -> Response:
        environ[ROUTE] = path
        note_names(environ, names)
        try:
            call = route.check(services, environ)
            client = environ.get(CLIENT)
            is_company = client is not None and call.caller.role == "client"
            with services.views.take(client or path, is_company=is_company):
                route.confirm(call)
                route.parse(call)
                return respond(view(call, **names))
        except CursorInvalid as error:
            return _refuse(environ, Invalid.at("/cursor", f"query parameter cursor {error}"))
        except TellerError as error:
            _hold(services, environ, error)
            return _refuse(environ, error)

    return handle


def _hold(services: Services, environ: dict[str, Any], error: TellerError) -> None:
    """Wait before a refusal that its client, or an address with invalid keys, repeats too often."""
    client = environ.get(CLIENT)
    if client is not None:
        if isinstance(error, _HELD) and services.views.is_shared():
            services.holds.hold(client)
    elif isinstance(error, RateLimited):
        services.holds.hold(network_of(environ.get("REMOTE_ADDR", "")))


def _view(handler: Handler) -> Callable[..., Response]:
    """Return the function that Flask calls for a route."""
    return lambda **names: handler(request.environ, names)


def _direct(handler: Handler) -> Handler:
    """Return a handler that does what Flask does around a view."""

    def handle(environ: dict[str, Any], names: dict[str, str]) -> Response:
        try:
            headers.check(environ)
            return handler(environ, names)
        except Malformed as error:
            return _refuse(environ, error)
        except Exception as error:  # noqa: BLE001 - answered as any view's
            environ[FAULT] = error
            return problems.internal_error()

    return handle


def _refuse_double_slash() -> Response | None:
    """
    Refuse an address that begins with two slashes.

    Flask reads //v1 as /v1. Proxies that filter by address do not, and neither does the choice of headers here.
    """
    has_two = request.environ["PATH_INFO"].startswith("//")
    return problems.answer_http(HTTPStatus.NOT_FOUND, {}) if has_two else None


def _refuse_ambiguous_headers() -> Response | None:
    try:
        headers.check(request.environ)
    except Malformed as error:
        return _refuse(request.environ, error)
    return None


def _refuse(environ: dict[str, Any], error: TellerError) -> Response:
    """Return a problem and note it for the log line. The note on a fault of the server has more details."""
    status = problems.status_of(error)
    environ[PROBLEM] = error.code if status < HTTPStatus.INTERNAL_SERVER_ERROR else f"{error.code}: {error}"
    return problems.answer(error)


def _answer_http_error(error: HTTPException) -> Response:
    allowed: dict[str, str] = {}
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = {name: value for name, value in error.get_headers() if name == "Allow"}
    return problems.answer_http(error.code or 500, allowed)


def _answer_unexpected(error: Exception) -> Response:
    request.environ[FAULT] = error
    return problems.internal_error()
