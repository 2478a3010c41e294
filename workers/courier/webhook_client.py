"""
Sends one webhook delivery. Only to public addresses, unless private ones are allowed, whatever the name says.

The name is resolved once, every address it has is checked, and the connection is made to one of these, with the
original name for TLS and `Host`. Follows no redirect, uses no proxy and no cookies, and reads next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from processor.gateways import addresses, signatures
from processor.gateways.addresses import AddressRefused, WebhookAddressRefused
from processor.gateways.http import KEEPALIVE_SECONDS
from processor.outbox.deliveries import Told, failed
from workers.courier.database_thread import in_thread

if TYPE_CHECKING:
    from aiohappyeyeballs import AddrInfoType

    from processor.outbox.deliveries import WebhookDelivery

#: How long one try may take, from the look-up of the name to the status of the answer, in seconds.
TIMEOUT_SECONDS: Final = 10.0
#: Connections at once, idle ones too.
CONNECTIONS_MAX: Final = 1_024
#: How much of an answer's body is read, in bytes, and for how long, in seconds: only to use the connection again.
BODY_BYTES_MAX: Final = 16 * 1024
BODY_SECONDS: Final = 1.0

_GONE: Final = 410


class Poster:
    """Made inside the event loop."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS_MAX,
                keepalive_timeout=KEEPALIVE_SECONDS,
                ssl=ssl.create_default_context(),
                use_dns_cache=False,
                resolver=_Resolver(allow_private=allow_private),
                socket_factory=None if allow_private else _public_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": "teller",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
            },
        )

    async def post(self, delivery: WebhookDelivery) -> Told:
        """One try. Never raises."""
        if delivery.url is None:
            return Told(delivery, "failed", error="the webhook was deleted")
        if delivery.is_disabled:
            return Told(delivery, "failed", error="the webhook is disabled")
        try:
            addresses.check_form(delivery.url, allow_private=self._allow_private)
            status = await self._send(delivery, delivery.url)
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is about this one delivery: it is tried again
            return failed(delivery, _describe(fault))
        if 200 <= status <= 299:  # noqa: PLR2004 - RFC 9110: successful
            return Told(delivery, "delivered", status)
        return failed(delivery, f"answered {status}", status, is_gone=status == _GONE)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._session.close()

    async def _send(self, delivery: WebhookDelivery, url: str) -> int:
        body = delivery.body()
        headers = signatures.headers(delivery.message_id, int(time.time()), body, delivery.keys)
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # the status has said it all
                async with asyncio.timeout(BODY_SECONDS):
                    await _drain(response.content)
            return response.status


async def _drain(content: aiohttp.StreamReader) -> None:
    """A connection whose answer is read to its end can be used again; one whose answer is long is closed."""
    read = 0
    async for chunk in content.iter_any():
        read += len(chunk)
        if read > BODY_BYTES_MAX:
            return


class _Resolver(AbstractResolver):
    """The system's name service, on threads that cannot be used up; private addresses are refused."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await in_thread(
            lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        )
        if not self._allow_private and not all(addresses.is_public(str(where[0])) for *_, where in found):
            raise AddressRefused("the address is not public")
        return [
            ResolveResult(
                hostname=host,
                host=str(where[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, where in found
        ]

    async def close(self) -> None:
        pass


def _public_socket(address: AddrInfoType) -> socket.socket:
    """The last look, at the very address that is about to be connected to: also one that the URL spells out."""
    family, kind, protocol, _, where = address
    if not addresses.is_public(str(where[0])):
        raise AddressRefused("the address is not public")
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    return made


def _describe(fault: Exception) -> str:
    """What went wrong, for the client whose webhook it is: nothing of how it looks inside here."""
    match fault:
        case WebhookAddressRefused():
            return str(fault)
        case TimeoutError():
            return f"no answer within {TIMEOUT_SECONDS:g} s"
        case aiohttp.ClientConnectorCertificateError():
            return "the certificate is not valid for this name"
        case aiohttp.ClientConnectorDNSError() if not isinstance(fault.os_error, AddressRefused):
            return "the name does not resolve"
        case aiohttp.ClientConnectorError() if isinstance(fault.os_error, AddressRefused):
            return "refused: the address is not public"
        case aiohttp.ClientConnectorError():
            return "no connection"
        case _:
            return f"no valid answer ({type(fault).__name__})"
