"""
The built-in gateway: a signed POST with the request's id as `Idempotency-Key`. docs/gateways.md describes it.

It follows no redirect, uses no proxy, and reads a limited part of an answer. The operator chooses its address, which
may be private.
"""

import json
import time
from typing import Any, Final

import aiohttp

from processor.domain.model import Outcome
from processor.gateways import signatures
from processor.gateways.client import Client
from processor.gateways.protocol import Answer, Order, text_of

#: The longest answer that is read, in bytes. A longer answer counts by its status alone.
BODY_BYTES_MAX: Final = 64 * 1024
#: The end of a call's timeout, in which nothing more is read and a status without its body counts. It is a part of
#: the timeout, and has at most this many seconds.
EVALUATION_PART: Final = 0.1
EVALUATION_SECONDS_MAX: Final = 0.1

_DECLINED = frozenset({400, 402, 422})
_MISCONFIGURED = frozenset({401, 403, 404, 405, 410})
#: They are made once, because `json.dumps` and `json.loads` would make one for each call.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda _: None)


class HttpGateway:
    """
    A gateway at one URL, with at most `connections_max` connections. It is made inside the event loop.

    `timeout_seconds` is that of the courier for a call.
    """

    def __init__(self, url: str, key: bytes, timeout_seconds: float, connections_max: int) -> None:
        self._url = url
        self._key = key
        evaluation_seconds = min(timeout_seconds * EVALUATION_PART, EVALUATION_SECONDS_MAX)
        self._client = Client(timeout_seconds - evaluation_seconds, connections_max=connections_max)

    async def perform(self, order: Order) -> Answer:
        """
        Send the order. Returns the outcome by the status of the answer (`outcome_of`).

        Raises TimeoutError if no status arrives in time.
        """
        key = str(order.request_id)
        body = _ENCODER.encode(_document(order, key)).encode()
        signed = signatures.headers(key, int(time.time()), body, [self._key])
        try:
            headers = {"Idempotency-Key": key, **signed, **order.correlation.headers()}
            reply = await self._client.post(self._url, body, headers, body_bytes_max=BODY_BYTES_MAX)
        except TimeoutError:
            raise
        except aiohttp.ClientConnectorError as fault:
            return Answer("unknown", reason="no connection", error=describe(fault))
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            return Answer("unknown", reason="no valid answer", error=describe(fault))
        return answer_of(reply.status, reply.body)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def outcome_of(status: int) -> Outcome:
    """Return the outcome of an order from the status of the answer."""
    if 200 <= status <= 299:  # noqa: PLR2004 - RFC 9110, successful
        return "done"
    if status in _DECLINED:
        return "declined"
    is_redirect = 300 <= status <= 399  # noqa: PLR2004 - RFC 9110, redirection
    return "misconfigured" if is_redirect or status in _MISCONFIGURED else "unknown"


def answer_of(status: int, body: bytes) -> Answer:
    """Return the answer with this status and body. The status decides, also if the body is not what it should be."""
    outcome = outcome_of(status)
    match outcome:
        case "done":
            return Answer("done", status, reference=text_of(_parse(body).get("reference")))
        case "declined":
            return Answer("declined", status, reason=text_of(_parse(body).get("reason")))
        case _:
            return Answer(outcome, status, reason=f"answered {status}")


def describe(fault: BaseException) -> str:
    """Return a fault as one short line, for operators."""
    return text_of(f"{type(fault).__name__}: {fault}".partition("\n")[0]) or ""


def _document(order: Order, key: str) -> dict[str, Any]:
    return {
        "request": key,
        "kind": order.kind,
        "account": order.account,
        "resource": order.resource,
        "amount": order.amount,
        "destination": order.destination,
        "metadata": order.metadata,
    }


def _parse(body: bytes) -> dict[str, Any]:
    """
    Return the JSON object of an answer, or an empty one if it has none.

    Numbers are the text that was sent, and NaN and the infinities are None. Bytes that are not text are replaced.
    """
    try:
        document = _DECODER.decode(body.decode(json.detect_encoding(body), "replace"))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
