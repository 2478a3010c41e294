"""
The path under which a proxy publishes Teller (TELLER_URL_PREFIX).

It is removed from the addresses of requests, and added to all addresses in answers. The code behind uses addresses
without it. A proxy may pass the path as it came, or remove the prefix itself. Direct calls without the prefix work
too, as for probes of the health.

The links of pages are found by their attributes, so that no template can forget the prefix. Values of users cannot be
taken for links, because they contain no unescaped quotation mark.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: The attributes of HTML and htmx that hold an address, with the slash of one on this server.
LINK: Final = re.compile(rb'(?<=\s)((?:href|src|action|formaction|hx-get|hx-post)=")/(?!/)')
_COOKIE_PATH: Final = re.compile(r"; Path=/")
#: The headers that hold an address.
_ADDRESSES: Final = ("Location", "HX-Redirect")

_prefix: ContextVar[str] = ContextVar("prefix", default="")


def address(path: str) -> str:
    """Return the public address of a path, for the request that is being answered."""
    return _prefix.get() + path


class UnderPrefix:
    """The application as a proxy publishes it, under a prefix such as `/teller`."""

    def __init__(self, application: WSGIApplication, prefix: str) -> None:
        self._application = application
        self._prefix = prefix
        self._link = rb"\1" + prefix.encode("ascii") + b"/"
        self._cookie_path = f"; Path={prefix}/"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path: str = environ["PATH_INFO"]
        if path == self._prefix or path.startswith(self._prefix + "/"):
            environ["PATH_INFO"] = path[len(self._prefix) :] or "/"
        environ["SCRIPT_NAME"] = self._prefix
        page: list[Callable[[int], None]] = []

        def start(
            line: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], object]:
            found = [(name, self._published(name, value)) for name, value in headers]
            if not any(name == "Content-Type" and value.startswith("text/html") for name, value in found):
                return start_response(line, found, exc_info)
            others = [one for one in found if one[0] != "Content-Length"]

            def start_page(length: int) -> None:
                start_response(line, [*others, ("Content-Length", str(length))], exc_info)

            page.append(start_page)
            return _write_nothing

        token = _prefix.set(self._prefix)
        try:
            body = self._application(environ, start)
        finally:
            _prefix.reset(token)
        if not page:
            return body
        text = LINK.sub(self._link, b"".join(body))
        page[-1](len(text))
        return [text]

    def _published(self, name: str, value: str) -> str:
        if name in _ADDRESSES and value.startswith("/"):
            return self._prefix + value
        return _COOKIE_PATH.sub(self._cookie_path, value) if name == "Set-Cookie" else value


def _write_nothing(_data: bytes) -> None:
    raise NotImplementedError("an application returns its body")
