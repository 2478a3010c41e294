"""
Load from outside, over raw sockets, so that the client costs little beside the server on the same machine.

`closed` keeps a number of connections busy and counts; `paced` sends at a fixed rate whatever the answers
take, and measures each from when it should have been sent (no coordinated omission).
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes of an answer read at once.
CHUNK_BYTES = 65_536
#: How long an answer may take before the run is worth nothing, in seconds.
PATIENCE_SECONDS = 30


@dataclass
class Answers:
    """How many answers of each status came, and how long each took, in seconds."""

    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, status: int, latency: float) -> None:
        """Note one answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.latencies.append(latency)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return sum(self.statuses.values()) / self.seconds

    def quantile(self, share: float) -> float:
        """The latency that this share of the answers did not exceed, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1_000


def post(path: str, host: str, key: str, body: bytes, *headers: str) -> bytes:
    """A POST as it goes over the wire, with an idempotency key of its own."""
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


class Connection:
    """One keep-alive connection: sends a request, and reads one answer with a Content-Length."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0
        self._buffer = b""

    def send(self, request: bytes) -> None:
        """Send one request; its answer must be read before the next."""
        self._buffer = b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Read what is there; the status once the whole answer is, else None."""
        chunk = self.socket.recv(CHUNK_BYTES)
        assert chunk, "the server closed the connection"
        self._buffer += chunk
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return None
        lowered = head.lower()
        at = lowered.index(b"content-length:") + len(b"content-length:")
        length = int(lowered[at:].split(b"\r\n", 1)[0])
        return int(head[9:12]) if len(body) >= length else None

    def ask(self, request: bytes) -> int:
        """Send, and wait for the whole answer."""
        self.send(request)
        while (status := self.receive()) is None:
            pass
        return status


def closed(url: str, requests: Iterator[bytes], connections: int, seconds: float) -> Answers:
    """Keep `connections` busy for `seconds`, each with one request at a time."""
    answers = Answers()
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        connection = Connection(url)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(next(requests))
    started = time.perf_counter()
    end = started + seconds
    busy = connections
    while busy:
        for ready, _ in selector.select(PATIENCE_SECONDS):
            connection = ready.data
            status = connection.receive()
            if status is None:
                continue
            now = time.perf_counter()
            answers.count(status, now - connection.sent_at)
            if now < end:
                connection.send(next(requests))
            else:
                selector.unregister(connection.socket)
                connection.socket.close()
                busy -= 1
    answers.seconds = time.perf_counter() - started
    return answers


def paced(url: str, make: Callable[[], bytes], per_second: float, seconds: float, threads: int) -> Answers:
    """
    Send `per_second` for `seconds` over `threads` connections; latencies count from the planned time.
    """
    answers = Answers()
    lock = threading.Lock()
    begin = time.perf_counter() + 0.2

    def run(first: int) -> None:
        connection = Connection(url)
        for number in range(first, int(per_second * seconds), threads):
            planned = begin + number / per_second
            time.sleep(max(0.0, planned - time.perf_counter()))
            status = connection.ask(make())
            with lock:
                answers.count(status, time.perf_counter() - planned)

    runners = [threading.Thread(target=run, args=(first,)) for first in range(threads)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    answers.seconds = time.perf_counter() - begin
    return answers
