"""
Replies that were only accepted (202) are followed: the address in their Location is read until the outcome is final.

The outcome is that of `--accept-text`, if it is given. Otherwise it is the text `status` or `state` in the JSON of
the answer, else the HTTP status. Only an address of the same origin is read, because the headers have the caller's
key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from urllib.parse import urljoin, urlsplit

import aiohttp

from lab.endpoint_results import ACCEPTED, BODY_BYTES_MAX, BODY_CHARACTERS_KEPT
from processor.gateways.client import exact_url
from processor.gateways.http import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.endpoint_results import Call, Reply, Success

#: The time for all outcomes, from the last answer of the race.
FOLLOW_SECONDS: Final = 30.0
#: The pause before an address is read again. It grows from the first to the second.
PAUSE_SECONDS: Final = 0.1
PAUSE_SECONDS_MAX: Final = 1.0
#: The time in which the body of an answer is read.
BODY_SECONDS: Final = 5.0

#: The words of a `status` that is not final, of a success and of a refusal. Other words leave the call undecided.
PENDING: Final = frozenset(
    {
        "accepted",
        "created",
        "in-progress",
        "in_progress",
        "pending",
        "processing",
        "queued",
        "running",
        "scheduled",
        "started",
        "waiting",
    }
)
SUCCEEDED: Final = frozenset(
    {
        "approved",
        "complete",
        "completed",
        "confirmed",
        "done",
        "finished",
        "ok",
        "succeeded",
        "success",
        "successful",
    }
)
REFUSED: Final = frozenset(
    {
        "canceled",
        "cancelled",
        "declined",
        "denied",
        "error",
        "expired",
        "failed",
        "failure",
        "refunded",
        "refused",
        "rejected",
    }
)
_SAME_CONTENT: Final = frozenset({"content-type", "content-length"})
#: Statuses of a server that answers later: Too Early, Too Many Requests, Bad Gateway, Unavailable, Gateway Timeout.
_LATER: Final = frozenset({ACCEPTED, 425, 429, 502, 503, 504})

Outcome = Literal["success", "refused", "pending", "unknown"]


class Followed(NamedTuple):
    """An answer of a followed address."""

    status: int
    text: str


async def follow_all(
    session: aiohttp.ClientSession, replies: Sequence[Reply], calls: Mapping[int, Call], success: Success
) -> list[Reply]:
    """Return the replies with the outcomes of those that were only accepted. The session follows no redirect."""
    deadline = asyncio.get_running_loop().time() + FOLLOW_SECONDS
    followed = await asyncio.gather(
        *(_follow(session, one, calls[one.user], success, deadline) for one in replies if one.undecided)
    )
    by_user = {reply.user: reply for reply in followed}
    return [by_user.get(reply.user, reply) for reply in replies]


async def read_beginning(response: aiohttp.ClientResponse) -> str:
    """Return the beginning of an answer. The rest of a long answer is not read, and a broken one ends there."""
    parts, size = [], 0
    with contextlib.suppress(aiohttp.ClientPayloadError, TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            async for part in response.content.iter_chunked(BODY_BYTES_MAX):
                parts.append(part)
                size += len(part)
                if size >= BODY_BYTES_MAX:
                    break
    return b"".join(parts)[:BODY_BYTES_MAX].decode(errors="replace")


def outcome_of(answer: Followed, success: Success) -> Outcome:
    """Return the outcome that an answer of a followed address shows."""
    is_good = 200 <= answer.status <= 299  # noqa: PLR2004 - RFC 9110, successful
    if is_good and success.text is not None and success.text in answer.text:
        return "success"
    if answer.status in _LATER:
        return "pending"
    if not is_good:
        return "unknown"
    word = status_word(answer.text)
    if word in PENDING:
        return "pending"
    if success.text is not None or word in REFUSED:
        return "refused"
    if word is None:
        return "success" if answer.status in success.statuses else "refused"
    return "success" if word in SUCCEEDED else "unknown"


async def _follow(
    session: aiohttp.ClientSession, reply: Reply, call: Call, success: Success, deadline: float
) -> Reply:
    if reply.location is None:
        return replace(reply, error="the answer has no Location")
    url = urljoin(call.url, reply.location)
    if urlsplit(url)[:2] != urlsplit(call.url)[:2]:
        return replace(reply, error="its Location is of another origin")
    headers = {name: value for name, value in call.headers.items() if name.lower() not in _SAME_CONTENT}
    pause_seconds = PAUSE_SECONDS
    try:
        async with asyncio.timeout_at(deadline):
            while True:
                async with session.get(exact_url(url), headers=headers, allow_redirects=False) as response:
                    answer = Followed(response.status, await read_beginning(response))
                reply = replace(
                    reply, followed_status=answer.status, followed_body=answer.text[:BODY_CHARACTERS_KEPT]
                )
                match outcome_of(answer, success):
                    case "pending":
                        await asyncio.sleep(pause_seconds)
                        pause_seconds = min(pause_seconds * 2, PAUSE_SECONDS_MAX)
                    case "unknown":
                        error = f"its Location answered {answer.status}, which shows no outcome"
                        return replace(reply, error=error)
                    case outcome:
                        return replace(reply, undecided=False, succeeded=outcome == "success")
    except TimeoutError:
        return replace(reply, is_late=True, error=f"no outcome at its Location within {FOLLOW_SECONDS:.0f} s")
    except (aiohttp.ClientError, OSError, ValueError) as fault:
        return replace(reply, error=f"its Location could not be read: {describe(fault)}")


def status_word(text: str) -> str | None:
    """Return the text `status` or `state` of a JSON object, in lower case."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    word = document.get("status", document.get("state"))
    return word.lower() if isinstance(word, str) else None
