"""
The HTTP client of gateways and webhooks: POSTs by aiohttp, to addresses exactly as they are written.

It follows no redirect, uses no proxy, keeps no cookies, and decompresses nothing. An answer counts as soon as its
status has arrived, because the other side may have acted. The parser of aiohttp refuses some answers, such as one
with two lengths. `answers.py` has the status of those.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import aiohttp
from yarl import URL

from processor.gateways.answers import HEAD_BYTES_MAX, REST_BYTES_MAX, Connector, Head

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The time for which an idle connection is kept, in seconds. It is shorter than that of servers, because a call on a
#: connection that the server closes counts as unknown.
KEEPALIVE_SECONDS: Final = 1.0
#: The addresses whose parts are kept.
URLS_KEPT: Final = 1_024

_BEFORE_PATH = re.compile(r"[a-z]+://[^/?#]*", re.IGNORECASE)
#: The characters that cannot stand in a request line.
_UNSENDABLE = re.compile(r"[^!-~]")


class Reply(NamedTuple):
    """The status of an answer, and its body as far as it arrived. A body that is too long is empty."""

    status: int
    body: bytes


class Client:
    """
    A client with a pool, of which at most `connections_max` connections are in use. It is made inside the event loop.

    It uses TLS with the certificates of the system. `timeout_seconds` is for a whole call. An answer with more than
    `headers_max` headers counts by its status alone. `connector` has further parameters of aiohttp's TCPConnector.
    """

    def __init__(
        self,
        timeout_seconds: float,
        *,
        connections_max: int,
        headers_max: int = HEAD_BYTES_MAX,
        **connector: Any,
    ) -> None:
        self._session = aiohttp.ClientSession(
            connector=Connector(
                limit=connections_max,
                keepalive_timeout=KEEPALIVE_SECONDS,
                ssl=ssl.create_default_context(),
                **connector,
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

        Raises TimeoutError, aiohttp.ClientError or another OSError if no status arrived. It is a ClientConnectorError
        if nothing was sent. Raises ValueError if it is no URL.
        """
        head = Head()
        head.expect()
        try:
            response = await self._session.post(
                exact_url(url), data=aiohttp.BytesPayload(body), headers=headers, allow_redirects=False
            )
            head.finish(REST_BYTES_MAX)
            try:
                return Reply(response.status, await _read(response, body_bytes_max, body_seconds))
            finally:
                response.close()  # if the body has not ended, the connection is not used again
        except (aiohttp.ClientError, OSError):
            status = head.status()
            if status is None:
                raise
            return Reply(status, b"")
        finally:
            head.finish(0)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


async def _read(response: aiohttp.ClientResponse, bytes_max: int, seconds: float | None) -> bytes:
    """Return the body as far as it arrives. A body that is too long is empty."""
    content = response.content
    if content.is_eof():  # it arrived with its head, as most do
        body = content.read_nowait()
        return body if len(body) <= bytes_max else b""
    parts = bytearray()
    with suppress(aiohttp.ClientError, OSError):  # the status is enough; a timeout is an OSError
        async with asyncio.timeout(seconds):
            while part := await content.readany():
                parts += part
                if len(parts) > bytes_max:
                    return b""
    return bytes(parts)


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
