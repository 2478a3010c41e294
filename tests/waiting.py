"""
Waiting for events, measuring promised times, and free ports.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The limit of a wait for an event that a working system brings about, in seconds. No test measures it.
TIMEOUT_SECONDS = 90.0
#: The pauses between two looks at a condition, in seconds: the shortest and the longest. Often each look is a query.
LOOK_SECONDS_MIN = 0.01
LOOK_SECONDS_MAX = 0.05
#: The part of the time waited so far that the next pause lasts, so that the result is that much too long at most.
PAUSE_SHARE = 0.05


def eventually(condition: Callable[[], Any], within: float = TIMEOUT_SECONDS) -> float:
    """
    Wait until the condition holds. Returns the seconds that this took. Fails after `within` seconds.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < within, f"not within {within:.1f} s"
        time.sleep(min(max(LOOK_SECONDS_MIN, waited * PAUSE_SHARE), LOOK_SECONDS_MAX))
    return time.monotonic() - began


def free_port() -> int:
    """
    Return a port of this machine on which no process listens.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """
    Say whether no process of this machine listens on a port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Deadline:
    """
    A promised time in seconds, which begins now.

    The promise is Teller's, so the time in which its processes waited for a CPU does not count:

    1. Each moment on the way to an event is computing, sleeping, or waiting for a CPU.
    2. Linux counts the nanoseconds that each thread waited for a CPU.
    3. The waits of all threads of this test, its servers and its processes add up to at least those on the way.
    4. So `seconds` plus this sum is the strictest limit that holds on a machine with other work.

    On a calm machine the sum is near zero.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waited = _waits_for_cpu()
        self._began = time.monotonic()

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s (and {self.waited():.1f} s in which threads waited for a CPU)"

    @property
    def passed(self) -> float:
        """The seconds since the beginning."""
        return time.monotonic() - self._began

    def waited(self) -> float:
        """
        Return the seconds that the threads of this test waited for a CPU since the beginning.
        """
        now = _waits_for_cpu()
        return sum(max(0, seconds - self._waited.get(thread, 0)) for thread, seconds in now.items()) / 1e9

    def is_met(self, passed: float | None = None) -> bool:
        """
        Say whether `passed` seconds, by default those until now, keep the promise.
        """
        passed = self.passed if passed is None else passed
        return passed <= self.seconds or passed <= self.seconds + self.waited()

    def check(self) -> float:
        """
        Fail if the time is over. Returns the seconds that passed.
        """
        passed = self.passed
        assert self.is_met(passed), f"after {passed:.2f} s, and not within {self}"
        return passed

    def until(self, condition: Callable[[], Any]) -> float:
        """
        Wait until the condition holds, and fail if that is too late. Returns the seconds that passed.
        """
        eventually(condition, within=self.seconds + TIMEOUT_SECONDS)
        return self.check()


def _waits_for_cpu() -> dict[str, int]:
    """
    Return, for each thread of this process and of all its descendants, the nanoseconds that it waited for a CPU.

    Empty on a system that does not count them.
    """
    found: dict[str, int] = {}
    for task in _tasks(os.getpid()):
        with contextlib.suppress(OSError, IndexError):
            found[task.name] = int((task / "schedstat").read_text().split()[1])
    return found


def _tasks(pid: int) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield task
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text().split():
                    yield from _tasks(int(child))
