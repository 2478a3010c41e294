"""
A relay before Redis that delays each answer, as a network to another region does.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


class Relay:
    """Passes on what it reads. `url` leads to Redis through it."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        #: The delay of each answer, in seconds.
        self.delay_seconds = 0.0
        self.url = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[Relay]:
        """While it lasts, the relay accepts connections."""
        relay = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with relay.connect() as server:
                    forth = threading.Thread(
                        target=relay.copy,
                        args=(self.request, server),
                        kwargs={"is_delayed": False},
                        daemon=True,
                    )
                    forth.start()
                    relay.copy(server, self.request, is_delayed=True)

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.url = f"redis://127.0.0.1:{server.server_address[1]}/0"
            yield self
            server.shutdown()

    def copy(self, source: socket.socket, destination: socket.socket, *, is_delayed: bool) -> None:
        """Pass on one direction of a connection until it ends."""
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if is_delayed and self.delay_seconds:
                    time.sleep(self.delay_seconds)
                destination.sendall(data)
        with contextlib.suppress(OSError):
            destination.shutdown(socket.SHUT_RDWR)

    def connect(self) -> socket.socket:
        """Connect to Redis."""
        parts = urlsplit(self._redis_url)
        if parts.scheme == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(parts.path)
            return connection
        return socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379))
