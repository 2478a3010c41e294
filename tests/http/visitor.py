"""
A visitor of the console without a browser: cookies, forms with their token, and pages as text.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers
    from werkzeug.test import Client as Browser

    from tests.http.teller import Client, Teller

_TOKEN = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@dataclass(frozen=True)
class Page:
    """A response of the console."""

    status: int
    headers: Headers
    text: str

    @property
    def location(self) -> str | None:
        """The address of a redirect."""
        return self.headers.get("Location")


@dataclass
class Visitor:
    """A visitor of the console, with or without a session."""

    browser: Browser
    #: The token in the forms of this session.
    token: str = ""

    @classmethod
    def new(cls, teller: Teller) -> Visitor:
        """Return a visitor without a session."""
        return cls(teller.application.test_client())

    @classmethod
    def signed_in(cls, teller: Teller, client: Client) -> Visitor:
        """Return a visitor who signed in with the key of a client."""
        visitor = cls.new(teller)
        page = visitor.send("/admin/sign-in", {"key": client.key})
        assert page.status == 303, page.text
        found = _TOKEN.search(visitor.get("/admin/search").text)
        assert found is not None
        visitor.token = found[1]
        return visitor

    def get(self, address: str, **headers: str) -> Page:
        """Load a page."""
        return self._open("GET", address, None, headers)

    def send(
        self, address: str, form: dict[str, Any] | None = None, csrf: str | None = "own", **headers: str
    ) -> Page:
        """Send a form with its token. `csrf` is another token, or None for none."""
        fields = dict(form or {})
        if csrf is not None:
            fields["csrf"] = self.token if csrf == "own" else csrf
        return self._open("POST", address, fields, headers)

    def _open(self, method: str, address: str, form: dict[str, Any] | None, headers: dict[str, str]) -> Page:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content_type = None if form is None else "application/x-www-form-urlencoded"
        answer = self.browser.open(
            address, method=method, data=form, headers=named, content_type=content_type
        )
        return Page(answer.status_code, answer.headers, answer.text)


def fields(page: str, action: str) -> dict[str, str | list[str]]:
    """Return the hidden fields of the form with this action. A repeated field is a list."""
    [form] = re.findall(rf'<form[^>]* action="{re.escape(action)}">(.*?)</form>', page, re.DOTALL)
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form):
        found.setdefault(name, []).append(html.unescape(value))
    found.pop("csrf")
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def audited(teller: Teller, action: str) -> list[tuple[str, str | None, str | None]]:
    """Return actor, reason and request of the audit lines with this action, oldest first."""
    lines = teller.admin.get("/v1/admin/audit?limit=100").json["data"]
    return [
        (line["actor"], line["reason"], line["request"]) for line in lines[::-1] if line["action"] == action
    ]


def words(text: str) -> str:
    """Return the text of a page without markup."""
    return " ".join(
        html.unescape(re.sub(r"<(script|svg).*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)).split()
    )
