"""
The id, the log line and the metrics of every HTTP request, and the headers that all answers have.

This is WSGI middleware, so it also covers the answers that Flask gives itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog

from api.web import deadline, turns
from api.web.rate_limits import RATE_LIMIT_HEADERS, network_of
from api.web.routing import CLIENT, FAULT, PROBLEM, REQUEST, ROUTE
from processor.tracing import correlation, spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from api.web.request_metrics import RequestMetrics
    from processor.tracing.spans import Span

#: The route in log and metrics of an address without a route.
NO_ROUTE: Final = "(none)"

#: The values that a call may have noted, and their names in its line.
_NOTED: Final = ((REQUEST, "request"), (PROBLEM, "problem"), (FAULT, "exc_info"))

#: The same in its span.
_IN_SPANS: Final = ((REQUEST, "request"), (CLIENT, "client"))
#: The addresses that monitors read all the time.
WITHOUT_SPAN: Final = frozenset({"/healthz", "/readyz", "/metrics"})

_COMMON_HEADERS: Final = [("X-Content-Type-Options", "nosniff")]
#: Links do not reveal the page that they stand on. Pages with forms differ: otherwise browsers would omit the Origin.
_NO_REFERRER: Final = ("Referrer-Policy", "no-referrer")
#: The policy of an answer for programs. A page brings its own.
_NO_PAGE: Final = ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
_PRIVATE: Final = [_NO_PAGE, ("Cache-Control", "no-store")]

#: The lines of refused requests in one second, of a client and of an address without a key.
LINES_OF_A_CLIENT: Final = 10
LINES_OF_AN_ADDRESS: Final = 1
#: The callers whose refused requests of one second are counted separately.
CALLERS_MAX: Final = 1_000

log = structlog.get_logger()


class Refusals:
    """
    The refused requests of each second by caller, so that no caller fills the log.

    Each caller has a few lines in a second, and the others are counted. The next request after the second writes the
    counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str | None, str]] = Counter()
        self._until = 0.0

    def has_line(self, client: str | None, address: str, now: float) -> bool:
        """Count a refused request. Returns whether it has a line of its own."""
        caller = (client, "" if client is not None else network_of(address))
        with self._lock:
            if not self._counts:
                self._until = now + 1.0
            if len(self._counts) >= CALLERS_MAX and caller not in self._counts:
                caller = (None, "others")
            self._counts[caller] += 1
            return self._counts[caller] <= _lines_of(client)

    def write_counts(self, now: float) -> None:
        """Write the counts of a second that is over."""
        if not self._counts or now < self._until:
            return
        with self._lock:
            counts, self._counts = self._counts, Counter()
        for (client, address), count in counts.items():
            if count > _lines_of(client):
                if client is None:
                    self._replace_line(address, now)
                more = count - _lines_of(client)
                log.info("http_requests_refused", client=client, address=address or None, more=more)

    def _replace_line(self, address: str, now: float) -> None:
        """Let the count of an address be its line of the second that begins."""
        with self._lock:
            if not self._counts:
                self._until = now + 1.0
            self._counts[None, address] += LINES_OF_AN_ADDRESS


def _lines_of(client: str | None) -> int:
    return LINES_OF_AN_ADDRESS if client is None else LINES_OF_A_CLIENT


class AccessLog:
    """The application with metrics and a log line for each request. Lines of refused ones are limited."""

    def __init__(self, application: WSGIApplication, metrics: RequestMetrics) -> None:
        self._application = application
        self._metrics = metrics
        self._refusals = Refusals()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, then log and count it."""
        deadline.begin()
        turns.begin()
        started = time.perf_counter()
        sent = correlation.of_headers(environ.get("HTTP_X_REQUEST_ID"), environ.get("HTTP_TRACEPARENT"))
        span = None
        if spans.are_recorded() and environ["PATH_INFO"] not in WITHOUT_SPAN:
            span = spans.start("server", environ["REQUEST_METHOD"], sent)
        called = sent if span is None else span.correlation
        fields = called.log_fields()
        status = 500

        def start(
            line: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], object]:
            nonlocal status
            status = int(line[:3])
            headers.append(("X-Request-Id", fields["request_id"]))
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

        tokens = structlog.contextvars.bind_contextvars(**fields)
        token = correlation.bind(called)
        try:
            return self._application(environ, start)
        finally:
            seconds = time.perf_counter() - started
            method = environ["REQUEST_METHOD"]
            route = environ.get(ROUTE, NO_ROUTE)
            self._metrics.observe(method if route != NO_ROUTE else "(any)", route, status, seconds)
            client = environ.get(CLIENT)
            now = started + seconds
            self._refusals.write_counts(now)
            if not _is_refused(status) or self._refusals.has_line(
                client, environ.get("REMOTE_ADDR", ""), now
            ):
                write = log.info if status < HTTPStatus.INTERNAL_SERVER_ERROR else log.error
                write(
                    "http_request",
                    method=method,
                    route=route,
                    status=status,
                    duration_ms=round(seconds * 1000, 2),
                    client=client,
                    **{name: environ[key] for key, name in _NOTED if key in environ},
                )
            correlation.reset(token)
            if span is not None:
                _end(span, environ, status)
            structlog.contextvars.reset_contextvars(**tokens)


def _end(span: Span, environ: WSGIEnvironment, status: int) -> None:
    """End the span of a call, by the names of OpenTelemetry's conventions for HTTP."""
    method, route = environ["REQUEST_METHOD"], environ.get(ROUTE, NO_ROUTE)
    attributes: spans.Attributes = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
    }
    attributes |= {f"teller.{name}": environ[key] for key, name in _IN_SPANS if environ.get(key)}
    is_fault = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    span.end(
        attributes, name=f"{method} {route}", error=str(environ.get(PROBLEM, status)) if is_fault else None
    )


def _is_refused(status: int) -> bool:
    """Return whether the answer refuses a request. A fault of the server (500) always has its line."""
    return (
        HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        or status == HTTPStatus.SERVICE_UNAVAILABLE
    )
