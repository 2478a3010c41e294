"""
Around every HTTP request: its id, its canonical log line, its metrics, and the headers that all answers have.

A WSGI middleware, so that nothing that Flask answers by itself escapes it.
"""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from api.web import deadline
from api.web.rate_limits import RATE_LIMIT_HEADERS
from api.web.routing import CLIENT, PROBLEM, ROUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from api.web.request_metrics import RequestMetrics

#: What is logged and counted as the route of an address that is none.
NO_ROUTE: Final = "(none)"
#: Request ids of clients are taken over when they look like ids.
_SANE_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}", re.ASCII)

_COMMON_HEADERS: Final = [("X-Content-Type-Options", "nosniff")]
#: Nobody is told where a link was found; a page with forms says otherwise, or browsers hide their origin from us.
_NO_REFERRER: Final = ("Referrer-Policy", "no-referrer")
#: Of an answer for programs; a page brings the policy that it needs.
_NO_PAGE: Final = ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
_PRIVATE: Final = [_NO_PAGE, ("Cache-Control", "no-store")]

log = structlog.get_logger()


class AccessLog:
    """The application, watched."""

    def __init__(self, application: WSGIApplication, metrics: RequestMetrics) -> None:
        self._application = application
        self._metrics = metrics

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, and tell of it."""
        deadline.begin()
        started = time.perf_counter()
        asked_id: str = environ.get("HTTP_X_REQUEST_ID", "")
        request_id = asked_id if _SANE_ID.fullmatch(asked_id) else f"{random.getrandbits(64):016x}"
        status = 500

        def start(
            line: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], object]:
            nonlocal status
            status = int(line[:3])
            headers.append(("X-Request-Id", request_id))
            headers.extend(_COMMON_HEADERS)
            if not any(name == _NO_REFERRER[0] for name, _ in headers):
                headers.append(_NO_REFERRER)
            if environ["PATH_INFO"].startswith("/v1"):
                headers.extend(_PRIVATE)
            elif not any(name == _NO_PAGE[0] for name, _ in headers):
                headers.append(_NO_PAGE)
            standing = environ.get(RATE_LIMIT_HEADERS)
            if standing is not None:
                headers.extend(standing)
            return start_response(line, headers, exc_info)

        tokens = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            return self._application(environ, start)
        finally:
            seconds = time.perf_counter() - started
            method = environ["REQUEST_METHOD"]
            route = environ.get(ROUTE, NO_ROUTE)
            self._metrics.observe(method if route != NO_ROUTE else "(any)", route, status, seconds)
            problem = environ.get(PROBLEM)
            log.info(
                "http_request",
                method=method,
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 2),
                client=environ.get(CLIENT),
                **({} if problem is None else {"problem": problem}),
            )
            structlog.contextvars.reset_contextvars(**tokens)
