"""
The processes of a run, and the code that they run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import processor
from teller.embedded.child import Child, _start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The files that the processes need.
SOURCES = ("teller", "api", "lab", "workers", "processor", "schema.sql", "tests/faults")
#: Time for a process to stop, in seconds.
STOP_SECONDS = 8.0


@dataclass
class Part:
    """One process of Teller: its command, and whether it should run."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    #: A command before the interpreter, such as `ip netns exec …`.
    prefix: Sequence[str] = ()
    wanted: bool = True
    starts: int = 0
    child: Child | None = None

    @property
    def pid(self) -> int:
        """The id of the running process, or of the last one."""
        assert self.child is not None
        return self.child.pid

    def alive(self) -> bool:
        """Return whether the process runs."""
        return self.child is not None and self.child.alive()

    def start(self) -> None:
        """Start the process. Must run in the main thread."""
        with self.log.open("ab") as output:
            options = {"env": {**os.environ, **self.environment}, "stderr": output, "stdout": output}
            program = [*self.prefix, sys.executable, *self.arguments]
            self.child = _start(program, signal.SIGTERM, signal.SIGKILL, None, (), options)
        self.starts += 1

    def end(self, *, kill: bool = False) -> None:
        """End the process for good. Returns when it has ended."""
        self.wanted = False
        if self.child is not None:
            self.child.stop(0 if kill else STOP_SECONDS)

    def pids(self) -> list[int]:
        """Return the ids of the process and its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        with contextlib.suppress(OSError):
            return [self.pid, *map(int, children.read_text().split())]
        return [self.pid]


def sources(to: Path) -> Path:
    """Copy the code that runs here. Returns the folder."""
    root = Path(processor.__file__).parents[1]
    for name in SOURCES:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, to / name)
    return to
