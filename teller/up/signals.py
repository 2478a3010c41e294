"""
Signals of `teller up`: one to stop in order, a second Ctrl-C to stop at once, and the end of a child.

What is waited for is woken by them; what cannot be woken (a server that starts) is left by an exception.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What asks us to stop; SIGHUP comes when the terminal is closed.
STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Exit status of a stop at once: not everything was stopped in order.
AT_ONCE_STATUS: Final = 1


class Stopped(BaseException):
    """We were asked to stop while a server was starting. No error, so nobody takes it for one."""


class Signals:
    """
    The signals of this process; made once, in the main thread. `stopping` says whether we were asked to stop.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._interruptible = False
        self._heard, self._told = socket.socketpair()
        for end in (self._heard, self._told):
            end.setblocking(False)
        signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only with a handler does it wake us
        for number in STOPPING:
            signal.signal(number, self._stop)

    def wait(self, seconds: float) -> None:
        """Until one of the signals comes, or the time is over."""
        if not self.stopping:
            self.wait_for_child(seconds)

    def wait_for_child(self, seconds: float) -> None:
        """As `wait`, also when we were asked to stop."""
        if select.select([self._heard], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(BlockingIOError):
                while self._heard.recv(4096):
                    pass

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """While it lasts, a wish to stop is raised as Stopped."""
        self._interruptible = True
        try:
            if self.stopping:
                raise Stopped
            yield
        finally:
            self._interruptible = False

    def _stop(self, number: int, _frame: Any) -> None:
        if self.stopping and number == signal.SIGINT:
            os._exit(AT_ONCE_STATUS)  # all that we started dies with us
        if self.stopping:
            return
        self.stopping = True
        if self._interruptible:
            raise Stopped
