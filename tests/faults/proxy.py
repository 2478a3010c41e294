"""
A proxy between Teller's processes and PostgreSQL or Redis that loses what a network can lose.

It parses PostgreSQL's protocol far enough to recognise a commit. It can pass on a COMMIT and lose its answer,
so that the sender cannot know the outcome. It runs on its own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Bytes read at once.
CHUNK_BYTES: Final = 256 * 1024
#: File name of a PostgreSQL socket in its directory.
SOCKET_NAME: Final = ".s.PGSQL.5432"
#: Parts of statements that commit by themselves: the intake's INSERT, and a courier's recording and
#: expanding.
COMMITS_BY_ITSELF: Final = (b"INSERT INTO requests", b"recorded AS (", b"DELETE FROM fanouts")
#: Time for the proxy to start and to stop, in seconds.
WAIT_SECONDS: Final = 5.0

#: Either the answer to the commit is lost, or the commit itself.
Loss = Literal["answer", "commit"]


class Proxy:
    """
    Listens on a socket in `directory` and connects to the Unix socket `target`.

    `losses` has what the next commits lose, and `cuts` counts those that did.
    """

    def __init__(self, directory: Path, target: Path) -> None:
        directory.mkdir()
        directory.chmod(0o755)
        self.directory = directory
        self._target = target
        self.losses: list[Loss] = []
        self.cuts = 0
        #: Called on the proxy's thread when a commit or answer is lost.
        self.on_loss: Callable[[], object] | None = None
        #: Delay of each commit, in seconds.
        self.delay_seconds = 0.0
        self._loop = asyncio.new_event_loop()
        self._links: set[_Link] = set()
        self._flowing = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._flow(flows=True)
        self._run(self._listen(directory / SOCKET_NAME))
        (directory / SOCKET_NAME).chmod(0o777)

    def listen_on(self, host: str, port: int) -> None:
        """Listen on TCP, too."""
        self._run(self._listen_tcp(host, port))

    def freeze(self) -> None:
        """Pass nothing on and close nothing, as when a cable is pulled."""
        self._flow(flows=False)

    def thaw(self) -> None:
        """Pass on everything that was held back."""
        self._flow(flows=True)

    def strand(self) -> None:
        """
        Pass nothing more on over the present connections, and close none, as a firewall forgets idle ones.
        """

        async def forget() -> None:
            for link in self._links:
                link.is_stranded = True

        self._run(forget())

    def close(self) -> None:
        """End all connections."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            tasks = [task for link in self._links for task in link.tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    def lose(self) -> Loss | None:
        """Return what the present commit loses."""
        if not self.losses:
            return None
        loss = self.losses.pop(0)
        if self.on_loss is not None:
            self.on_loss()
        self.cuts += 1
        return loss

    async def flow(self) -> None:
        """Wait until traffic may pass."""
        await self._flowing.wait()

    def _flow(self, *, flows: bool) -> None:
        self._loop.call_soon_threadsafe(self._flowing.set if flows else self._flowing.clear)

    def _run(self, task: object) -> None:
        asyncio.run_coroutine_threadsafe(task, self._loop).result(WAIT_SECONDS)  # type: ignore[arg-type]

    async def _listen(self, path: Path) -> None:
        self._servers.append(await asyncio.start_unix_server(self._connected, str(path)))

    async def _listen_tcp(self, host: str, port: int) -> None:
        self._servers.append(await asyncio.start_server(self._connected, host, port))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.close()
            return
        link = _Link(self, reader, writer, *to)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """One connection: its prepared statements, and whether it is losing an answer."""

    def __init__(
        self,
        proxy: Proxy,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = from_client, to_client
        self._from_server, self._to_server = from_server, to_server
        self._prepared: dict[bytes, bytes] = {}
        self._losing = False
        self.is_stranded = False
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        self.tasks = [asyncio.create_task(self._up()), asyncio.create_task(self._down())]
        try:
            await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            for writer in (self._to_client, self._to_server):
                writer.close()

    async def _up(self) -> None:
        messages = _Messages(starts=True)
        with contextlib.suppress(OSError):
            while chunk := await self._from_client.read(CHUNK_BYTES):
                await self._proxy.flow()
                if self.is_stranded:
                    continue
                commits = [self._commits(*message) for message in messages.read(chunk)]
                if any(commits):
                    if self._proxy.delay_seconds:
                        await asyncio.sleep(self._proxy.delay_seconds)
                    loss = self._proxy.lose()
                    if loss == "commit":
                        return
                    self._losing = loss == "answer"
                self._to_server.write(chunk)
                await self._to_server.drain()

    async def _down(self) -> None:
        messages = _Messages(starts=False)
        with contextlib.suppress(OSError):
            while chunk := await self._from_server.read(CHUNK_BYTES):
                await self._proxy.flow()
                read = list(messages.read(chunk))
                if not self._losing:
                    self._to_client.write(chunk)
                    await self._to_client.drain()
                elif (b"Z", b"I") in read:  # ready for more, and outside a transaction, so it is committed
                    return

    def _commits(self, kind: bytes, body: bytes) -> bool:
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._prepared[name] = text
            return False
        if kind == b"B":
            text = self._prepared.get(body.split(b"\0", 2)[1], b"")
        elif kind == b"Q":
            text = body
        else:
            return False
        return text[:6].upper() == b"COMMIT" or any(part in text for part in COMMITS_BY_ITSELF)


class _Messages:
    """Splits a stream into PostgreSQL's messages. With `starts`, the first one has no type."""

    def __init__(self, *, starts: bool) -> None:
        self._buffer = bytearray()
        self._type_bytes = 0 if starts else 1

    def read(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the complete messages, as type and body."""
        self._buffer += chunk
        while len(self._buffer) >= self._type_bytes + 4:
            begin = self._type_bytes
            end = begin + int.from_bytes(self._buffer[begin : begin + 4])
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[:begin]), bytes(self._buffer[begin + 4 : end])
            del self._buffer[:end]
            self._type_bytes = 1
            yield message
