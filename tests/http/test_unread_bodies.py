"""
Answers that come before the body: the body is received, so that neither a client nor a proxy loses the answer.
"""

from __future__ import annotations

import io
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest

from api.web import unread_bodies
from api.web.unread_bodies import UnreadBodies
from tests.stack import Stack
from tests.waiting import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.settings import Settings

#: The time in which a server that does not wait for a body would have answered, in seconds.
SOON_SECONDS = 0.5
#: A body that no buffer between the two processes holds.
SIZE = 400_000


@pytest.fixture
def address(settings: Settings, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """
    The address of a running API.
    """
    with Stack(settings.environment(), tmp_path) as stack:
        process = stack.start_api()
        yield "127.0.0.1", int(process.environment["TELLER_PORT"])


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/redemptions HTTP/1.1\r\nAuthorization: Bearer no", b"401"),
        (b"POST /nowhere HTTP/1.1", b"404"),
        (b"DELETE /healthz HTTP/1.1", b"405"),
        (b"POST /admin/keys HTTP/1.1", b"303"),
    ],
)
def test_a_body_is_received_before_the_refusal(address: tuple[str, int], head: bytes, status: bytes) -> None:
    """
    The answer comes once the body is complete, and the connection serves the next request.
    """
    with socket.create_connection(address, TIMEOUT_SECONDS) as connection:
        connection.sendall(head + b"\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % SIZE)
        connection.sendall(b"x" * (SIZE - 1))
        assert select.select([connection], [], [], SOON_SECONDS)[0] == []
        connection.sendall(b"x")
        assert connection.recv(12) == b"HTTP/1.1 " + status
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        rest = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert rest.count(b"HTTP/1.1 200 OK") == 1


def test_a_client_that_waits_for_permission_gets_its_refusal_at_once(address: tuple[str, int]) -> None:
    """
    With `Expect: 100-continue` there is nothing to drop, and the client need not send its body.
    """
    head = (
        b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 400000\r\n\r\n"
    )
    with socket.create_connection(address, TIMEOUT_SECONDS) as connection:
        connection.sendall(head)
        assert connection.recv(12) == b"HTTP/1.1 401"


class Body(io.BytesIO):
    """A body that counts its reads."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and count it."""
        self.reads += 1
        return super().read(size)


def refuse(bodies: UnreadBodies | None, size: int, **environ: Any) -> Body:
    """
    Refuse a request with a body of this size.
    """
    body = Body(b"x" * size)
    refusal = bodies or UnreadBodies(lambda _environ, _start: [])
    assert (
        list(refusal({"wsgi.input": body, "CONTENT_LENGTH": str(size), **environ}, lambda *_: lambda _: None))
        == []
    )
    return body


@pytest.mark.parametrize(
    ("size", "environ", "left"),
    [
        (100, {}, 0),
        (unread_bodies.DROPPED_BYTES_MAX, {}, 0),
        (unread_bodies.DROPPED_BYTES_MAX + 1, {}, unread_bodies.DROPPED_BYTES_MAX + 1),
        (unread_bodies.DROPPED_BYTES_MAX + 7, {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}, 7),
        (100, {"CONTENT_LENGTH": "9" * 9_999}, 100),
        (100, {unread_bodies.IS_READ: True}, 100),
    ],
)
def test_what_is_dropped_has_a_limit(size: int, environ: dict[str, Any], left: int) -> None:
    """
    A body beyond the limit stays unread, or its rest does if its size is not announced.
    """
    assert len(refuse(None, size, **environ).read()) == left


def test_the_bodies_that_are_dropped_at_once_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Slow bodies of refused requests hold a bounded number of threads. Beyond it, the refusal does not wait.
    """
    monkeypatch.setattr(unread_bodies, "DROPS_AT_ONCE", 1)
    bodies = UnreadBodies(lambda _environ, _start: [])
    inner: list[Body] = []

    class Slow(Body):
        def read(self, size: int | None = -1, /) -> bytes:
            if not inner:
                inner.append(refuse(bodies, 100))
            return super().read(size)

    bodies({"wsgi.input": Slow(b"x"), "CONTENT_LENGTH": "1"}, lambda *_: lambda _: None)

    assert inner[0].reads == 0
    assert refuse(bodies, 100).reads > 0
