"""
The HTTP client of gateways and webhooks: POSTs to addresses exactly as they are written.

An answer counts as soon as its status has arrived, because the other side may have acted. So aiohttp's limits for
heads are those of the whole head here. Its parser refuses some heads all the same, such as one with two lengths. The
status is therefore also read from the bytes as they arrive, and counts if aiohttp has no answer.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import aiohttp
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The longest head of an answer that is read, interim answers included, in bytes.
HEAD_BYTES_MAX: Final = 1024 * 1024
#: The bytes of an answer after which its connection is closed: head, chunk sizes and trailers included.
ANSWER_BYTES_MAX: Final = 2 * HEAD_BYTES_MAX
#: The time for which an idle connection is kept, in seconds. It is shorter than that of servers, because a call on a
#: connection that the server closes counts as unknown.
KEEPALIVE_SECONDS: Final = 1.0
#: The addresses whose parts are kept.
URLS_KEPT: Final = 1_024

_STATUS = re.compile(rb"[\r\n]*HTTP/\d(?:\.\d)?[ \t]+([1-9]\d\d)(?=[ \t\r\n])")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_BEFORE_PATH = re.compile(r"[a-z]+://[^/?#]*", re.IGNORECASE)
#: The characters that cannot stand in a request line.
_UNSENDABLE = re.compile(r"[^!-~]")


class Reply(NamedTuple):
    """The status of an answer, and its body as far as it arrived. A body that is too long is empty."""

    status: int
    body: bytes


class Client:
    """
    A client with a pool of connections. It is made inside the event loop.

    It follows no redirect, uses no proxy, keeps no cookies, decompresses nothing, and uses TLS with the certificates
    of the system. `timeout_seconds` is for a whole call. An answer with more than `headers_max` headers counts by its
    status alone. `connector` has further parameters of the TCPConnector.
    """

    def __init__(
        self, timeout_seconds: float, *, headers_max: int = HEAD_BYTES_MAX, **connector: Any
    ) -> None:
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                keepalive_timeout=KEEPALIVE_SECONDS, ssl=ssl.create_default_context(), **connector
            ),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, ceil_threshold=math.inf),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": "teller",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
            },
            max_line_size=HEAD_BYTES_MAX,
            max_field_size=HEAD_BYTES_MAX,
            max_headers=headers_max,
        )

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        body_bytes_max: int,
        body_seconds: float | None = None,
    ) -> Reply:
        """
        Send a POST. Reads at most `body_bytes_max` of the answer's body, for at most `body_seconds`.

        Raises TimeoutError, aiohttp.ClientError, OSError or ValueError if no status arrived.
        """
        head = _Head()
        _awaited.set(head)
        try:
            async with self._session.post(
                exact_url(url), data=body, headers=headers, allow_redirects=False
            ) as response:
                return Reply(response.status, await _read(response, body_bytes_max, body_seconds))
        except (aiohttp.ClientError, OSError, ValueError):
            if head.status is None:
                raise
            return Reply(head.status, b"")

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


@lru_cache(maxsize=URLS_KEPT)
def exact_url(url: str) -> URL:
    """
    Return a URL whose path and query are sent exactly as they are written.

    Spaces, control characters and those beyond ASCII are percent-encoded, since HTTP cannot carry them. Raises
    ValueError if it is no URL.
    """
    found = _BEFORE_PATH.match(url)
    if found is None:
        raise ValueError("a URL begins with http:// or https://")
    base = URL(found[0])
    target = _UNSENDABLE.sub(lambda character: quote(character[0]), url[found.end() :].partition("#")[0])
    if not target.startswith("/"):
        target = f"/{target}"
    # The query stands in the path, because a query of its own would lose an empty one.
    return URL.build(scheme=base.scheme, authority=base.raw_authority, path=target, encoded=True)


async def _read(response: aiohttp.ClientResponse, bytes_max: int, seconds: float | None) -> bytes:
    """Return the body as far as it arrives. The connection of a body that is too long is closed."""
    body = bytearray()
    with suppress(aiohttp.ClientError, OSError):  # the status is enough; a timeout is an OSError
        async with asyncio.timeout(seconds):
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > bytes_max:
                    response.close()
                    return b""
    return bytes(body)


class _Head:
    """The bytes of an answer up to the end of its head. An interim answer (1xx) is skipped."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._received = 0
        self._is_complete = False
        #: The status of the final answer, as soon as it has arrived.
        self.status: int | None = None

    def feed(self, data: bytes) -> bool:
        """Take the next bytes. Returns whether the answer may go on."""
        self._received += len(data)
        if self._is_complete:
            return self._received <= ANSWER_BYTES_MAX
        searched = max(0, len(self._kept) - 3)
        self._kept += data
        while end := _HEAD_END.search(self._kept, searched):
            searched = 0
            if self._read_status() is not None:
                self._is_complete = True
                self._kept.clear()
                return True
            del self._kept[: end.end()]
        self._read_status()
        return self._received <= HEAD_BYTES_MAX

    def _read_status(self) -> int | None:
        found = _STATUS.match(self._kept)
        if found and not (found[1][:1] == b"1" and found[1] != b"101"):
            self.status = int(found[1])
        return self.status


#: The head of the answer to the POST of this task.
_awaited: ContextVar[_Head] = ContextVar("_awaited")


class _Connector(aiohttp.TCPConnector):
    """Connections whose answers are also read by the `_Head` of the POST."""

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(*args, **kwargs)
        transport, protocol = connection.transport, connection.protocol
        if transport is not None and protocol is not None:
            current = transport.get_protocol()
            if isinstance(current, _Tee):  # the connection was used before
                current.head = _awaited.get()
            else:
                transport.set_protocol(_Tee(transport, protocol, _awaited.get()))
        return connection


class _Tee(asyncio.Protocol):
    """The protocol of a connection: each part of an answer goes to a `_Head`, and then to aiohttp."""

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, head: _Head) -> None:
        self._transport = transport
        self._protocol = protocol
        self.head = head
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]  # forwarded as they are
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        if self.head.feed(data):
            self._protocol.data_received(data)
        else:
            self._transport.abort()
