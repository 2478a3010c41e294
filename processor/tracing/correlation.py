"""
Correlation: the headers X-Request-Id and traceparent of an HTTP call.

A request keeps those of the call that made it. They stand in log lines about it, in the calls of its gateway and in
its deliveries. https://www.w3.org/TR/trace-context/ defines the header traceparent.
"""

from __future__ import annotations

import random
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from contextvars import Token

#: Request ids of clients that are used as they are.
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}", re.ASCII)
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32}-)(?!0{16})([0-9a-f]{16}-)([0-9a-f]{2})(-.*)?", re.ASCII
)
#: The version of traceparent that Teller sends, and its flag for a trace that is recorded.
_VERSION: Final = "00"
_SAMPLED: Final = 0x01


class Correlation(NamedTuple):
    """The ids of a call. None: it had none, or no call made the request."""

    x_request_id: str | None = None
    #: 55 characters of version 00.
    traceparent: str | None = None

    @property
    def trace_id(self) -> str | None:
        """The 32 hexadecimal digits of the trace."""
        return None if self.traceparent is None else self.traceparent[3:35]

    def parsed(self) -> tuple[int, int, int] | None:
        """Return trace, span and flags. None: no traceparent, or another role than the API wrote it."""
        try:
            _, trace, span, flags = (self.traceparent or "").split("-")
            return int(trace, 16), int(span, 16), int(flags, 16)
        except ValueError:
            return None

    def log_fields(self) -> dict[str, str]:
        """Return the fields of a log line about the request. A log calls X-Request-Id `request_id`."""
        fields = {}
        if self.x_request_id is not None:
            fields["request_id"] = self.x_request_id
        if self.traceparent is not None:
            fields["trace_id"] = self.traceparent[3:35]
        return fields

    def headers(self) -> dict[str, str]:
        """Return the headers of a call about the request."""
        headers = {}
        if self.x_request_id is not None:
            headers["X-Request-Id"] = self.x_request_id
        if self.traceparent is not None:
            headers["traceparent"] = self.traceparent
        return headers


NONE: Final = Correlation()
_current: ContextVar[Correlation] = ContextVar("correlation", default=NONE)


def of_headers(x_request_id: str | None, traceparent: str | None) -> Correlation:
    """
    Return the correlation of a call with these headers.

    An X-Request-Id of other characters, or of more than 128, is replaced by a new one. An invalid traceparent is
    ignored.
    """
    if x_request_id is None or not _SANE_ID.fullmatch(x_request_id):
        x_request_id = f"{random.getrandbits(64):016x}"
    return Correlation(x_request_id, None if traceparent is None else _sound(traceparent))


def _sound(traceparent: str) -> str | None:
    """Return a header in version 00, or None if it is invalid. Further fields of a later version are left out."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace, parent, flags, more = found.groups()
    if version == _VERSION:
        return traceparent if more is None else None
    return f"{_VERSION}-{trace}{parent}{int(flags, 16) & _SAMPLED:02x}"


def current() -> Correlation:
    """Return the correlation of the HTTP call that this thread answers."""
    return _current.get()


def bind(correlation: Correlation) -> Token[Correlation]:
    """Make a correlation the current one of this thread. Returns the token for `reset`."""
    return _current.set(correlation)


def reset(token: Token[Correlation]) -> None:
    """End a `bind`."""
    _current.reset(token)
