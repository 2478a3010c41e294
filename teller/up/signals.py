"""
Signals of `teller up`: one to stop in order, a second Ctrl-C to stop at once, and the end of a child.

A signal ends a wait. A server that is starting cannot be woken, so an exception leaves it.
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

#: Signals that request a stop; SIGHUP comes when the terminal is closed.
STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Exit status of a stop at once: not everything was stopped in order.
AT_ONCE_STATUS: Final = 1


class Stopped(BaseException):
    """A stop was requested while a server was starting. Not an Exception: no handler takes it for an error."""


class Signals:
    """
    The signals of this process; made once, in the main thread. `stopping` is true after a stop was requested.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._interruptible = False
        self._receiver, self._sender = socket.socketpair()
        for end in (self._receiver, self._sender):
            end.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler it wakes no wait
        for number in STOPPING:
            signal.signal(number, self._stop)

    def wait(self, seconds: float) -> None:
        """Wait for one of the signals, or until the time is over."""
        if not self.stopping:
            self.wait_for_child(seconds)

    def wait_for_child(self, seconds: float) -> None:
        """Wait as `wait` does, also after a stop was requested."""
        if select.select([self._receiver], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(BlockingIOError):
                while self._receiver.recv(4096):
                    pass

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise Stopped in this block when a stop is requested."""
        self._interruptible = True
        try:
            if self.stopping:
                raise Stopped
            yield
        finally:
            self._interruptible = False

    def _stop(self, number: int, _frame: Any) -> None:
        if self.stopping and number == signal.SIGINT:
            os._exit(AT_ONCE_STATUS)  # all children end with this process
        if self.stopping:
            return
        self.stopping = True
        if self._interruptible:
            raise Stopped
