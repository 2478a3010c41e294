"""
The connections of the client of gateways and webhooks: how many there are, and when one is used again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiohttp
import pytest

from processor.gateways import client as module
from processor.gateways.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers each POST with `answer` when `gate` is open. `connections` are all that were made."""

    def __init__(self, answer: bytes = OK) -> None:
        self.answer = answer
        self.gate = asyncio.Event()
        self.gate.set()
        self.connections = 0
        self.open = 0
        self.requests = 0
        self.arrived = asyncio.Condition()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open += 1
        self.writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n{}")
                await self._note(1)
                await self.gate.wait()
                writer.write(self.answer)
        writer.close()
        self.open -= 1
        await self._note(0)

    async def _note(self, requests: int) -> None:
        async with self.arrived:
            self.requests += requests
            self.arrived.notify_all()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until something holds about this server."""
        async with asyncio.timeout(30), self.arrived:
            await self.arrived.wait_for(predicate)


def run(
    story: Callable[[Server, Client, str], Coroutine[None, None, None]],
    answer: bytes = OK,
    connections_max: int = 4,
) -> None:
    """Run a story of a server and a client."""

    async def session() -> None:
        server = Server(answer)
        client = Client(30.0, connections_max=connections_max)
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
            url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
            await story(server, client, url)
            server.gate.set()
            await client.close()
            await server.until(lambda: server.open == 0)

    asyncio.run(session())


async def post(client: Client, url: str) -> int:
    """Send a POST. Returns the status."""
    return (await client.post(url, b"{}", {}, body_bytes_max=100)).status


def test_a_connection_is_used_again() -> None:
    """
    Calls one after the other share a connection.
    """

    async def story(server: Server, client: Client, url: str) -> None:
        for _ in range(5):
            assert await post(client, url) == 200
        assert server.connections == 1

    run(story)


@pytest.mark.parametrize(
    "answer",
    [OK + OK, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK + b"x", OK[:-2] + b"{}" + b"{"],
)
def test_a_connection_with_other_bytes_than_one_answer_is_not_used_again(answer: bytes) -> None:
    """
    Else the bytes behind one answer could count as the answer to the next call.
    """

    async def story(server: Server, client: Client, url: str) -> None:
        for _ in range(3):
            assert await post(client, url) == 200
        assert server.connections == 3

    run(story, answer)


def test_bytes_on_an_idle_connection_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An answer that arrives while no call is under way is not the answer to the next call.
    """
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 1_000.0)

    async def story(server: Server, client: Client, url: str) -> None:
        assert await post(client, url) == 200
        server.writers[0].write(OK.replace(b"200", b"402"))
        await server.until(lambda: server.open == 0)
        assert await post(client, url) == 200
        assert server.connections == 2

    run(story)


def test_an_idle_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Before the server closes it, because a call at that moment would count as unknown.
    """
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 0.05)

    async def story(server: Server, client: Client, url: str) -> None:
        await asyncio.gather(*(post(client, url) for _ in range(3)))
        await server.until(lambda: server.open == 0)
        assert await post(client, url) == 200

    run(story)


def test_never_more_connections_than_the_limit() -> None:
    """
    Further calls wait for their turn, and a call that is cancelled gives its place to the next one.
    """

    async def story(server: Server, client: Client, url: str) -> None:
        server.gate.clear()
        calls = [asyncio.create_task(post(client, url)) for _ in range(6)]
        await server.until(lambda: server.requests == 2)
        assert server.connections == 2
        calls[0].cancel()
        await server.until(lambda: server.requests == 3)
        assert server.connections == 3  # that of the cancelled call is closed
        server.gate.set()
        assert await asyncio.gather(*calls[1:]) == [200] * 5

    run(story, connections_max=2)


def test_an_idle_connection_takes_no_place_of_another_server() -> None:
    """
    Only connections in use count towards the limit, and idle ones close soon.
    """

    async def story(server: Server, client: Client, url: str) -> None:
        other = Server()
        async with await asyncio.start_server(other.serve, "127.0.0.1", 0) as listening:
            await post(client, url)
            await post(client, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
            assert (server.connections, other.connections) == (1, 1)
            await server.until(lambda: server.open == 0)
            await other.until(lambda: other.open == 0)

    run(story, connections_max=1)


def test_a_fault_before_the_request_is_sent_is_one_of_the_connection() -> None:
    """
    No process listens, or the name does not exist.
    """

    async def session() -> None:
        client = Client(30.0, connections_max=1)
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await post(client, f"http://127.0.0.1:{port}/")
        with pytest.raises(aiohttp.ClientConnectorDNSError):
            await post(client, "http://no-such-name.invalid/")
        assert isinstance(refused.value.os_error, ConnectionRefusedError)
        await client.close()

    asyncio.run(session())
