"""
Addresses whose views are found without Flask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from api.app import ROUTES
from api.web.shortcut import Shortcut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flask import Response


def names_found(method: str, path: str) -> dict[str, str] | None:
    """Return the route and the names that the shortcut finds, or None if it leaves the address to Flask."""
    found: list[dict[str, str]] = []

    def handler_of(address: str) -> Callable[[dict[str, Any], dict[str, str]], Response]:
        def handle(_environ: dict[str, Any], names: dict[str, str]) -> Response:
            found.append({"route": address, **names})
            return lambda _environ, _start: []  # type: ignore[return-value]  # as a response does

        return handle

    def flask(_environ: dict[str, Any], _start: object) -> Iterable[bytes]:
        return []

    handlers = {
        (route.method, route.path): handler_of(route.path)
        for route in ROUTES
        if route.path.startswith("/v1/")
    }
    Shortcut(flask, handlers)(  # type: ignore[arg-type]  # the keys are methods
        {"REQUEST_METHOD": method, "PATH_INFO": path}, lambda *_: lambda _: None
    )
    return found[0] if found else None


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/redemptions", {"route": "/v1/redemptions"}),
        ("GET", "/v1/requests", {"route": "/v1/requests"}),
        ("GET", "/v1/requests/abc", {"route": "/v1/requests/<request>", "request": "abc"}),
        ("PATCH", "/v1/resources/a:b@c~d", {"route": "/v1/resources/<resource>", "resource": "a:b@c~d"}),
        ("PUT", "/v1/accounts/u", {"route": "/v1/accounts/<account>", "account": "u"}),
        ("GET", "/v1/requests/abc/entries", None),
        ("POST", "/v1/requests/abc", None),
        ("GET", "/v1/requests/", None),
        ("GET", "/v1/requests/\u00e4", None),
        ("GET", "//v1/requests", None),
        ("GET", "/v1//requests", None),
        ("HEAD", "/v1/requests", None),
        ("GET", "/v1/unknown", None),
        ("GET", "/docs", None),
        ("GET", "", None),
    ],
)
def test_plain_addresses_are_found_without_flask(
    method: str, path: str, expected: dict[str, str] | None
) -> None:
    """
    Flask finds all others, so that unknown addresses and other methods are answered in one place.
    """
    assert names_found(method, path) == expected
