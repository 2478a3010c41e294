"""
The console in the application: its routes, and the steps around each view.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urlencode

import werkzeug.exceptions
from flask import Response, request

from api.console import (
    approvals,
    audit,
    bulk_actions,
    downloads,
    failed,
    keys,
    overview,
    partitions,
    request_list,
    requests,
    reservations,
    resource_acts,
    resources,
    search,
    security,
    sign_in,
    webhooks,
)
from api.console.layout import Layout
from api.console.pages import ROOT, Download, Memory, PageRoute, Redirect, Visit, read_fields
from api.web import forms, parsing, problems, static_files, turns
from api.web.auth import CONFIRM_SECONDS
from api.web.fields import NoQuery
from api.web.problems import PROBLEMS, RETRY_AFTER_SECONDS, Invalid, NotFound
from api.web.routing import CLIENT, FAULT, PROBLEM, ROUTE, RawResponse, note_names
from api.web.static_files import Files
from processor.domain.roles import OPERATORS
from processor.errors import Forbidden, TellerError
from processor.reading import overview as overview_queries
from processor.records.pages import CursorInvalid

if TYPE_CHECKING:
    from flask import Flask

    from api.services import Services

#: The modules of the pages.
MODULES: Final = (
    *(sign_in, approvals, audit, bulk_actions, downloads, failed, keys),
    *(overview, partitions, request_list, requests, reservations, resource_acts, resources, search, webhooks),
)
ROUTES: Final[tuple[PageRoute, ...]] = tuple(page for module in MODULES for page in module.pages.all)


def _nowhere(_visit: Visit, **_names: str) -> NoReturn:
    raise NotFound("there is no such page")


#: Every other address below /admin.
NOWHERE: Final = PageRoute("GET", f"{ROOT}/<path:rest>", "", _nowhere, OPERATORS, NoQuery)
_REFUSED_FOR_NOW: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

#: The methods of the start page, so that only a GET of a browser differs from an address that does not exist.
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def install(app: Flask, services: Services) -> None:
    """
    Add the console to an application.
    """
    files = Files.load()
    layout = Layout(files, ROUTES)
    memory = Memory()

    def send_file(digest: str, name: str) -> Response:
        request.environ[ROUTE] = f"{ROOT}/static"
        return files.answer(digest, name) or problems.answer(NotFound("there is no such file"))

    app.add_url_rule(f"{static_files.ADDRESS}/<digest>/<name>", "console static", send_file, methods=["GET"])
    for route in (*ROUTES, NOWHERE):
        app.add_url_rule(
            route.path,
            endpoint=f"console {route.name}",
            view_func=_Handler(route, services, layout, memory),
            methods=[route.method] if route is not NOWHERE else ["GET", "POST"],
            provide_automatic_options=False,
        )
    # With strict slashes, Flask redirects an empty path to an address that names a host.
    app.add_url_rule(
        "/",
        "start",
        _start,
        methods=list(_METHODS),
        provide_automatic_options=False,
        strict_slashes=False,
    )
    # Flask's own redirect names a scheme and host, which differ from the public ones behind a proxy.
    app.add_url_rule(f"{ROOT}/", "console slash", lambda: _redirect(ROOT, []), methods=["GET"])


class _Handler:
    """The view function of a route."""

    def __init__(self, route: PageRoute, services: Services, layout: Layout, memory: Memory) -> None:
        self._route = route
        self._services = services
        self._layout = layout
        self._memory = memory

    def __call__(self, **names: str) -> Response:
        """
        Check the session and the form, call the view, and render its page. An error becomes a page, too.
        """
        began = time.monotonic()
        environ = request.environ
        environ[ROUTE] = self._route.path
        note_names(environ, names)
        visit = Visit(self._services, self._memory, environ, self._route, None, "")
        try:
            self._read_session(visit)
            if self._route.roles and visit.session is None:
                return _to_sign_in(visit)
            self._check(visit)
            if self._route.roles and time.monotonic() - began > CONFIRM_SECONDS:
                # The form took long, and the key may be revoked meanwhile.
                self._read_session(visit)
                if visit.session is None:
                    return _to_sign_in(visit)
            return self._answer(visit, names)
        except CursorInvalid as error:
            return self._explain(visit, Invalid.at("/cursor", f"query parameter cursor {error}"))
        except TellerError as error:
            return self._explain(visit, error)
        except Exception as error:  # noqa: BLE001 - the line of the call in the log has it
            environ[FAULT] = error
            return self._explain(visit, TellerError())

    def _read_session(self, visit: Visit) -> None:
        visit.session = security.read_session(self._services, visit.environ)
        if visit.session is not None:
            visit.csrf = security.csrf_token(self._services.settings.secret, visit.session)
            request.environ[CLIENT] = visit.session.caller.client
            turns.act_for(visit.session.caller.client)

    def _check(self, visit: Visit) -> None:
        """
        Check role, form and query. Raises Forbidden, Invalid and the errors of a form.
        """
        roles = self._route.roles
        if roles and not visit.may(*roles):
            raise Forbidden(
                f"this needs the role {' or '.join(sorted(roles))}, yours is {visit.caller.role}: nothing was done"
            )
        if self._route.method == "POST":
            forms.refuse_foreign(visit.environ)
            visit.form = forms.read_form(visit.environ)
            if roles:
                security.refuse_forged(visit.form, visit.csrf)
            visit.form = {
                name: found
                for name, found in visit.form.items()
                if name != security.CSRF_FIELD and "".join(found).strip()
            }
        values = parsing.split_query(visit.environ.get("QUERY_STRING", ""), keep_blank=False)
        visit.query = read_fields(self._route.query, values)

    def _answer(self, visit: Visit, names: dict[str, str]) -> Response:
        secret = self._services.settings.secret
        headers = []
        if "HTTP_HX_REQUEST" not in visit.environ:  # a live part leaves the notice to the next page
            visit.notice = security.read_notice(visit.environ, secret)
            if visit.notice is not None:
                headers.append(security.forget_cookie(visit.environ, security.NOTICE_COOKIE))
        answer = self._route.view(visit, **names)
        if isinstance(answer, Redirect):
            headers = list(answer.headers)
            if answer.notice is not None:
                headers.append(security.notice_cookie(visit.environ, secret, answer.notice))
            return _redirect(answer.to, headers)
        if isinstance(answer, Download):
            return self._layout.send(answer)
        badges = None
        if visit.session is not None:
            with self._services.connection() as connection:
                badges = overview_queries.read_badges(connection)
        return self._layout.respond(
            visit, answer.template, answer.context, status=answer.status, headers=headers, badges=badges
        )

    def _explain(self, visit: Visit, error: TellerError) -> Response:
        """
        Return the page of an error.
        """
        status = problems.status_of(error)
        is_declared = error.code in PROBLEMS
        request.environ[PROBLEM] = (
            error.code if status < HTTPStatus.INTERNAL_SERVER_ERROR else f"{error.code}: {error}"
        )
        kind = PROBLEMS[error.code if is_declared else "internal_error"]
        retry_after = error.retry_after_seconds or RETRY_AFTER_SECONDS
        headers = [("Retry-After", str(retry_after))] if status in _REFUSED_FOR_NOW else []
        context: dict[str, Any] = {
            "status": status,
            "kind": kind,
            "detail": problems.detail_of(error) if is_declared and not isinstance(error, Invalid) else "",
            # Fields of forms are checked as query parameters, a word that the page leaves out.
            "mistakes": [one["detail"].removeprefix("query parameter ") for one in error.errors]
            if isinstance(error, Invalid)
            else [],
            "retry_after": retry_after if headers else None,
        }
        return self._layout.respond(visit, "error.html", context, status=status, headers=headers)


def _start() -> Response:
    """
    Lead a browser to the console. Everything else gets the answer of an address that does not exist.
    """
    if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
        return _redirect(ROOT, [])
    raise werkzeug.exceptions.NotFound


def _to_sign_in(visit: Visit) -> Response:
    """
    Redirect to the sign-in page, which leads back to this address.
    """
    next_address = visit.address if visit.route.method == "GET" else ROOT
    address = sign_in.ADDRESS + ("" if next_address == ROOT else "?" + urlencode({"next": next_address}))
    if "HTTP_HX_REQUEST" in visit.environ:
        # htmx follows a redirect and puts the sign-in page into a part of this page.
        return RawResponse(
            b"", 200, [("HX-Redirect", address), ("Content-Length", "0"), ("Cache-Control", "no-store")]
        )
    return _redirect(address, [])


def _redirect(to: str, headers: list[tuple[str, str]]) -> Response:
    always = [("Location", to), ("Content-Length", "0"), ("Cache-Control", "no-store")]
    return RawResponse(b"", HTTPStatus.SEE_OTHER, [*always, *headers])
