"""
The id, the log line and the metrics of every HTTP request, and the headers that all answers have.

This is WSGI middleware, so it also covers the answers that Flask gives itself.
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

#: The route in log and metrics of an address without a route.
NO_ROUTE: Final = "(none)"
#: Request ids of clients that are used as they are.
_SANE_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}", re.ASCII)

_COMMON_HEADERS: Final = [("X-Content-Type-Options", "nosniff")]
#: Links do not reveal the page that they stand on. Pages with forms differ: otherwise browsers would omit the Origin.
_NO_REFERRER: Final = ("Referrer-Policy", "no-referrer")
#: The policy of an answer for programs. A page brings its own.
_NO_PAGE: Final = ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
_PRIVATE: Final = [_NO_PAGE, ("Cache-Control", "no-store")]

log = structlog.get_logger()


class AccessLog:
    """The application with a log line and metrics for each request."""

    def __init__(self, application: WSGIApplication, metrics: RequestMetrics) -> None:
        self._application = application
        self._metrics = metrics

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, then log and count it."""
        deadline.begin()
        started = time.perf_counter()
        sent_id: str = environ.get("HTTP_X_REQUEST_ID", "")
        request_id = sent_id if _SANE_ID.fullmatch(sent_id) else f"{random.getrandbits(64):016x}"
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
            rate_limit_headers = environ.get(RATE_LIMIT_HEADERS)
            if rate_limit_headers is not None:
                headers.extend(rate_limit_headers)
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
