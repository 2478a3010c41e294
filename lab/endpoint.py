"""
A race against any endpoint: connections first, then all requests at the same instant, and what each was answered.

A request with a body is sent in two: all but its last byte at one instant, and the last byte at a second one. So a
server that acts on the head alone is tried, and one that reads the body first, too. Follows no redirect, uses no
proxy, reads little of an answer.
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

#: How long all connections together may take, TLS included, in seconds; who is not connected then, stays behind.
CONNECT_SECONDS: Final = 10.0
#: How long it may then take until all but the last bytes are sent, in seconds.
SEND_SECONDS: Final = 5.0
#: Between that and the instant, in seconds: what was sent shall have arrived, also at a server whose queue of
#: connections overflowed, which gets it a second time only after some tenths of a second. Linux resets a connection
#: whose last byte comes before the others.
SETTLE_SECONDS: Final = 0.5
#: How long an answer may take, in seconds, from the instant at which all were let go.
ANSWER_SECONDS: Final = 30.0
#: How long the rest of an answer is read when its status is there, in seconds.
BODY_SECONDS: Final = 5.0
#: What is read of an answer, in bytes, and kept of it, in characters.
BODY_BYTES_MAX: Final = 64 * 1024
BODY_CHARACTERS_KEPT: Final = 200


class EndpointUnreachable(TellerError):
    """Not one of the calls was answered: nothing is known about races."""

    code = "endpoint_unreachable"


@dataclass(frozen=True, slots=True)
class Call:
    """What each user sends. `{n}` (1 for the first user) and `{uuid}` (another one each time) are filled in."""

    url: str
    method: str
    body: str | None
    headers: Mapping[str, str]

    def of(self, user: int) -> Call:
        """The call of one user."""

        def fill(text: str) -> str:
            text = text.replace("{n}", str(user))
            while "{uuid}" in text:
                text = text.replace("{uuid}", str(uuid.uuid4()), 1)
            return text

        body = None if self.body is None else fill(self.body)
        headers = {name: fill(value) for name, value in self.headers.items()}
        return Call(fill(self.url), self.method, body, headers)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What counts as success: one of these statuses and, if given, this text in the answer."""

    statuses: frozenset[int]
    text: str | None = None
    #: More successes than this are a race.
    expect: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """What one user was answered; `ms` counts from the instant at which all were let go."""

    user: int
    ms: float
    status: int | None = None
    succeeded: bool = False
    #: How the answer begins.
    body: str = ""
    error: str | None = None

    def document(self) -> dict[str, Any]:
        """For programs."""
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
    """All answers, and what they say."""

    replies: list[Reply]
    expect: int

    @property
    def succeeded(self) -> int:
        """How many calls succeeded."""
        return sum(reply.succeeded for reply in self.replies)

    @property
    def race(self) -> bool:
        """More succeeded than should."""
        return self.succeeded > self.expect

    @property
    def unanswered(self) -> int:
        """How many calls got no answer."""
        return sum(reply.status is None for reply in self.replies)

    def words(self) -> str:
        """One line."""
        expected = f"{self.expect} {'was' if self.expect == 1 else 'were'} expected"
        if self.race:
            return f"RACE: {self.succeeded} of {len(self.replies)} succeeded where {expected}"
        if not self.succeeded and self.expect:
            return f"no race seen, but none of {len(self.replies)} succeeded either: this says little"
        lost = f"; {self.unanswered} got no answer" if self.unanswered else ""
        return f"no race: {self.succeeded} of {len(self.replies)} succeeded, {expected} at the most{lost}"

    def document(self) -> dict[str, Any]:
        """As the contract has it, and the verdict in words."""
        return {
            "users": len(self.replies),
            "succeeded": self.succeeded,
            "expect": self.expect,
            "race": self.race,
            "verdict": self.words(),
            "results": [reply.document() for reply in self.replies],
        }


def race(call: Call, users: int, wanted: Wanted) -> Verdict:
    """
    One race. Raises EndpointUnreachable when nobody was answered.
    """
    verdict = Verdict(asyncio.run(_race(call, users, wanted)), wanted.expect)
    if verdict.unanswered == users:
        first = verdict.replies[0].error
        alike = all(reply.error == first for reply in verdict.replies)
        raise EndpointUnreachable(
            f"none of {users} calls was answered: {first}{'' if alike else ', and other errors'}"
        )
    return verdict


@dataclass(slots=True)
class Gate:
    """Where users wait for each other."""

    pending: set[int]
    #: It opens so long after the last one came.
    settle_seconds: float = 0.0
    released: asyncio.Event = field(default_factory=asyncio.Event)
    released_at: float = 0.0

    async def wait(self, user: int) -> None:
        """Ready: on until all the others are, too."""
        self.count_out(user)
        await self.released.wait()

    def count_out(self, user: int) -> None:
        """Nobody waits for this one any more: it is ready, or has failed."""
        if user in self.pending:
            self.pending.discard(user)
            if not self.pending:
                asyncio.get_running_loop().call_later(self.settle_seconds, self.release)

    def release(self) -> None:
        """Let all go who are ready."""
        if not self.released.is_set():
            self.released_at = time.perf_counter()
            self.released.set()

    def ms(self) -> float:
        """Milliseconds since then; 0 before."""
        return (time.perf_counter() - self.released_at) * 1000 if self.released.is_set() else 0.0


class _Start:
    """Two gates: all are connected; all have sent what comes before the last byte."""

    def __init__(self, users: int) -> None:
        self.connected = Gate(set(range(1, users + 1)))
        self.ready = Gate(set(range(1, users + 1)), SETTLE_SECONDS)

    def count_out(self, user: int) -> None:
        """Nobody waits for this one any more: it has failed, or is through."""
        self.connected.count_out(user)
        self.ready.count_out(user)

    def ms(self) -> float:
        """Milliseconds since the second gate opened; of an answer that did not wait for it, since the first."""
        return (self.ready if self.ready.released.is_set() else self.connected).ms()

    def release_in_time(self) -> None:
        """Who is late is not waited for."""
        loop = asyncio.get_running_loop()
        loop.call_later(CONNECT_SECONDS, self.connected.release)
        loop.call_later(CONNECT_SECONDS + SEND_SECONDS, self.ready.release)


async def _race(call: Call, users: int, wanted: Wanted) -> list[Reply]:
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
            *(_ask(session, call.of(user), user, start, wanted) for user in range(1, users + 1))
        )


async def _ask(session: aiohttp.ClientSession, call: Call, user: int, start: _Start, wanted: Wanted) -> Reply:
    asking = asyncio.create_task(_send(session, call, user, start, wanted))
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
    session: aiohttp.ClientSession, call: Call, user: int, start: _Start, wanted: Wanted
) -> Reply:
    async def slowly(body: bytes) -> AsyncIterator[bytes]:
        """All but the last byte, and that one when everybody is there."""
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
        succeeded = response.status in wanted.statuses and (wanted.text is None or wanted.text in text)
        return Reply(user, start.ms(), response.status, succeeded, text[:BODY_CHARACTERS_KEPT])


async def _read(response: aiohttp.ClientResponse) -> str:
    """The beginning of an answer: of a longer one the rest is not waited for, and a broken end is an end."""
    parts, size = [], 0
    with contextlib.suppress(aiohttp.ClientPayloadError, TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            async for part in response.content.iter_chunked(BODY_BYTES_MAX):
                parts.append(part)
                size += len(part)
                if size >= BODY_BYTES_MAX:
                    break
    return b"".join(parts)[:BODY_BYTES_MAX].decode(errors="replace")
