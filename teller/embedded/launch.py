"""
Becomes a program that ends with its parent. Runs as a script between the parent and the program.

    launch.py SIGNAL PARENT_PID UID GID WATCH_FD PROGRAM ARGUMENT…

Leaves root where UID is not -1, and arranges for SIGNAL when the parent ends. Then executes PROGRAM under the same
process id. A `preexec_fn` could do the same, but runs Python code between fork and exec of a process with threads.
Imports the standard library alone, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: PR_SET_PDEATHSIG of prctl(2).
PR_SET_PDEATHSIG = 1
#: Exit status when the parent had ended before this script began; no process reads it.
ORPHANED = 75


def main(arguments: list[str]) -> None:
    """
    Execute the program, or exit with a status. Never returns.
    """
    death_signal, parent, uid, gid, watch = map(int, arguments[:5])
    program = arguments[5:]
    libc = ctypes.CDLL(None)  # before leaving root, which alone may be able to read the library
    if uid != -1:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.umask(0o077)
    if watch == -1:
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)  # after setuid, which clears it
        if os.getppid() != parent:
            sys.exit(ORPHANED)
    else:
        _leave_watcher(watch, death_signal)
        os.close(watch)
    os.execv(program[0], program)  # noqa: S606 - the whole purpose


def _leave_watcher(watch: int, death_signal: int) -> None:
    """
    Fork a process that waits for the end of a pipe, where the kernel sends no signal for a dead parent.

    The parent holds the other end. A byte in the pipe means that the server has ended already.
    """
    server = os.getpid()
    if middle := os.fork():
        os.waitpid(middle, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)  # no child of the server, which may fail when a child that it did not start ends
    os.closerange(0, watch)
    os.closerange(watch + 1, 256)  # including the lock of the server, which the watcher must not keep
    if not os.read(watch, 1):
        os.kill(server, signal.Signals(death_signal))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
