"""
Supervision of the processes of `teller up`: a process that died is started again.

The first restart is immediate. The pauses between further ones grow, so a process that always fails costs little.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from processor.errors import ServerError
from teller.embedded.child import spawn_part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from teller.embedded.child import Child
    from teller.up.signals import Signals

#: Lifetime after which a restart is immediate again, in seconds.
STEADY_SECONDS: Final = 10.0
#: First pause between two restarts; it doubles with each, in seconds.
PAUSE_SECONDS: Final = 0.1
#: Longest pause after a kill, and after a failure that is likely to repeat, in seconds.
PAUSE_KILLED_SECONDS_MAX: Final = 1.0
PAUSE_FAILED_SECONDS_MAX: Final = 10.0
#: Limit of the doublings, enough to reach the longest pause.
_DOUBLINGS_MAX: Final = 10
#: Interval of checks without a signal, in seconds.
LOOK_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Kept(Protocol):
    """A supervised program: an embedded server, or a process of Teller."""

    @property
    def name(self) -> str:
        """The name in the log."""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""

    def alive(self) -> bool:
        """Return whether it runs."""

    def start(self) -> None:
        """Start it, also after it died. Raises ServerError or OSError."""


class Process:
    """
    One `teller api`, `teller worker` or `teller courier`. It can be started again after it died.
    """

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._program = [sys.executable, "-P", "-m", "teller", *arguments]
        self._environment = {**os.environ, **environment}
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child and self._child.alive() else None

    @property
    def status(self) -> int | None:
        """The exit status after its end; the negative signal if it was killed."""
        return self._child.process.returncode if self._child and not self._child.alive() else None

    def start(self) -> None:
        """Start it. Returns at once."""
        self._child = spawn_part(self._program, self._environment)

    def alive(self) -> bool:
        """Return whether it runs."""
        return self._child is not None and self._child.alive()

    def ask_to_stop(self) -> None:
        """Request a stop. Returns at once."""
        if self._child and self._child.alive():
            self._child.process.send_signal(self._child.stop_signal)

    def end(self) -> None:
        """Kill it if it still runs. Returns after its end."""
        if self._child:
            self._child.stop(0)


@dataclass
class _Watched:
    """One supervised program and its restarts."""

    kept: Kept
    pid: int | None
    started_at: float = field(default_factory=time.monotonic)
    #: Restarts in close succession.
    restarts: int = 0
    #: Time of the next start; None while it runs.
    due_at: float | None = None


class Supervisor:
    """
    Keeps programs running. Servers come last in `kept`, since their start takes a moment and delays those after them.

    `on_death` is called for each process that died, after it was started again.
    """

    def __init__(self, kept: Sequence[Kept], signals: Signals, on_death: Callable[[Kept, int], None]) -> None:
        self._watched = [_Watched(one, one.pid) for one in kept]
        self._signals = signals
        self._on_death = on_death

    def run(self) -> None:
        """Run until a stop is requested. Raises Stopped if a server is starting then."""
        while not self._signals.stopping:
            self._signals.wait(self.mend())

    def mend(self) -> float:
        """Start the dead processes that are due. Returns the seconds until the next one is due."""
        for watched in self._watched:
            if watched.due_at is None and not watched.kept.alive():
                self._plan(watched)
            if watched.due_at is not None and watched.due_at <= time.monotonic():
                self._restart(watched)
        due = [watched.due_at for watched in self._watched if watched.due_at is not None]
        return min([LOOK_SECONDS, *(at - time.monotonic() for at in due)])

    def _plan(self, watched: _Watched) -> None:
        now = time.monotonic()
        status = watched.kept.status if isinstance(watched.kept, Process) else None
        if now - watched.started_at >= STEADY_SECONDS:
            watched.restarts = 0
        longest = PAUSE_FAILED_SECONDS_MAX if status is not None and status > 0 else PAUSE_KILLED_SECONDS_MAX
        pause = _pause(watched.restarts, longest)
        watched.due_at = now + pause
        log.warning(
            "process_died",
            process=watched.kept.name,
            pid=watched.pid,
            status=status,
            starts_again_in_seconds=pause,
        )

    def _restart(self, watched: _Watched) -> None:
        died, watched.started_at = watched.pid, time.monotonic()
        watched.restarts += 1
        try:
            with self._signals.interruptible():
                watched.kept.start()
        except (ServerError, OSError) as fault:
            pause = _pause(watched.restarts, PAUSE_FAILED_SECONDS_MAX)
            watched.due_at = time.monotonic() + pause
            log.error(  # noqa: TRY400 - a traceback adds nothing to the line
                "process_does_not_start", process=watched.kept.name, fault=str(fault), again_in_seconds=pause
            )
            return
        watched.due_at, watched.pid = None, watched.kept.pid
        log.info("process_started_again", process=watched.kept.name, pid=watched.pid)
        if died is not None:
            self._on_death(watched.kept, died)


def _pause(restarts: int, longest: float) -> float:
    """Return the seconds before the next start, after `restarts` in close succession."""
    return min(longest, PAUSE_SECONDS * 2 ** min(restarts - 1, _DOUBLINGS_MAX)) if restarts else 0.0
