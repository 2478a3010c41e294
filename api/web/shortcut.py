"""
Finds the views of plain addresses without Flask, whose contexts and signals cost a third of accepting a request.

These are addresses without a name in them, and those that end with one, such as /v1/requests/<id>. All others are
found by Flask: pages, unknown addresses, other methods, and names that are not plain ASCII.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from flask import Response

    #: Answers a request, from the WSGI environment and the names in the address.
    Handler = Callable[[dict[str, Any], dict[str, str]], Response]


class Shortcut:
    """The application with direct calls of handlers, which are given by method and path."""

    def __init__(self, application: WSGIApplication, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._application = application
        self._whole: dict[tuple[str, str], Handler] = {}
        #: Handlers of addresses that end with a name: the handler and the name, by the address before it.
        self._named: dict[tuple[str, str], tuple[Handler, str]] = {}
        for (method, path), handler in handlers.items():
            before, _, name = path.partition("<")
            if not name:
                self._whole[method, path] = handler
            elif name.endswith(">") and "<" not in name:
                self._named[method, before] = (handler, name.removesuffix(">"))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        method: str = environ["REQUEST_METHOD"]
        path: str = environ["PATH_INFO"]
        names: dict[str, str] = {}
        handler = self._whole.get((method, path))
        if handler is None:
            end = path.rfind("/") + 1
            found = self._named.get((method, path[:end]))
            value = path[end:]
            if found is None or not value or not value.isascii():
                return self._application(environ, start_response)
            handler, name = found
            names[name] = value
        return handler(environ, names)(environ, start_response)
