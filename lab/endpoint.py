"""
A race against any endpoint: first the connections, then all requests at the same instant.

A request with a body is sent in two parts. All but its last byte goes at one instant, and the last byte at a second
one. So the race works for servers that act on the head alone, and for those that first read the body. It follows no
redirect, uses no proxy, and reads only the beginning of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from processor.errors import TellerError
from processor.gateways.http import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import SimpleNamespace

#: The time for all connections, including TLS. Users without a connection are then left behind.
CONNECT_SECONDS: Final = 10.0
#: The time in which all but the last bytes must be sent.
SEND_SECONDS: Final = 5.0
#: The pause before the last bytes, in which all others arrive. A server whose queue of connections overflowed gets
#: them only when TCP sends them again, after some tenths of a second. Linux resets a connection whose last byte
#: arrives before the others.
SETTLE_SECONDS: Final = 0.5
#: The time for an answer, from the release.
ANSWER_SECONDS: Final = 30.0
#: The time in which the body of an answer is read.
BODY_SECONDS: Final = 5.0
#: The part of an answer that is read, and the part that is kept.
BODY_BYTES_MAX: Final = 64 * 1024
BODY_CHARACTERS_KEPT: Final = 200


class EndpointUnreachable(TellerError):
    """None of the calls was answered, so there is no result."""

    code = "endpoint_unreachable"


@dataclass(frozen=True, slots=True)
class Call:
    """
    The call of each user.

    `{n}` stands for the number of the user, from 1, and each `{uuid}` for a new UUID.
    """

    url: str
    method: str
    body: str | None
    headers: Mapping[str, str]

    def of(self, user: int) -> Call:
        """Return the call of one user."""

        def fill(text: str) -> str:
            text = text.replace("{n}", str(user))
            while "{uuid}" in text:
                text = text.replace("{uuid}", str(uuid.uuid4()), 1)
            return text

        body = None if self.body is None else fill(self.body)
        headers = {name: fill(value) for name, value in self.headers.items()}
        return Call(fill(self.url), self.method, body, headers)


@dataclass(frozen=True, slots=True)
class Success:
    """The condition of a successful call: one of these statuses and, if given, this text in the answer."""

    statuses: frozenset[int]
    text: str | None = None
    #: A race is more than this number of successful calls.
    expect: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one user. `ms` counts from the release."""

    user: int
    ms: float
    status: int | None = None
    succeeded: bool = False
    #: The beginning of the answer.
    body: str = ""
    error: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON of this reply."""
        return {
            "user": self.user,
            "status": self.status,
            "ms": round(self.ms, 3),
            "succeeded": self.succeeded,
            "error": self.error,
            "body": self.body,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """All answers, and the conclusion."""

    replies: list[Reply]
    expect: int

    @property
    def succeeded(self) -> int:
        """Return the number of successful calls."""
        return sum(reply.succeeded for reply in self.replies)

    @property
    def race(self) -> bool:
        """Return whether more calls succeeded than expected."""
        return self.succeeded > self.expect

    @property
    def unanswered(self) -> int:
        """Return the number of calls without an answer."""
        return sum(reply.status is None for reply in self.replies)

    def words(self) -> str:
        """Return the verdict in one line."""
        expected = f"{self.expect} {'was' if self.expect == 1 else 'were'} expected"
        if self.race:
            return f"RACE: {self.succeeded} of {len(self.replies)} succeeded where {expected}"
        if not self.succeeded and self.expect:
            return f"no race seen, but none of {len(self.replies)} succeeded either: this says little"
        lost = f"; {self.unanswered} got no answer" if self.unanswered else ""
        return f"no race: {self.succeeded} of {len(self.replies)} succeeded, {expected} at the most{lost}"

    def document(self) -> dict[str, Any]:
        """Return the JSON of the verdict."""
        return {
            "users": len(self.replies),
            "succeeded": self.succeeded,
            "expect": self.expect,
            "race": self.race,
            "verdict": self.words(),
            "results": [reply.document() for reply in self.replies],
        }


def race(call: Call, users: int, success: Success) -> Verdict:
    """
    Run one race. Raises EndpointUnreachable if no call was answered.
    """
    verdict = Verdict(asyncio.run(_race(call, users, success)), success.expect)
    if verdict.unanswered == users:
        first = verdict.replies[0].error
        alike = all(reply.error == first for reply in verdict.replies)
        raise EndpointUnreachable(
            f"none of {users} calls was answered: {first}{'' if alike else ', and other errors'}"
        )
    return verdict


@dataclass(slots=True)
class Gate:
    """A barrier at which users wait for each other."""

    pending: set[int]
    #: The time between the arrival of the last user and the release.
    settle_seconds: float = 0.0
    released: asyncio.Event = field(default_factory=asyncio.Event)
    released_at: float = 0.0

    async def wait(self, user: int) -> None:
        """Arrive, and wait for the release."""
        self.count_out(user)
        await self.released.wait()

    def count_out(self, user: int) -> None:
        """Stop waiting for this user, which has arrived or failed."""
        if user in self.pending:
            self.pending.discard(user)
            if not self.pending:
                asyncio.get_running_loop().call_later(self.settle_seconds, self.release)

    def release(self) -> None:
        """Release all users that have arrived."""
        if not self.released.is_set():
            self.released_at = time.perf_counter()
            self.released.set()

    def ms(self) -> float:
        """Return the milliseconds since the release, or 0 before it."""
        return (time.perf_counter() - self.released_at) * 1000 if self.released.is_set() else 0.0


class _Start:
    """Two gates: one for the connections, and one for all but the last byte."""

    def __init__(self, users: int) -> None:
        self.connected = Gate(set(range(1, users + 1)))
        self.ready = Gate(set(range(1, users + 1)), SETTLE_SECONDS)

    def count_out(self, user: int) -> None:
        """Stop waiting for this user, which has failed or is done."""
        self.connected.count_out(user)
        self.ready.count_out(user)

    def ms(self) -> float:
        """Return the milliseconds since the release of the second gate, or of the first if that one is closed."""
        return (self.ready if self.ready.released.is_set() else self.connected).ms()

    def release_in_time(self) -> None:
        """Schedule the release of both gates, in case users are late."""
        loop = asyncio.get_running_loop()
        loop.call_later(CONNECT_SECONDS, self.connected.release)
        loop.call_later(CONNECT_SECONDS + SEND_SECONDS, self.ready.release)


async def _race(call: Call, users: int, success: Success) -> list[Reply]:
    start = _Start(users)
    trace = aiohttp.TraceConfig()

    async def connected(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        user: int = context.trace_request_ctx
        await start.connected.wait(user)
        if call.body is None:
            await start.ready.wait(user)

    trace.on_connection_create_end.append(connected)
    connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=ssl.create_default_context())
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
    ) as session:
        start.release_in_time()
        return await asyncio.gather(
            *(_ask(session, call.of(user), user, start, success) for user in range(1, users + 1))
        )


async def _ask(
    session: aiohttp.ClientSession, call: Call, user: int, start: _Start, success: Success
) -> Reply:
    asking = asyncio.create_task(_send(session, call, user, start, success))
    try:
        released = asyncio.create_task(start.ready.released.wait())
        await asyncio.wait([asking, released], return_when="FIRST_COMPLETED")
        start.count_out(user)
        return await asyncio.wait_for(asking, ANSWER_SECONDS)
    except TimeoutError:
        return Reply(user, start.ms(), error=f"no answer within {ANSWER_SECONDS:.0f} s")
    except aiohttp.ClientConnectorError as fault:
        error = f"no connection: {fault.os_error.strerror or fault.os_error}"
        return Reply(user, start.ms(), error=error)
    except (aiohttp.ClientError, OSError, ValueError) as fault:
        return Reply(user, start.ms(), error=describe(fault))


async def _send(
    session: aiohttp.ClientSession, call: Call, user: int, start: _Start, success: Success
) -> Reply:
    async def slowly(body: bytes) -> AsyncIterator[bytes]:
        """Yield all but the last byte, and that one when all users are ready."""
        if body[:-1]:
            yield body[:-1]
        await start.ready.wait(user)
        yield body[-1:]

    headers = dict(call.headers)
    data = None
    if call.body is not None:
        sent = call.body.encode()
        headers["Content-Length"] = str(len(sent))
        data = slowly(sent)
    async with session.request(
        call.method, call.url, data=data, headers=headers, allow_redirects=False, trace_request_ctx=user
    ) as response:
        text = await _read(response)
        succeeded = response.status in success.statuses and (success.text is None or success.text in text)
        return Reply(user, start.ms(), response.status, succeeded, text[:BODY_CHARACTERS_KEPT])


async def _read(response: aiohttp.ClientResponse) -> str:
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
