"""
The rest of a body is received before its request is refused.

A refusal needs no body. But Granian closes a connection whose body was not read, and the kernel resets it if more
bytes arrive. A client that is still sending then loses the answer, and a proxy makes it a 502. After such answers a
proxy may take the server out, for all clients. So the rest of a body is read and dropped, within limits.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: The bodies that are dropped at the same time. Each holds a thread until it is complete. Others stay unread.
DROPS_AT_ONCE: Final = 256
#: The bytes of a body that are dropped at most. The rest of a larger one stays unread.
DROPPED_BYTES_MAX: Final = 8 * 1024 * 1024
#: The digits of the length of such a body.
LENGTH_DIGITS_MAX: Final = len(str(DROPPED_BYTES_MAX))
#: The bytes that one step reads.
STEP_BYTES: Final = 64 * 1024
#: The key of the WSGI environment for a body that was read to its end.
IS_READ: Final = "teller.body_is_read"


class UnreadBodies:
    """The application, which leaves no body unread."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self._places = threading.Semaphore(DROPS_AT_ONCE)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        answer = self._application(environ, start_response)
        if IS_READ not in environ and _has_body(environ) and self._places.acquire(blocking=False):
            try:
                _drop(environ["wsgi.input"])
            finally:
                self._places.release()
        return answer


def _has_body(environ: WSGIEnvironment) -> bool:
    """Return whether a client sends a body that is not too large, without waiting for `100 Continue`."""
    if "HTTP_EXPECT" in environ:
        return False
    announced = environ.get("CONTENT_LENGTH", "")
    if not announced:
        return "HTTP_TRANSFER_ENCODING" in environ
    return (
        len(announced) <= LENGTH_DIGITS_MAX and 0 < int(announced) <= DROPPED_BYTES_MAX
    )  # the server checks digits


def _drop(body: Any) -> None:
    for _ in range(DROPPED_BYTES_MAX // STEP_BYTES):
        if not body.read(STEP_BYTES):
            return
