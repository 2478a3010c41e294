"""
A child process that ends together with this process, however this process ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from teller.embedded.home import Account

#: Whether the kernel sends a signal when the parent dies; elsewhere a watcher does.
HAS_DEATH_SIGNAL = sys.platform == "linux"
#: The whole environment of a server. No program is looked up on PATH.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass
class Child:
    """
    A running process. It ends by `stop`, or together with this process.
    """

    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals
    watch: int | None

    @property
    def pid(self) -> int:
        """The process id of the program itself."""
        return self.process.pid

    def alive(self) -> bool:
        """Return whether it still runs. A process that has ended is reaped."""
        if self.process.poll() is None:
            return True
        self._dismiss_watcher()
        return False

    def stop(self, timeout_seconds: float) -> None:
        """
        Request a stop, wait, and kill the process after the timeout.
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
            os.write(self.watch, b".")  # its process id may be reused from now on
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

    It inherits `lock`, which is therefore held until it and its children have ended. It runs as `account`, if one is
    given, and receives `stop_signal` when this process ends. Must be called in the main thread: Linux sends the
    signal when the spawning thread ends.
    """
    with log.open("ab") as output:
        return _start(
            program,
            stop_signal,
            stop_signal,
            account,
            (lock,),
            {"cwd": "/", "env": ENVIRONMENT, "stdout": output, "stderr": output},
        )


def spawn_part(
    program: Sequence[str | Path], environment: Mapping[str, str], output: IO[bytes] | None = None
) -> Child:
    """
    Start a process of Teller in this directory. Its output goes to `output`, or else to the standard error of this
    process.

    SIGTERM stops it. It is killed when this process ends: nothing is lost, and its port is free at once. Must be
    called in the main thread, like `spawn`.
    """
    options = {"env": environment, "stdout": output or sys.stderr.fileno(), "stderr": output}
    return _start(program, signal.SIGTERM, signal.SIGKILL, None, (), options)


def _start(
    program: Sequence[str | Path],
    stop_signal: signal.Signals,
    death_signal: signal.Signals,
    account: Account | None,
    inherited: tuple[int, ...],
    options: dict[str, Any],
) -> Child:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "children must be started in the main thread: they die with the thread that starts them"
        )
    read_end, write_end = (-1, None) if HAS_DEATH_SIGNAL else os.pipe()
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    numbers = (int(death_signal), os.getpid(), uid, gid, read_end)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own programs, by absolute path
            [sys.executable, "-I", "-S", _LAUNCH, *map(str, numbers), *program],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which stops the servers after their users
            pass_fds=inherited if read_end == -1 else (*inherited, read_end),
            **options,
        )
    finally:
        if read_end != -1:
            os.close(read_end)
    return Child(process, stop_signal, write_end)
