"""
The status of answers that aiohttp refuses.

Its parser refuses a head with two lengths or a line without a colon, for example, and its fault has no status. So the
bytes of an answer go to a `Head` before they go to aiohttp. This module adds nothing else to aiohttp.
"""

from __future__ import annotations

import asyncio
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from aiohttp.connector import Connection

#: The longest head of an answer that is read, interim answers included, in bytes.
HEAD_BYTES_MAX: Final = 1024 * 1024
#: The bytes after a head for which its connection stays open: body, chunk sizes and trailers.
REST_BYTES_MAX: Final = 1024 * 1024

_STATUS = re.compile(rb"[\r\n]*HTTP/\d(?:\.\d)?[ \t]+([1-9]\d\d)(?=[ \t\r\n])")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
#: The statuses of interim answers. 101 is final.
_INTERIM = frozenset(range(100, 200)) - {101}


class Head:
    """The bytes of the answer to one POST, up to the end of its head."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._is_read = False
        self._bytes_left = HEAD_BYTES_MAX

    def expect(self) -> None:
        """Make this the head of the next answer that a connection of this task receives."""
        _expected.set(self)

    def feed(self, data: bytes) -> bool:
        """Take the next bytes. Returns whether the answer may go on."""
        self._bytes_left -= len(data)
        if not self._is_read and self._bytes_left >= 0:
            self._kept.append(data)
        return self._bytes_left >= 0

    def finish(self, rest_bytes_max: int) -> None:
        """Keep nothing more, and let as many bytes follow: the rest of the answer, or none behind it."""
        self._is_read = True
        self._kept.clear()
        self._bytes_left = rest_bytes_max

    def status(self) -> int | None:
        """Return the status, if its line has arrived."""
        return status_of(b"".join(self._kept))


#: The head of the answer to the POST of this task.
_expected: ContextVar[Head] = ContextVar("_expected")


class Connector(aiohttp.TCPConnector):
    """Connections whose bytes also go to the `Head` that is expected."""

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        """Return a connection, as aiohttp does."""
        connection = await super().connect(*args, **kwargs)
        transport, protocol = connection.transport, connection.protocol
        if transport is not None and protocol is not None:
            tap = transport.get_protocol()
            if isinstance(tap, _Tap):  # the connection was used before
                tap.head = _expected.get()
            else:
                transport.set_protocol(_Tap(transport, protocol, _expected.get()))
        return connection


class _Tap(asyncio.Protocol):
    """The protocol of a connection: the bytes of an answer go to a `Head`, and then to aiohttp."""

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, head: Head) -> None:
        self._transport = transport
        self._protocol = protocol
        self.head = head
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]  # passed on as they are
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        if self.head.feed(data):
            self._protocol.data_received(data)
        else:
            self._transport.abort()


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
