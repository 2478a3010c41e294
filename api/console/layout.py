"""
The rendering of pages: templates, navigation and headers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jinja2

from api.console import charts, formats
from api.web.routing import RawResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flask import Response

    from api.console.pages import Download, PageRoute, Visit
    from api.web.static_files import Files
    from processor.reading.overview import Badges


class Section(NamedTuple):
    """An entry of the navigation."""

    name: str
    title: str
    path: str
    #: The name of its count in Badges.
    badge: str | None = None


#: The navigation. It shows the sections whose pages the caller's role may open.
SECTIONS: Final = (
    Section("overview", "Overview", "/admin"),
    Section("requests", "Requests", "/admin/requests"),
    Section("failed", "Failed", "/admin/failed", "failed"),
    Section("approvals", "Approvals", "/admin/approvals", "approvals"),
    Section("reservations", "Reservations", "/admin/reservations"),
    Section("resources", "Resources", "/admin/resources"),
    Section("webhooks", "Webhooks", "/admin/webhooks"),
    Section("keys", "Keys", "/admin/keys"),
    Section("audit", "Audit", "/admin/audit"),
)

#: A page loads files of its own origin only. Inline scripts and styles do not run.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", POLICY),
    # With no-referrer, browsers send forms with the origin "null".
    ("Referrer-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("Cache-Control", "no-store"),
)


@functools.cache
def _templates(files: Files) -> jinja2.Environment:
    """Return the templates with these files. They are compiled once, whatever number of applications uses them."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("api", "templates/console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=formats.shown,
    )
    environment.filters.update(formats.FILTERS)
    environment.globals.update(static=files.address, charts=charts)
    return environment


class Layout:
    """The templates and the navigation of a console with these routes."""

    def __init__(self, files: Files, routes: Iterable[PageRoute]) -> None:
        self._roles = {route.path: route.roles for route in routes if route.method == "GET"}
        self._environment = _templates(files)

    def respond(
        self,
        visit: Visit,
        template: str,
        context: Mapping[str, Any],
        *,
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (),
        badges: Badges | None = None,
    ) -> Response:
        """
        Render a page as an HTTP response.
        """
        page = self._environment.get_template(template)
        text = page.render(
            context, visit=visit, section=visit.route.section, sections=self._sections(visit), badges=badges
        )
        body = text.encode()
        return RawResponse(body, status, [*_HEADERS, ("Content-Length", str(len(body))), *headers])

    @staticmethod
    def send(file: Download) -> Response:
        """
        Return a file as an HTTP response.
        """
        headers = [header for header in _HEADERS if header[0] != "Content-Type"]
        headers += [
            ("Content-Type", file.content_type),
            ("Content-Disposition", f'attachment; filename="{file.name}"'),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Length", str(len(file.body))),
        ]
        return RawResponse(file.body, 200, headers)

    def _sections(self, visit: Visit) -> list[Section]:
        return [
            section
            for section in SECTIONS
            if section.path in self._roles and visit.may(*self._roles[section.path])
        ]
