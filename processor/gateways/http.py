"""
The built-in gateway: a signed POST with the request's id as `Idempotency-Key` (CONTRACT.md, *Gateways*).

Follows no redirect, uses no proxy, reads little of an answer. Addresses are the operator's own, so private ones are
fine.
"""

import json
import ssl
import time
from typing import Any, Final

import aiohttp

from processor.domain.model import Outcome
from processor.gateways import signatures
from processor.gateways.protocol import Answer, Order

#: How much of an answer is read, in bytes; of a longer one only the status counts.
BODY_BYTES_MAX: Final = 64 * 1024
#: How much is kept of a reference or a reason, in characters.
TEXT_CHARACTERS_MAX: Final = 255
#: How long an idle connection is kept, in seconds: shorter than any server keeps it, for a call that meets a closed
#: one counts as unknown.
KEEPALIVE_SECONDS: Final = 1.0
#: Connections to one gateway; more calls are never under way (`effects.CALLS_AT_ONCE`).
CONNECTIONS_MAX: Final = 64

_DECLINED = frozenset({400, 402, 422})
_MISCONFIGURED = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 410})


class HttpGateway:
    """One gateway at one URL. Must be made inside the event loop."""

    def __init__(self, url: str, key: bytes) -> None:
        self._url = url
        self._key = key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS_MAX, keepalive_timeout=KEEPALIVE_SECONDS, ssl=ssl.create_default_context()
            ),
            timeout=aiohttp.ClientTimeout(total=None),  # whoever asks gives up after his own
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": "teller",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
            },
        )

    async def perform(self, order: Order) -> Answer:
        """Post the order; what the answer means is in `outcome_of`."""
        body = json.dumps(_document(order), ensure_ascii=False, separators=(",", ":")).encode()
        key = str(order.request_id)
        signed = signatures.headers(key, int(time.time()), body, [self._key])
        try:
            async with self._session.post(
                self._url, data=body, headers={"Idempotency-Key": key, **signed}, allow_redirects=False
            ) as response:
                outcome = outcome_of(response.status)
                said = await _read(response) if outcome in ("done", "declined") else {}
                return _answer(outcome, response.status, said)
        except aiohttp.ClientConnectorError as fault:
            return Answer("unknown", reason="no connection", error=describe(fault))
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            return Answer("unknown", reason="no valid answer", error=describe(fault))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._session.close()


def outcome_of(status: int) -> Outcome:
    """What the status of an answer says about the order."""
    if 200 <= status <= 299:  # noqa: PLR2004  # RFC 9110: successful
        return "done"
    if status in _DECLINED:
        return "declined"
    return "misconfigured" if status in _MISCONFIGURED else "unknown"


def describe(fault: BaseException) -> str:
    """A fault in one short line, for admins."""
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
    """The object that an answer holds; empty when it holds another thing, or too much."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            response.close()
            return {}
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _answer(outcome: Outcome, status: int, said: dict[str, Any]) -> Answer:
    match outcome:
        case "done":
            return Answer("done", status, reference=_text(said.get("reference")))
        case "declined":
            return Answer("declined", status, reason=_text(said.get("reason")))
        case _:
            return Answer(outcome, status, reason=f"answered {status}")


def _text(value: object) -> str | None:
    """What a gateway said, if it is text, as far as it can be kept and shown."""
    if not isinstance(value, str):
        return None
    return "".join(character for character in value if character.isprintable())[:TEXT_CHARACTERS_MAX] or None
