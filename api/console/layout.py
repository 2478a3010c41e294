"""
How pages are rendered: the templates, what all of them can use, and the headers of each page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jinja2

from api.console import charts, formats
from api.web.routing import RawResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flask import Response

    from api.console.pages import PageRoute, Visit
    from api.web.static_files import Files
    from processor.reading.overview import Badges


class Section(NamedTuple):
    """An entry of the navigation, and its first page."""

    name: str
    title: str
    path: str
    #: The badge that it carries, by its name in Badges.
    badge: str | None = None


#: The navigation, in its order. A section without a page that one may see is not shown.
SECTIONS: Final = (
    Section("overview", "Overview", "/admin"),
    Section("failed", "Failed", "/admin/failed", "failed"),
    Section("approvals", "Approvals", "/admin/approvals", "approvals"),
    Section("resources", "Resources", "/admin/resources"),
    Section("webhooks", "Webhooks", "/admin/webhooks"),
    Section("keys", "Keys", "/admin/keys"),
    Section("audit", "Audit", "/admin/audit"),
)

#: A page loads from here alone, and holds neither scripts nor styles in itself.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", POLICY),
    # Not no-referrer: a form would then come with the origin "null".
    ("Referrer-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("Cache-Control", "no-store"),
)


class Layout:
    """Renders the pages of a console that has these routes."""

    def __init__(self, files: Files, routes: Iterable[PageRoute]) -> None:
        self._doors = {route.path: route.roles for route in routes if route.method == "GET"}
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("api", "templates/console"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(formats.FILTERS)
        self._environment.globals.update(static=files.address, charts=charts)

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
        """A page as an HTTP response."""
        page = self._environment.get_template(template)
        text = page.render(
            context, visit=visit, section=visit.route.section, sections=self._sections(visit), badges=badges
        )
        body = text.encode()
        return RawResponse(body, status, [*_HEADERS, ("Content-Length", str(len(body))), *headers])

    def _sections(self, visit: Visit) -> list[Section]:
        return [
            section
            for section in SECTIONS
            if section.path in self._doors and visit.may(*self._doors[section.path])
        ]
