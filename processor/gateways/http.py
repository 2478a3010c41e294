"""
The built-in gateway: a signed POST with the request's id as `Idempotency-Key`. docs/gateways.md describes it.

It follows no redirect, uses no proxy, and reads a limited part of an answer. The operator chooses its address, which
may be private.
"""

import json
import ssl
import time
from typing import Any, Final

import aiohttp

from processor.domain.model import Outcome
from processor.gateways import signatures
from processor.gateways.protocol import Answer, Order

#: The longest answer that is read, in bytes. A longer answer counts by its status alone.
BODY_BYTES_MAX: Final = 64 * 1024
#: The longest reference or reason that is kept, in characters.
TEXT_CHARACTERS_MAX: Final = 255
#: The time for which an idle connection is kept, in seconds. It is shorter than that of servers, because a call on a
#: connection that the server closes counts as unknown.
KEEPALIVE_SECONDS: Final = 1.0
#: The connections to one gateway, as many as calls are under way at once (`gateway_calls.CALLS_AT_ONCE`).
CONNECTIONS_MAX: Final = 64

_DECLINED = frozenset({400, 402, 422})
_MISCONFIGURED = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 410})


def open_session(timeout_seconds: float | None, **connector: Any) -> aiohttp.ClientSession:
    """
    Open a session for signed POSTs, inside the event loop.

    It keeps no cookies and decompresses nothing, and uses TLS with the certificates of the system. `connector` has
    further parameters of the TCPConnector.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            keepalive_timeout=KEEPALIVE_SECONDS, ssl=ssl.create_default_context(), **connector
        ),
        timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "User-Agent": "teller",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
        },
    )


class HttpGateway:
    """A gateway at one URL. It is made inside the event loop."""

    def __init__(self, url: str, key: bytes) -> None:
        self._url = url
        self._key = key
        self._session = open_session(None, limit=CONNECTIONS_MAX)  # the courier has a timeout for each call

    async def perform(self, order: Order) -> Answer:
        """Send the order. Returns the outcome by the status of the answer (`outcome_of`)."""
        body = json.dumps(_document(order), ensure_ascii=False, separators=(",", ":")).encode()
        key = str(order.request_id)
        signed = signatures.headers(key, int(time.time()), body, [self._key])
        try:
            async with self._session.post(
                self._url, data=body, headers={"Idempotency-Key": key, **signed}, allow_redirects=False
            ) as response:
                outcome = outcome_of(response.status)
                document = await _read(response) if outcome in ("done", "declined") else {}
                return _answer(outcome, response.status, document)
        except aiohttp.ClientConnectorError as fault:
            return Answer("unknown", reason="no connection", error=describe(fault))
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            return Answer("unknown", reason="no valid answer", error=describe(fault))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def outcome_of(status: int) -> Outcome:
    """Return the outcome of an order from the status of the answer."""
    if 200 <= status <= 299:  # noqa: PLR2004 - RFC 9110, successful
        return "done"
    if status in _DECLINED:
        return "declined"
    return "misconfigured" if status in _MISCONFIGURED else "unknown"


def describe(fault: BaseException) -> str:
    """Return a fault as one short line, for operators."""
    return f"{type(fault).__name__}: {fault}".partition("\n")[0][:TEXT_CHARACTERS_MAX]


def _document(order: Order) -> dict[str, Any]:
    return {
        "request": str(order.request_id),
        "kind": order.kind,
        "account": order.account,
        "resource": order.resource,
        "amount": order.amount,
        "destination": order.destination,
        "metadata": order.metadata,
    }


async def _read(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return the JSON object of an answer, or an empty one if it has none or is too long."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            response.close()
            return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _answer(outcome: Outcome, status: int, document: dict[str, Any]) -> Answer:
    match outcome:
        case "done":
            return Answer("done", status, reference=_text(document.get("reference")))
        case "declined":
            return Answer("declined", status, reason=_text(document.get("reason")))
        case _:
            return Answer(outcome, status, reason=f"answered {status}")


def _text(value: object) -> str | None:
    """Return the printable part of a text, or None if it is no text or nothing is left."""
    if not isinstance(value, str):
        return None
    return "".join(character for character in value if character.isprintable())[:TEXT_CHARACTERS_MAX] or None
