"""
A child process that ends when this one does, however this one ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence

    from processor.embedded.home import Account

#: Whether the kernel sends a signal when the parent dies; elsewhere a watcher does.
KERNEL_TELLS = sys.platform == "linux"
#: All that a server needs to know of our environment. Nothing of it is looked up on PATH.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass
class Child:
    """
    A running server. `stop` it, or lose it together with this process.
    """

    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals
    watch: int | None

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        return self.process.pid

    def alive(self) -> bool:
        """Whether it still runs; when not, it has been waited for."""
        if self.process.poll() is None:
            return True
        self._dismiss_watcher()
        return False

    def stop(self, timeout_seconds: float) -> None:
        """
        Ask it to stop, wait, and kill it when it takes longer than the timeout.
        """
        if self.alive():
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._dismiss_watcher()

    def _dismiss_watcher(self) -> None:
        if self.watch is not None:
            os.write(self.watch, b".")  # its process id may belong to somebody else from now on
            os.close(self.watch)
            self.watch = None


def spawn(
    program: Sequence[str | Path],
    *,
    stop_signal: signal.Signals,
    log: Path,
    lock: int,
    account: Account | None = None,
) -> Child:
    """
    Start `program` (an absolute path and its arguments), with its output appended to `log`.

    It inherits `lock`, so that the lock lives exactly as long as it and its children; it runs as `account`, if
    one is given, and gets `stop_signal` when this process dies. Must be called in the main thread: Linux counts
    the death of the thread that spawned.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "servers must be started in the main thread: they die with the thread that starts them"
        )
    if KERNEL_TELLS:
        return Child(_popen(program, stop_signal, log, lock, account, -1), stop_signal, None)
    read_end, write_end = os.pipe()
    try:
        return Child(_popen(program, stop_signal, log, lock, account, read_end), stop_signal, write_end)
    finally:
        os.close(read_end)


def _popen(
    program: Sequence[str | Path],
    stop_signal: signal.Signals,
    log: Path,
    lock: int,
    account: Account | None,
    watch: int,
) -> subprocess.Popen[bytes]:
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    numbers = (int(stop_signal), os.getpid(), uid, gid, watch)
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own binaries, by absolute path
            [sys.executable, "-I", "-S", _LAUNCH, *map(str, numbers), *program],
            cwd="/",
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us; we stop the servers after those who use them
            pass_fds=(lock,) if watch == -1 else (lock, watch),
        )
