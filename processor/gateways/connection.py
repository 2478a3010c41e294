"""
One connection of the HTTP client: it sends requests as bytes, and reads the answers.

httptools parses them, which is the parser of Node.js. An answer counts as soon as its status has arrived, because the
other side may have acted. The parser refuses some answers, such as one with two lengths. So the bytes of a head are
kept until the parser has taken all of it. If it does not, the status is read from them.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, NamedTuple

import httptools

#: The longest head of an answer that is read, interim answers included, in bytes.
HEAD_BYTES_MAX: Final = 1024 * 1024
#: The bytes of an answer after which its connection is closed: head, chunk sizes and trailers included.
ANSWER_BYTES_MAX: Final = 2 * HEAD_BYTES_MAX

_STATUS = re.compile(rb"[\r\n]*HTTP/\d(?:\.\d)?[ \t]+([1-9]\d\d)(?=[ \t\r\n])")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
#: The statuses of interim answers. 101 is final.
_INTERIM = frozenset(range(100, 200)) - {101}


class Reply(NamedTuple):
    """The status of an answer, and its body as far as it arrived. A body that is too long is empty."""

    status: int
    body: bytes


class NoAnswer(ConnectionError):
    """The connection ended before a status arrived."""


class Connection(asyncio.Protocol):
    """A connection, for one request at a time."""

    def __init__(self) -> None:
        #: The time of the loop since when the connection is idle.
        self.idle_since = 0.0
        #: The next request may be sent.
        self.is_reusable = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._reply: asyncio.Future[Reply] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._body_seconds: float | None = None

    def exchange(
        self, request: bytes, deadline: float, body_bytes_max: int, body_seconds: float | None
    ) -> asyncio.Future[Reply]:
        """
        Send a request. Returns the future of its reply.

        After `deadline`, by the clock of the loop, and `body_seconds` after the head, the status counts with the part
        of the body that has arrived. The future raises TimeoutError or NoAnswer if there is no status.
        """
        transport = self._transport
        reply = self._reply = self._loop.create_future()
        self.is_reusable = False
        self._kept: list[bytes] = []
        self._kept_bytes = self._received_bytes = 0
        self._status: int | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_bytes_max = body_bytes_max
        self._body_seconds = body_seconds
        self._is_complete = self._is_kept_alive = False
        if transport is None or transport.is_closing():
            self._end(NoAnswer("the connection was closed"))
            return reply
        self._timer = self._loop.call_at(deadline, self._expire)
        transport.write(request)
        return reply

    def close(self) -> None:
        """Close the connection at once."""
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    # ---------------------------------------------------------------- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # create_connection makes a Transport
        self.is_reusable = True

    def data_received(self, data: bytes) -> None:
        if self._reply is None:  # no request has this answer
            self.close()
            return
        if self._status is None:
            self._kept.append(data)
            self._kept_bytes += len(data)
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._is_kept_alive = False
            self._end()
            return
        if (
            self._is_complete
            or self._body_bytes > self._body_bytes_max
            or (self._status is None and self._kept_bytes > HEAD_BYTES_MAX)
            or (self._received_bytes > ANSWER_BYTES_MAX)
        ):
            self._end()
        elif self._status is not None and self._body_seconds is not None:
            self._limit_body(self._body_seconds)

    def eof_received(self) -> None:
        self.is_reusable = False

    def connection_lost(self, fault: Exception | None) -> None:
        self._end(fault)
        self._transport = None
        del self._parser  # it and this object refer to each other

    # ---------------------------------------------------------------- called by the parser

    def on_message_begin(self) -> None:
        if self._is_complete:  # bytes behind the answer
            self._is_kept_alive = False

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._is_complete and status not in _INTERIM:
            self._status = status
            self._kept.clear()

    def on_body(self, data: bytes) -> None:
        if not self._is_complete:
            self._body_bytes += len(data)
            if self._body_bytes <= self._body_bytes_max:
                self._body.append(data)

    def on_message_complete(self) -> None:
        if self._status is not None and not self._is_complete:
            self._is_complete = True
            self._is_kept_alive = self._parser.should_keep_alive()

    # ---------------------------------------------------------------- the end of an answer

    def _limit_body(self, seconds: float) -> None:
        """Let the body arrive for this time."""
        self._body_seconds = None
        if self._timer is not None and self._timer.when() > self._loop.time() + seconds:
            self._timer.cancel()
            self._timer = self._loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._end(TimeoutError())

    def _end(self, fault: Exception | None = None) -> None:
        """End the call under way with its reply, or with a fault if no status has arrived."""
        reply, self._reply = self._reply, None
        if reply is None:
            self.is_reusable = False
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.is_reusable = (
            self._is_complete and self._is_kept_alive and self._body_bytes <= self._body_bytes_max
        )
        if not self.is_reusable:
            self.close()
        if reply.done():  # the call was cancelled
            return
        status = self._status or status_of(b"".join(self._kept))
        if status is not None:
            is_whole = self._body_bytes <= self._body_bytes_max
            reply.set_result(Reply(status, b"".join(self._body) if is_whole else b""))
        else:
            reply.set_exception(fault or NoAnswer("no status arrived"))
        self._kept.clear()
        self._body.clear()


class CountingConnection(Connection):
    """A connection whose answers count by their status alone if they have more than `headers_max` headers."""

    def __init__(self, headers_max: int) -> None:
        super().__init__()
        self._headers_max = headers_max
        self._headers = 0

    def exchange(
        self, request: bytes, deadline: float, body_bytes_max: int, body_seconds: float | None
    ) -> asyncio.Future[Reply]:
        self._headers = 0
        return super().exchange(request, deadline, body_bytes_max, body_seconds)

    def on_header(self, _name: bytes, _value: bytes) -> None:
        self._headers += 1
        if self._headers > self._headers_max:
            raise ValueError("too many headers")  # the parser stops, and its fault is the end of the answer


def status_of(head: bytes) -> int | None:
    """
    Return the status of the bytes that arrived, as soon as its line has it. Interim answers (1xx) are skipped.
    """
    position = 0
    while found := _STATUS.match(head, position):
        status = int(found[1])
        if status not in _INTERIM:
            return status
        end = _HEAD_END.search(head, position)
        if end is None:
            return None
        position = end.end()
    return None
