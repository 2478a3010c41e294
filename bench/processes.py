"""
Starts processes so that none is left behind, and measures their CPU and memory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from teller.embedded.child import spawn_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from teller.embedded.child import Child

#: Time for a process to stop before it is killed with everything that it started, in seconds.
STOP_SECONDS = 3.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
#: Programs that are not Teller's.
SERVERS = ("postgres", "valkey-server")


@contextlib.contextmanager
def running(
    program: Sequence[str | Path], environment: Mapping[str, str], log: Path | None = None
) -> Iterator[Child]:
    """
    Run a program in a session of its own. Its output goes to `log`.

    It ends with this block, or when this process dies.
    """
    with (log or Path(os.devnull)).open("ab") as output:
        child = spawn_part([str(part) for part in program], {**os.environ, **environment}, output)
    try:
        yield child
    finally:
        child.stop(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # everything that it started and left


def finish(
    program: Sequence[str | Path], environment: Mapping[str, str], seconds: float, log: Path | None = None
) -> None:
    """Run a program to its end. Raises RuntimeError with the end of its log if it fails or takes too long."""
    with running(program, environment, log) as child:
        try:
            status = child.process.wait(seconds)
        except Exception as fault:
            raise RuntimeError(f"{program[-1]} took more than {seconds:.0f} s: {last_lines(log)}") from fault
    if status != 0:
        raise RuntimeError(f"{program[-1]} ended with status {status}: {last_lines(log)}")


def last_lines(log: Path | None) -> str:
    """Return the last error in a log, or else its last line, on one line."""
    said = log.read_text(errors="replace").split("\n") if log is not None and log.exists() else []
    said = [line.strip() for line in said if line.strip()]
    errors = [line for line in said if "rror:" in line or "rror(" in line]
    return (errors or said or ["its log is empty"])[-1][:200]


@dataclass(frozen=True)
class Seen:
    """
    One process at one moment: its program, CPU in seconds, and memory in MiB, with shared parts divided.
    """

    name: str
    command: str
    user: float
    system: float
    mib: float


def tree(top: int, *, memory: bool = False) -> dict[int, Seen]:
    """Return a process and all below it, also those in other sessions."""
    parents: dict[int, int] = {}
    texts: dict[int, str] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue  # ended in the meantime
        process = int(stat.parent.name)
        parents[process] = int(text[text.rindex(")") + 2 :].split()[1])
        texts[process] = text
    children: dict[int, list[int]] = defaultdict(list)
    for process, parent in parents.items():
        children[parent].append(process)
    found: dict[int, Seen] = {}
    left = [top]
    while left:
        process = left.pop()
        left += children[process]
        if process in texts:
            found[process] = _seen(process, texts[process], memory=memory)
    return found


def await_gone(them: Iterable[int]) -> None:
    """Wait until none of these processes is left, for up to STOP_SECONDS."""
    end = time.monotonic() + STOP_SECONDS
    while any(Path(f"/proc/{process}").exists() for process in them) and time.monotonic() < end:
        time.sleep(0.02)


def one(process: int) -> Seen:
    """Return one process, without its memory."""
    return _seen(process, Path(f"/proc/{process}/stat").read_text(), memory=False)


def _seen(process: int, text: str, *, memory: bool) -> Seen:
    name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
    command = name
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ").strip()
    return Seen(
        name,
        command,
        int(fields[11]) / CLOCK_TICKS,
        int(fields[12]) / CLOCK_TICKS,
        _mib(process) if memory else 0.0,
    )


def _mib(process: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def on_cpu(process: int) -> float:
    """
    Return the CPU time of a process's threads in seconds, exact to the nanosecond. Ticks are too coarse when
    idle.
    """
    total = 0
    for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(thread.read_text().split()[0])
    return total / 1e9


def part_of(seen: Seen) -> str:
    """Return the part of a running Teller that a process belongs to."""
    if seen.name in SERVERS:
        return "PostgreSQL" if seen.name == "postgres" else "Valkey"
    words = seen.command.split()
    return next((word for word in ("api", "worker", "courier", "up") if word in words), "other")


@dataclass(frozen=True)
class Cost:
    """The cost of a part over some time: its share of one core, and its memory at the end in MiB."""

    share: float
    mib: float


def cost(top: int, seconds: float) -> dict[str, Cost]:
    """Measure the parts of a running Teller over some seconds."""
    before, began = {process: on_cpu(process) for process in tree(top)}, time.monotonic()
    time.sleep(seconds)
    after, took = tree(top, memory=True), time.monotonic() - began
    shares: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = defaultdict(float)
    for process, seen in after.items():
        part = part_of(seen)
        shares[part] += (on_cpu(process) - before.get(process, 0.0)) / took
        memory[part] += seen.mib
    return {part: Cost(shares[part], memory[part]) for part in shares}


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the command that starts a module of this repository."""
    return [sys.executable, "-m", module, *arguments]
