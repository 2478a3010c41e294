"""
The webhook client sends one delivery, only to public addresses unless private ones are allowed.

It resolves the name once, checks each of its addresses, and connects to one of them, with the name for TLS and
`Host`. It follows no redirect, uses no proxy and no cookies, and reads only a small part of an answer.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from processor.gateways import addresses, signatures
from processor.gateways.addresses import AddressRefused, WebhookAddressRefused
from processor.gateways.client import Client
from processor.outbox import tries
from processor.outbox.deliveries import PAUSES_SECONDS
from workers.courier.database_thread import in_thread

if TYPE_CHECKING:
    from aiohttp import AddrInfoType

    from processor.outbox.deliveries import WebhookDelivery
    from processor.outbox.tries import SendResult

#: The longest time of one try, from the resolution of the name to the status of the answer, in seconds.
TIMEOUT_SECONDS: Final = 10.0
#: The connections that are in use at once.
CONNECTIONS_MAX: Final = 1_024
#: The headers of an answer that are parsed. A receiver's status is enough, and many headers take long to parse.
HEADERS_MAX: Final = 128
#: The longest body of an answer that is read, in bytes, and the time for it, in seconds. It is read only so that the
#: connection can be reused.
BODY_BYTES_MAX: Final = 16 * 1024
BODY_SECONDS: Final = 1.0

_GONE: Final = 410


class WebhookClient:
    """Sends deliveries over HTTP. It is made inside the event loop."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._client = Client(
            TIMEOUT_SECONDS,
            headers_max=HEADERS_MAX,
            connections_max=CONNECTIONS_MAX,
            use_dns_cache=False,
            resolver=Resolver(allow_private=allow_private),
            socket_factory=None if allow_private else _public_socket,
        )

    async def send(self, delivery: WebhookDelivery) -> SendResult[WebhookDelivery]:
        """Send a delivery once. Returns the result, also for a fault."""
        if delivery.url is None:
            return tries.given_up(delivery, "the webhook was deleted")
        if delivery.is_disabled:
            return tries.given_up(delivery, "the webhook is disabled")
        try:
            addresses.check_form(delivery.url, allow_private=self._allow_private)
            status = await self._post(delivery, delivery.url)
        except Exception as fault:  # noqa: BLE001 - any fault concerns this delivery alone, which is sent again
            return tries.failed(delivery, _describe(fault), PAUSES_SECONDS)
        if 200 <= status <= 299:  # noqa: PLR2004 - RFC 9110, successful
            return tries.sent(delivery, status)
        return tries.failed(
            delivery, f"answered {status}", PAUSES_SECONDS, http_status=status, is_gone=status == _GONE
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _post(self, delivery: WebhookDelivery, url: str) -> int:
        body = delivery.body()
        signed = signatures.headers(delivery.message_id, int(time.time()), body, delivery.keys)
        headers = signed | delivery.correlation.headers()
        reply = await self._client.post(
            url, body, headers, body_bytes_max=BODY_BYTES_MAX, body_seconds=BODY_SECONDS
        )
        return reply.status


class Resolver(AbstractResolver):
    """The resolver of the system, on a thread for each name. It refuses private addresses."""

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
    """Make a socket for an address, also one that stands in the URL itself. Raises AddressRefused."""
    family, kind, protocol, _, where = address
    if not addresses.is_public(str(where[0])):
        raise AddressRefused("the address is not public")
    opened = socket.socket(family, kind, protocol)
    opened.setblocking(False)
    return opened


def _describe(fault: Exception) -> str:
    """Return the fault as text for the client of the webhook, without internals of this network."""
    match fault:
        case WebhookAddressRefused():
            return str(fault)
        case TimeoutError():
            return f"no answer within {TIMEOUT_SECONDS:g} s"
        case aiohttp.ClientConnectorCertificateError():
            return "the certificate is not valid for this name"
        case aiohttp.ClientConnectorDNSError():  # also a name of this network: the client must not learn which exist
            return "the name does not lead to a public address"
        case aiohttp.ClientConnectorError() if isinstance(fault.os_error, AddressRefused):
            return "refused: the address is not public"
        case aiohttp.ClientConnectorError():
            return "no connection"
        case _:
            return f"no valid answer ({type(fault).__name__})"
