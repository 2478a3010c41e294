"""
The page at /lab: a form and the result of a run. It has no JavaScript.
"""

from __future__ import annotations

import functools
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import jinja2
import structlog
from flask import Response, request

from api.lab import timelines
from api.lab.runs import PROTECTIONS, STOCK_MAX, USERS_MAX, AnotherRunIsUnderWay, Choice, Runner, read_choice
from api.web import forms, problems
from api.web.problems import RETRY_AFTER_SECONDS, NotFound
from api.web.routing import PROBLEM, ROUTE, RawResponse
from api.web.static_files import Files
from lab.paused_holder import EXPIRY_SECONDS
from lab.strategies import STRATEGIES
from processor.errors import TellerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

    from api.lab.runs import Run
    from api.services import Services

ADDRESS: Final = "/lab"
RUN: Final = f"{ADDRESS}/runs/<run>"
_HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        ),
    ),
    # With no-referrer, browsers would send the form with the origin "null".
    ("Referrer-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("Cache-Control", "no-store"),
)

log = structlog.get_logger()


def install(app: Flask, services: Services) -> None:
    """Add the lab to an application if it is switched on."""
    if not services.settings.lab:
        return
    page = _Page(services)
    for method, path, view in (
        ("GET", ADDRESS, page.show_form),
        ("POST", ADDRESS, page.run),
        ("GET", RUN, page.show_run),
    ):
        app.add_url_rule(
            path,
            endpoint=f"lab {method} {path}",
            view_func=page.handler(path, view),
            methods=[method],
            provide_automatic_options=False,
        )


@functools.cache
def _template() -> jinja2.Template:
    """Return the template of the page, which the first call compiles."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("api", "templates/lab"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        static=Files.load().address,
        draw=timelines.draw,
        strategies=STRATEGIES,
        protections=PROTECTIONS,
        users_max=USERS_MAX,
        stock_max=STOCK_MAX,
        expiry_ms=round(EXPIRY_SECONDS * 1000),
    )
    return environment.get_template("lab.html")


class _Page:
    """The views of the page."""

    def __init__(self, services: Services) -> None:
        self._runner = Runner(services)
        self._template = _template()

    def handler(self, path: str, view: Callable[..., Response]) -> Callable[..., Response]:
        """Return the function that Flask calls for a view. It shows errors on the page."""

        def handle(**names: str) -> Response:
            request.environ[ROUTE] = path
            try:
                return view(**names)
            except TellerError as fault:
                status = _status_of(fault)
                request.environ[PROBLEM] = fault.code
                again = status in (HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE)
                headers = [("Retry-After", str(RETRY_AFTER_SECONDS))] if again else []
                return self._respond(Choice(), fault=fault, status=status, headers=headers)

        return handle

    def show_form(self) -> Response:
        """Show the form alone."""
        return self._respond(Choice())

    def run(self) -> Response:
        """Run the chosen race, and redirect to its result. A reload of that page runs nothing."""
        forms.refuse_foreign(request.environ)
        choice, wrong = read_choice(forms.read_form(request.environ))
        if wrong:
            return self._respond(choice, wrong=wrong, status=HTTPStatus.UNPROCESSABLE_ENTITY)
        try:
            run = self._runner.run(choice)
        except TellerError as fault:
            log.warning("lab_run_failed", code=fault.code, detail=str(fault))
            raise
        headers = [
            ("Location", f"{ADDRESS}/runs/{run}"),
            ("Content-Length", "0"),
            ("Cache-Control", "no-store"),
        ]
        return RawResponse(b"", HTTPStatus.SEE_OTHER, headers)

    def show_run(self, run: str) -> Response:
        """Show the form and the result of a run."""
        try:
            found = self._runner.read(UUID(run))
        except ValueError:
            found = None
        if found is None:
            raise NotFound("this run is no longer stored: only the latest are")
        return self._respond(found.choice, run=found)

    def _respond(
        self,
        choice: Choice,
        *,
        run: Run | None = None,
        wrong: dict[str, str] | None = None,
        fault: TellerError | None = None,
        status: int = 200,
        headers: list[tuple[str, str]] | None = None,
    ) -> Response:
        context: dict[str, Any] = {"choice": choice, "run": run, "wrong": wrong or {}, "fault": fault}
        body = self._template.render(context).encode()
        return RawResponse(body, status, [*_HEADERS, ("Content-Length", str(len(body))), *(headers or [])])


def _status_of(fault: TellerError) -> int:
    """Return the status of an error. Errors of the lab itself are not problems of the API."""
    if isinstance(fault, AnotherRunIsUnderWay):
        return HTTPStatus.CONFLICT
    if fault.code in problems.PROBLEMS:
        return problems.status_of(fault)
    return HTTPStatus.SERVICE_UNAVAILABLE
