"""
Many HTTP connections that send their requests at the same instant.

All connections are open and used before. One thread writes a request into each socket, and only then reads answers.
So a hundred requests are sent within a millisecond or two. A hundred threads of one interpreter would take longer.
"""

from __future__ import annotations

import itertools
import json
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

#: The limit of a wait for an answer, in seconds: longer than the longest wait that a request may ask for.
ANSWER_SECONDS = 90.0
#: Bytes read from a socket at once.
CHUNK_BYTES = 256 * 1024

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Header names are in lower case, and times are monotonic seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_at: float
    answered_at: float

    @property
    def document(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.answered_at - self.sent_at


@dataclass(frozen=True, slots=True)
class Caller:
    """A client with a key, which makes the bytes of its requests."""

    key: str

    def get(self, path: str, **headers: str) -> bytes:
        """Return a GET. `If_None_Match="…"` is a header."""
        return self._worded("GET", path, headers)

    def post(self, path: str, body: object = None, key: str | None = None, **headers: str) -> bytes:
        """Return a POST of JSON, with an idempotency key of its own unless one is given."""
        headers["Idempotency_Key"] = key if key is not None else f"scenario-{next(_numbers)}"
        return self._worded("POST", path, headers, b"" if body is None else json.dumps(body).encode())

    def _worded(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: teller", f"Authorization: Bearer {self.key}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append("Content-Type: application/json")
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(slots=True)
class _Connection:
    """One keep-alive connection, with one request under mode at a time."""

    socket: socket.socket
    sent_at: float = 0.0
    _buffer: bytearray = field(default_factory=bytearray)

    def send(self, request: bytes) -> None:
        self._buffer.clear()
        self.sent_at = time.monotonic()
        self.socket.sendall(request)

    def receive(self) -> Reply | None:
        """Read the available bytes. Returns the answer once it is complete."""
        chunk = self.socket.recv(CHUNK_BYTES)
        assert chunk, "the server closed the connection"
        self._buffer += chunk
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = bytes(self._buffer[end + 4 :])
        if len(body) < int(headers.get("content-length", "0")):
            return None
        return Reply(int(first.split()[1]), headers, body, self.sent_at, time.monotonic())


class Crowd:
    """
    `size` connections, in turn to each of the servers. Close it soon, because servers close idle connections.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], size: int) -> None:
        self._addresses = len(addresses)
        self._connections: list[_Connection] = []
        try:
            for number in range(size):
                opened = socket.create_connection(addresses[number % len(addresses)], ANSWER_SECONDS)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.append(_Connection(opened))
            first_request = Caller("").get("/healthz")
            self._run([[(connection, first_request)] for connection in self._connections])
        except BaseException:
            self.close()
            raise

    def ask(self, requests: Sequence[bytes]) -> list[Reply]:
        """
        Send one request over each connection, all at the same instant.

        If there are more requests, each connection sends its next one after an answer. Returns the answers in the
        order of the requests.
        """
        size = len(self._connections)
        plans = [
            [(connection, request) for request in requests[number::size]]
            for number, connection in enumerate(self._connections[: len(requests)])
        ]
        replies = self._run(plans)
        return [replies[number % size][number // size] for number in range(len(requests))]

    def converse(self, chains: Sequence[Iterable[bytes]]) -> list[list[Reply]]:
        """
        Send chains of requests. Each chain sends its next request after an answer, to the servers in turn.

        There must be as many connections for each chain as there are servers.
        """
        plans = []
        for number, chain in enumerate(chains):
            own = self._connections[number * self._addresses : (number + 1) * self._addresses]
            plans.append(zip(itertools.cycle(own), chain, strict=False))
        return self._run(plans)

    def _run(self, plans: Sequence[Iterable[tuple[_Connection, bytes]]]) -> list[list[Reply]]:
        replies: list[list[Reply]] = [[] for _ in plans]
        with selectors.DefaultSelector() as selector:

            def send_next(plan: Iterator[tuple[_Connection, bytes]], number: int) -> None:
                for connection, request in plan:
                    connection.send(request)
                    selector.register(connection.socket, selectors.EVENT_READ, (plan, number, connection))
                    return

            for number, plan in enumerate(plans):
                send_next(iter(plan), number)
            while selector.get_map():
                ready = selector.select(ANSWER_SECONDS)
                assert ready, f"no answer within {ANSWER_SECONDS} s"
                for key, _ in ready:
                    plan, number, connection = key.data
                    reply = connection.receive()
                    if reply is None:
                        continue
                    selector.unregister(connection.socket)
                    replies[number].append(reply)
                    send_next(plan, number)
        return replies

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
