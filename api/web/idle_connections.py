"""
Connections that get no answer are closed.

Granian limits the time of a request's head, and of an idle connection, but not the time of a body. So a client that
sends one byte now and then, or never reads the answer, would keep its connection for ever. Linux reports when data
was last sent on a connection. On other systems a proxy must close such connections.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Final

import structlog

#: A connection on which nothing was sent for longer is closed. This exceeds the sum of the limits of an idle
#: connection, a head, `Prefer: wait` and the slowest statement.
UNANSWERED_SECONDS: Final = 60.0
#: The interval between two checks.
INTERVAL_SECONDS: Final = 5.0
#: The place of `tcpi_last_data_sent`, in milliseconds, in the kernel's `struct tcp_info` (include/uapi/linux/tcp.h).
#: Eight bytes and nine numbers of four bytes precede it.
LAST_DATA_SENT: Final = struct.Struct("=44xI")

log = structlog.get_logger()


def watch(port: int) -> None:
    """Start a thread that closes them as long as the process runs."""
    if sys.platform == "linux":
        threading.Thread(target=_keep_closing, args=(port,), name="connections", daemon=True).start()


def close_unanswered(port: int, seconds: float) -> int:
    """Close the connections to this port on which nothing was sent for that time. Returns their number."""
    open_now = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return sum(_close_if_unanswered(descriptor, port, seconds) for descriptor in open_now)


def _keep_closing(port: int) -> None:
    while True:
        time.sleep(INTERVAL_SECONDS)
        if closed := close_unanswered(port, UNANSWERED_SECONDS):
            log.warning("connections_closed", count=closed, unanswered_s=UNANSWERED_SECONDS)


def _close_if_unanswered(descriptor: int, port: int, seconds: float) -> bool:
    try:
        copy = os.dup(descriptor)  # the number may be reused meanwhile
    except OSError:
        return False
    if not stat.S_ISSOCK(os.fstat(copy).st_mode):
        os.close(copy)
        return False
    with socket.socket(fileno=copy) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        try:
            connection.getpeername()  # a listening socket has none
            if connection.getsockname()[1] != port:
                return False
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_SENT.size)
            [last_sent_ms] = LAST_DATA_SENT.unpack(info)
            if last_sent_ms < seconds * 1_000:
                return False
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended
            return False
        return True
