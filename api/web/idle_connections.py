"""
Connections that get no answer. Granian bounds the time that a head may take, and an idle connection with it, but not
that of a body: whoever sends one byte now and then, or reads none of the answer, would keep his place for ever.

Linux tells of each connection when something was last sent on it; elsewhere nobody looks, and a proxy must.
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

#: A connection on which so long nothing was sent is closed, in seconds: longer than an idle one, a head, a wait by
#: request and the slowest statement take one after the other.
UNANSWERED_SECONDS: Final = 60.0
#: How often we look, in seconds.
INTERVAL_SECONDS: Final = 5.0
#: Where `tcpi_last_data_sent`, in milliseconds, stands in the kernel's `struct tcp_info`: after eight bytes and nine
#: numbers of four (include/uapi/linux/tcp.h).
LAST_DATA_SENT: Final = struct.Struct("=44xI")

log = structlog.get_logger()


def watch(port: int) -> None:
    """Close them, on a thread of its own, for as long as the process lives."""
    if sys.platform == "linux":
        threading.Thread(target=_keep_closing, args=(port,), name="connections", daemon=True).start()


def close_unanswered(port: int, seconds: float) -> int:
    """Close the connections to our port on which nothing was sent for so long. Returns how many there were."""
    open_now = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return sum(_close_if_unanswered(descriptor, port, seconds) for descriptor in open_now)


def _keep_closing(port: int) -> None:
    while True:
        time.sleep(INTERVAL_SECONDS)
        if closed := close_unanswered(port, UNANSWERED_SECONDS):
            log.warning("connections_closed", count=closed, unanswered_s=UNANSWERED_SECONDS)


def _close_if_unanswered(descriptor: int, port: int, seconds: float) -> bool:
    try:
        ours = os.dup(descriptor)  # whatever becomes of that number meanwhile
    except OSError:
        return False
    if not stat.S_ISSOCK(os.fstat(ours).st_mode):
        os.close(ours)
        return False
    with socket.socket(fileno=ours) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        try:
            connection.getpeername()  # one that listens has none
            if connection.getsockname()[1] != port:
                return False
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_SENT.size)
            [last_sent_ms] = LAST_DATA_SENT.unpack(told)
            if last_sent_ms < seconds * 1_000:
                return False
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended
            return False
        return True
