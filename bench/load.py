"""
Generates load over raw sockets, so that the client costs little beside the server on the same machine.

`closed` keeps a number of connections busy and counts. `paced` sends at a fixed rate however long the answers
take. It measures each answer from the time at which its request should have been sent (no coordinated
omission).
"""

from __future__ import annotations

import itertools
import selectors
import socket
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes of an answer read at once.
CHUNK_BYTES = 65_536
#: Time limit for one answer, in seconds. A slower one makes the run worthless.
ANSWER_SECONDS = 30


@dataclass
class Answers:
    """The number of answers by status, and the latency of each in seconds."""

    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, status: int, latency: float) -> None:
        """Record one answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.latencies.append(latency)

    @property
    def count_all(self) -> int:
        """The number of all answers."""
        return sum(self.statuses.values())

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.count_all / self.seconds

    def quantile(self, share: float) -> float:
        """Return the latency that this share of the answers did not exceed, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1_000


def post(path: str, host: str, key: str, body: bytes, *headers: str) -> bytes:
    """Return the bytes of a POST with a new idempotency key."""
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {key}",
        f"Idempotency-Key: {uuid.uuid4().hex}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Template:
    """Makes the bytes of POSTs that differ in key and body, at a fifth of the cost of `post`."""

    def __init__(self, path: str, host: str, key: str, *headers: str) -> None:
        lines = (
            f"POST {path} HTTP/1.1",
            f"Host: {host}",
            f"Authorization: Bearer {key}",
            "Content-Type: application/json",
            *headers,
            f"Idempotency-Key: {uuid.uuid4().hex}-",
        )
        self._head = "\r\n".join(lines).encode()
        self._numbers = itertools.count()

    def post(self, body: bytes) -> bytes:
        """Return one POST with a key of its own."""
        return b"%b%d\r\nContent-Length: %d\r\n\r\n%b" % (self._head, next(self._numbers), len(body), body)


class Connection:
    """One keep-alive connection that sends a request and reads one answer with a Content-Length."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), timeout=ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0
        self._buffer = bytearray()
        #: Bytes of the whole answer that is being read; 0 before its head is complete.
        self._whole = 0

    def send(self, request: bytes) -> None:
        """Send one request. Its answer must be read before the next."""
        self._buffer, self._whole = bytearray(), 0
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Read the available bytes. Returns the status once the answer is complete, else None."""
        chunk = self.socket.recv(CHUNK_BYTES)
        assert chunk, "the server closed the connection"
        self._buffer += chunk
        if not self._whole:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = bytes(self._buffer[:end]).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            self._whole = end + 4 + length
        return int(self._buffer[9:12]) if len(self._buffer) >= self._whole else None

    def ask(self, request: bytes) -> int:
        """Send a request and wait for the whole answer."""
        self.send(request)
        while (status := self.receive()) is None:
            pass
        return status


def closed(url: str, requests: Iterator[bytes], connections: int, seconds: float) -> Answers:
    """Keep `connections` busy for `seconds`, or until all requests are sent, one at a time on each."""
    answers = Answers()
    selector = selectors.DefaultSelector()
    end = time.perf_counter() + seconds
    busy = 0
    for request in itertools.islice(requests, connections):
        connection = Connection(url)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(request)
        busy += 1
    started = time.perf_counter()
    while busy:
        events = selector.select(ANSWER_SECONDS)
        assert events, f"no answer for {ANSWER_SECONDS} s"
        for ready, _ in events:
            connection = ready.data
            status = connection.receive()
            if status is None:
                continue
            now = time.perf_counter()
            answers.count(status, now - connection.sent_at)
            following = next(requests, None) if now < end else None
            if following is not None:
                connection.send(following)
            else:
                selector.unregister(connection.socket)
                connection.socket.close()
                busy -= 1
    answers.seconds = time.perf_counter() - started
    return answers


def paced(
    url: str, make: Callable[[], bytes], per_second: float, seconds: float, connections: int
) -> Answers:
    """
    Send `per_second` for `seconds`, over at most `connections`. Latencies count from the planned time.
    """
    answers = Answers()
    selector = selectors.SelectSelector()  # waits for fractions of a millisecond, which epoll rounds up
    idle = [Connection(url) for _ in range(connections)]
    planned = {id(connection): 0.0 for connection in idle}
    total = int(per_second * seconds)
    begin = time.perf_counter() + 0.1
    sent = 0
    while answers.count_all < total:
        due = begin + sent / per_second
        while sent < total and idle and due <= time.perf_counter():
            connection = idle.pop()
            planned[id(connection)] = due
            connection.send(make())
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            sent += 1
            due = begin + sent / per_second
        wait_seconds = ANSWER_SECONDS if sent == total or not idle else max(0.0, due - time.perf_counter())
        events = selector.select(wait_seconds)
        assert events or wait_seconds < ANSWER_SECONDS, f"no answer for {ANSWER_SECONDS} s"
        for ready, _ in events:
            connection = ready.data
            status = connection.receive()
            if status is not None:
                answers.count(status, time.perf_counter() - planned[id(connection)])
                selector.unregister(connection.socket)
                idle.append(connection)
    answers.seconds = time.perf_counter() - begin
    for connection in idle:
        connection.socket.close()
    return answers
