"""
The outside world of the tests: real HTTP servers that do what a test says, and remember what they were asked.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A certificate that is valid for the name `localhost` alone, and vouches for itself.
CERTIFICATE = Path(__file__).parent / "tls" / "localhost.crt"
CERTIFICATE_KEY = Path(__file__).parent / "tls" / "localhost.key"
#: The time after which an endless answer ends, in seconds.
HANG_SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """One POST as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def document(self) -> Any:
        """The JSON of its body."""
        return json.loads(self.body)

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return self.headers["idempotency-key"]


#: An answer: a status, or a status with headers and a body.
Reply = int | tuple[int, dict[str, str], bytes]


@dataclass
class Outside:
    """A server. `behave` gets each call and the handler, for answers that are none."""

    url: str
    port: int
    behave: Callable[[Call, Handler], Reply | None] = lambda _call, _handler: 200
    calls: list[Call] = field(default_factory=list)
    #: Calls that are being answered now, and the most there ever were.
    under_way: int = 0
    most_under_way: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hang(self) -> None:
        """Say nothing until the test is over."""
        self.closing.wait(HANG_SECONDS)

    @contextlib.contextmanager
    def taken(self, call: Call) -> Iterator[None]:
        with self._lock:
            self.calls.append(call)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            yield
        finally:
            with self._lock:
                self.under_way -= 1


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as its server's `outside` behaves."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """
        Take a call.
        """
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.path, headers, body, time.monotonic())
        with self.server.outside.taken(call):
            reply = self.server.outside.behave(call, self)
        if reply is not None:
            status, more, said = reply if isinstance(reply, tuple) else (reply, {}, b"")
            self.answer(status, more, said)

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """An ordinary one."""
        with contextlib.suppress(OSError):  # the caller may have given up
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    outside: Outside

    def handle_error(self, *_: object) -> None:
        """
        Ignore it: the caller may be gone.
        """


@contextlib.contextmanager
def serving(*, tls: bool = False) -> Iterator[Outside]:
    """A server on a free port of this machine."""
    with _Server(("127.0.0.1", 0), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE, CERTIFICATE_KEY)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        port = server.server_address[1]
        server.outside = Outside(f"{'https' if tls else 'http'}://127.0.0.1:{port}", port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.outside
        finally:
            server.outside.closing.set()
            server.shutdown()
            thread.join(5)


def says(status: int, **body: Any) -> Reply:
    """A JSON answer."""
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()
