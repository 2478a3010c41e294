"""
A race against any endpoint: first the connections, then all requests at the same instant.

A request with a body is sent in two parts. All but its last byte goes at one instant, and the last byte at a second
one. So the race works for servers that act on the head alone, and for those that first read the body. It follows no
redirect, uses no proxy, and reads only the beginning of an answer. Calls that were only accepted (202) are followed
to their outcome after the race.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import aiohttp

from lab import following
from lab.endpoint_results import ACCEPTED, BODY_CHARACTERS_KEPT, Call, Reply, Success, Verdict
from processor.errors import TellerError
from processor.gateways.answers import HEAD_BYTES_MAX
from processor.gateways.client import exact_url
from processor.gateways.http import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
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


#: Connections that read outcomes at once.
FOLLOWED_AT_ONCE: Final = 50


class EndpointUnreachable(TellerError):
    """None of the calls was answered, so there is no result."""

    code = "endpoint_unreachable"


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

    calls = {user: call.of(user) for user in range(1, users + 1)}
    trace.on_connection_create_end.append(connected)
    async with _session(limit=0, force_close=True, traces=[trace]) as session:
        start.release_in_time()
        replies = await asyncio.gather(
            *(_ask(session, calls[user], user, start, success) for user in range(1, users + 1))
        )
    async with _session(limit=FOLLOWED_AT_ONCE, force_close=False, traces=[]) as session:
        return await following.follow_all(session, replies, calls, success)


def _session(*, limit: int, force_close: bool, traces: list[aiohttp.TraceConfig]) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=limit, force_close=force_close, ssl=ssl.create_default_context()
        ),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=traces,
        max_line_size=HEAD_BYTES_MAX,
        max_field_size=HEAD_BYTES_MAX,
        max_headers=HEAD_BYTES_MAX,
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
        call.method,
        exact_url(call.url),
        data=data,
        headers=headers,
        allow_redirects=False,
        trace_request_ctx=user,
    ) as response:
        text = await following.read_beginning(response)
        location = response.headers.get("Location")
        counts = response.status in success.statuses
        is_accepted = counts and response.status == ACCEPTED
        if success.text is not None:
            succeeded = counts and success.text in text
            undecided = is_accepted and not succeeded and location is not None
        else:
            is_refused = following.status_word(text) in following.REFUSED
            succeeded, undecided = counts and not is_accepted and not is_refused, is_accepted
        return Reply(
            user,
            start.ms(),
            response.status,
            succeeded,
            text[:BODY_CHARACTERS_KEPT],
            undecided=undecided,
            location=location,
        )
