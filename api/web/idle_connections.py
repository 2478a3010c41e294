"""
Connections that get no answer are closed, and idle ones are kept.

Granian has one limit for an idle connection and for the head of a request, and none for a body. Proxies expect that
an idle connection lasts longer than theirs, up to a minute by default. So the limit of Granian exceeds that, and the
times of heads and bodies are limited here. Linux reports when data was last sent and received on a connection. On
other systems a proxy must close such connections.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The time for which an idle connection is kept. Proxies keep theirs for 60 s, and some for 75 s.
IDLE_SECONDS: Final = 90.0
#: The time in which a request must be answered since its first byte. It exceeds the sum of the limits of
#: `Prefer: wait` and the slowest statement.
UNANSWERED_SECONDS: Final = 60.0
#: The time in which the first byte must come on a new connection.
SILENT_SECONDS: Final = 10.0
#: The interval between two checks.
INTERVAL_SECONDS: Final = 5.0
#: `tcpi_last_data_sent` and `…_recv`, in milliseconds, then `tcpi_bytes_acked` and `…_received`,
#: in the kernel's `struct tcp_info` (include/uapi/linux/tcp.h).
TCP_INFO: Final = struct.Struct("=44xI4xI64xQQ")
#: The difference from which two times of the last answer are those of two answers, in seconds. The kernel counts
#: milliseconds, and the clock is read a moment later.
ANSWERS_APART_SECONDS: Final = 0.5

log = structlog.get_logger()


class Limits(NamedTuple):
    """The times after which a connection is closed, in seconds."""

    idle: float = IDLE_SECONDS + INTERVAL_SECONDS  # Granian closes idle connections itself
    unanswered: float = UNANSWERED_SECONDS
    silent: float = SILENT_SECONDS


class _Times(NamedTuple):
    """The milliseconds since data was last sent and received on a connection, and the bytes in all."""

    sent_ms: int
    received_ms: int
    acknowledged_bytes: int
    received_bytes: int


class _Request(NamedTuple):
    """A request that was seen without an answer."""

    #: When it was first seen, and when the answer before it was sent.
    since: float
    answered_at: float


class Connections:
    """The connections to a port, and the requests on them that wait for an answer."""

    def __init__(self, port: int, limits: Limits | None = None) -> None:
        self._port = port
        self._limits = limits or Limits()
        #: By the address of the peer.
        self._waiting: dict[Any, _Request] = {}

    def close_overdue(self) -> int:
        """Close the connections whose time is over. Returns their number."""
        seen: dict[Any, _Request] = {}
        closed = 0
        for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
            with _copy(descriptor, self._port) as connection:
                if connection is not None:
                    closed += self._check(connection, seen)
        self._waiting = seen
        return closed

    def _check(self, connection: socket.socket, seen: dict[Any, _Request]) -> bool:
        try:
            peer = connection.getpeername()  # a listening socket has none
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
            if self._is_overdue(peer, _Times(*TCP_INFO.unpack(info)), seen):
                connection.shutdown(socket.SHUT_RDWR)
                return True
        except (OSError, struct.error):  # it has ended, or the kernel is older
            return False
        return False

    def _is_overdue(self, peer: Any, times: _Times, seen: dict[Any, _Request]) -> bool:
        now = time.monotonic()
        if not times.received_bytes:
            return times.sent_ms > self._limits.silent * 1_000
        if (
            times.acknowledged_bytes and times.received_ms >= times.sent_ms
        ):  # all that was received is answered
            return times.sent_ms > self._limits.idle * 1_000
        request = _Request(now, now - times.sent_ms / 1_000)
        before = self._waiting.get(peer)
        if before is not None and abs(before.answered_at - request.answered_at) < ANSWERS_APART_SECONDS:
            request = before
        seen[peer] = request
        return now - request.since > self._limits.unanswered


def watch(port: int) -> None:
    """Start a thread that closes them as long as the process runs."""
    if sys.platform == "linux":
        threading.Thread(target=_keep_closing, args=(port,), name="connections", daemon=True).start()


def _keep_closing(port: int) -> None:
    connections = Connections(port)
    while True:
        time.sleep(INTERVAL_SECONDS)
        if closed := connections.close_overdue():
            log.warning("connections_closed", count=closed)


@contextmanager
def _copy(descriptor: int, port: int) -> Iterator[socket.socket | None]:
    """Yield a copy of a connection to this port, since the number may be reused meanwhile. None: it is none."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        yield None
        return
    if not stat.S_ISSOCK(os.fstat(copy).st_mode):
        os.close(copy)
        yield None
        return
    with socket.socket(fileno=copy) as connection:
        try:
            is_ours = (
                connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] == port
            )
        except OSError:
            is_ours = False
        yield connection if is_ours else None
