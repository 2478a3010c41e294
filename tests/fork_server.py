"""
A process that has imported Teller, and forks the processes of Teller that a test starts.

An interpreter needs a second of CPU to import Teller, and the tests start some hundred processes. Only Linux has what
this needs. Elsewhere, and for programs that are not in `MODULES`, the tests start an interpreter. `teller up` always
starts its own.

Messages are JSON, each with one answer:

1. `{"module", "arguments", "environment"}`, with the log as a file descriptor: `{"pid"}`
2. `{"reap": pid}`, for a process that has ended: `{"status"}`
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

#: The programs that may be forked. Each changes Teller, if at all, after its imports.
MODULES: Final = ("teller", "tests.flow.without_sweep", "tests.scenarios.poisoned_worker")
#: The modules that are imported before any fork: those of an API, a worker and a courier.
IMPORTED: Final = (
    "teller.root",
    "teller.commands.processes",
    "api.server",
    "workers.worker.main",
    "workers.courier.main",
)
#: The directory of the code.
TOP: Final = str(Path(__file__).resolve().parents[1])
#: Whether this system can fork and watch processes as this module needs it.
IS_SUPPORTED: Final = sys.platform == "linux" and hasattr(os, "pidfd_open")
#: The longest message in bytes: an environment.
MESSAGE_BYTES: Final = 1 << 17
#: prctl(2): the signal that a process gets when its parent thread ends.
PR_SET_PDEATHSIG: Final = 1

Message = dict[str, Any]


class Forked(subprocess.Popen[bytes]):
    """A process that the server has forked, with the methods of one that this process has started."""

    def __init__(self, server: ForkServer, pid: int) -> None:  # there is no program to execute
        self.args = ()
        self.pid = pid
        self.stdin = self.stdout = self.stderr = None
        self._server = server
        self._status: int | None = None
        self._lock = threading.Lock()
        self._handle = os.pidfd_open(pid)
        self._end = select.poll()
        self._end.register(self._handle, select.POLLIN)

    def __del__(self) -> None:
        os.close(self._handle)

    def poll(self) -> int | None:
        """
        Return the exit status, or None while it runs. No other process has its id before it is returned.
        """
        with self._lock:
            if self._status is None and self._end.poll(0):
                self._status = self._server.reap(self.pid)
            return self._status

    def wait(self, timeout: float | None = None) -> int:
        """
        Wait for its end. Returns the exit status. Raises TimeoutExpired.
        """
        self._end.poll(None if timeout is None else timeout * 1000)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("teller", timeout or 0)
        return status

    def send_signal(self, sig: int) -> None:
        """
        Send it a signal, unless it has ended.
        """
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, sig)


class ForkServer:
    """A server of this process. It ends with this process, and so do the processes that it has forked."""

    def __init__(self, path: str | None) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.fork_server", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": f"{path}:{TOP}" if path else TOP},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches pytest alone
            )
        atexit.register(self._close)

    def start(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
    ) -> Forked:
        """
        Start a program with these arguments and no other environment.
        """
        message = {"module": module, "arguments": list(arguments), "environment": dict(environment)}
        return Forked(self, self._ask(message, log.fileno())["pid"])

    def reap(self, pid: int) -> int:
        """
        Return the exit status of a process that has ended, or the negative number of the signal that ended it.
        """
        status: int = self._ask({"reap": pid})["status"]
        return status

    def _ask(self, message: Message, *descriptors: int) -> Message:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(message).encode()], descriptors)
            answer: Message = json.loads(self._socket.recv(MESSAGE_BYTES))
        return answer

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def server(path: str | None) -> ForkServer:
    """
    Return the server that imports with this PYTHONPATH. It starts when it is first needed.
    """
    return ForkServer(path)


def can_fork(arguments: Sequence[str]) -> bool:
    """
    Say whether the interpreter's arguments are those of a program that may be forked.
    """
    return IS_SUPPORTED and tuple(arguments[:2]) == ("-P", "-m") and arguments[2] in MODULES


# ---------------------------------------------------------------- in the server


def _serve(descriptor: int) -> tuple[str, list[str]] | None:
    """
    Answer until the other end is closed. In a forked process, returns the program that it runs.
    """
    with socket.socket(fileno=descriptor) as ours:
        while True:
            text, logs, _, _ = socket.recv_fds(ours, MESSAGE_BYTES, 1)
            if not text:
                return None
            message = json.loads(text)
            if "reap" in message:
                _, status = os.waitpid(message["reap"], 0)
                _answer(ours, {"status": os.waitstatus_to_exitcode(status)})
            elif (pid := os.fork()) == 0:
                _become(message["environment"], logs[0])
                return message["module"], message["arguments"]
            else:
                os.close(logs[0])
                _answer(ours, {"pid": pid})


def _answer(ours: socket.socket, message: Message) -> None:
    ours.send(json.dumps(message).encode())


def _become(environment: Mapping[str, str], log: int) -> None:
    """
    Make this process what `spawn_part` would have started: with its own session, environment and output.
    """
    parent = os.getppid()
    os.setsid()
    os.umask(0o077)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent or parent == 1:
        os._exit(0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()


def _main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork has one thread, and misses the others"
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy all these objects
    program = _serve(int(sys.argv[1]))
    if program is not None:
        module, arguments = program
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
