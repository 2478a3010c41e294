"""
The Flask application: all nouns, and what holds for each of their routes.

Flask finds the view and nothing more: input is checked by `routing`, errors become problems by `problems`.
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

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
    failed,
    partitions,
    redemptions,
    requests,
    resources,
    sandbox,
    webhooks,
    withdrawals,
)
from api.web import problems
from api.web.access_log import AccessLog
from api.web.problems import Invalid
from api.web.routing import PROBLEM, ROUTE, Route, respond
from processor.errors import TellerError
from processor.records.pages import CursorInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from processor.settings import Settings

#: A new noun is one file, and its place in this list: the order of the OpenAPI document.
NOUNS: Final = (
    resources,
    redemptions,
    withdrawals,
    deposits,
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
ROUTES: Final[tuple[Route, ...]] = tuple(route for noun in NOUNS for route in noun.routes.all)

#: Requests worked on at once, once they were read; those that wait by `Prefer: wait` are at most WAITERS_MAX of them.
ANSWERS_AT_ONCE: Final = 256

log = structlog.get_logger()


def create_app(settings: Settings, services: Services | None = None) -> Flask:
    """
    The application, with its threads and connections: call it in the process that serves. The caller closes
    `app.extensions["teller"]`, its Services.
    """
    services = services or Services.start(settings)
    app = Flask("api", static_folder=None)
    app.url_map.merge_slashes = False  # an address is what it says, and redirects have no problem+json
    app.extensions["teller"] = services
    metrics.register(
        services.metrics.registry, services.intake, services.waiters, services.doorbell, services.gauges
    )
    app.before_request(_refuse_other_spellings)
    pages.install(app, openapi_document())
    at_work = threading.Semaphore(ANSWERS_AT_ONCE)
    for route in ROUTES:
        app.add_url_rule(
            route.path,
            endpoint=f"{route.method} {route.path}",
            view_func=_handler(route, services, at_work),
            methods=[route.method],
            provide_automatic_options=False,
        )
    console.install(app, services)
    lab.install(app, services)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_unexpected)
    app.wsgi_app = AccessLog(app.wsgi_app, services.metrics)  # type: ignore[method-assign]  # Flask's documented way
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all routes."""
    return openapi.document(ROUTES)


def _handler(route: Route, services: Services, at_work: threading.Semaphore) -> Callable[..., Response]:
    """What Flask calls for a route. Whoever is slow to send his body is not at work yet."""
    view = route.view
    path = route.path

    def handle(**names: str) -> Response:
        request.environ[ROUTE] = path
        try:
            call = route.check(services)
            with at_work:
                return respond(view(call, **names))
        except CursorInvalid as error:
            return _refuse(Invalid.at("/cursor", f"query parameter cursor {error}"))
        except TellerError as error:
            return _refuse(error)

    return handle


def _refuse_other_spellings() -> Response | None:
    """Flask takes //v1 for /v1. Others, who let pass or bar by the address, do not, and neither do our headers."""
    is_other = request.environ["PATH_INFO"].startswith("//")
    return problems.answer_http(HTTPStatus.NOT_FOUND, {}) if is_other else None


def _refuse(error: TellerError) -> Response:
    """A problem, and a word about it in the request's log line; those of ours say more."""
    status = problems.status_of(error)
    request.environ[PROBLEM] = (
        error.code if status < HTTPStatus.INTERNAL_SERVER_ERROR else f"{error.code}: {error}"
    )
    return problems.answer(error)


def _answer_http_error(error: HTTPException) -> Response:
    headers: dict[str, str] = {}
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {name: value for name, value in error.get_headers() if name == "Allow"}
    return problems.answer_http(error.code or 500, headers)


def _answer_unexpected(error: Exception) -> Response:
    log.error("request_broke", exc_info=error)
    return problems.internal_error()
