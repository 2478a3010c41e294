"""
The processes of Teller's that a run is made of, and the code that they run.
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

#: What the processes are made of.
SOURCES = ("teller", "api", "lab", "workers", "processor", "schema.sql", "tests/faults")
#: A process that is asked to end has so long, in seconds.
STOP_SECONDS = 8.0


@dataclass
class Part:
    """One process of Teller's: how it is started, and whether it is wanted."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    #: What comes before the interpreter: `ip netns exec …`.
    prefix: Sequence[str] = ()
    wanted: bool = True
    starts: int = 0
    child: Child | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        assert self.child is not None
        return self.child.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self.child is not None and self.child.alive()

    def start(self) -> None:
        """In the main thread."""
        with self.log.open("ab") as output:
            options = {"env": {**os.environ, **self.environment}, "stderr": output, "stdout": output}
            program = [*self.prefix, sys.executable, *self.arguments]
            self.child = _start(program, signal.SIGTERM, signal.SIGKILL, None, (), options)
        self.starts += 1

    def end(self, *, kill: bool = False) -> None:
        """It is not wanted any more; returns when it has ended."""
        self.wanted = False
        if self.child is not None:
            self.child.stop(0 if kill else STOP_SECONDS)

    def pids(self) -> list[int]:
        """It and its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        with contextlib.suppress(OSError):
            return [self.pid, *map(int, children.read_text().split())]
        return [self.pid]


def sources(to: Path) -> Path:
    """A copy of the code that runs here."""
    root = Path(processor.__file__).parents[1]
    for name in SOURCES:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, to / name)
    return to
