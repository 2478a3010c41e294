"""
Watching over the processes of `teller up`: who dies is started again, at once the first time, then more and more
slowly, so that what cannot live does not eat the machine.
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

#: Who lived so long dies for a new reason: it is started again at once, in seconds.
STEADY_SECONDS: Final = 10.0
#: The pause before a start that follows closely upon another; it doubles with each, in seconds.
PAUSE_SECONDS: Final = 0.1
#: The longest pause, in seconds: of who was killed, and of who gave up by itself and will most likely again.
PAUSE_KILLED_SECONDS_MAX: Final = 1.0
PAUSE_FAILED_SECONDS_MAX: Final = 10.0
#: The pause doubles so often, which is more than enough to reach the longest.
_DOUBLINGS_MAX: Final = 10
#: How often we look although no signal came, in seconds.
LOOK_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Kept(Protocol):
    """What can be kept running: an embedded server, or a process of our own."""

    @property
    def name(self) -> str:
        """What the log calls it."""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""

    def alive(self) -> bool:
        """Whether it runs."""

    def start(self) -> None:
        """Start it, again when it died. Raises ServerError or OSError."""


class Process:
    """
    One `teller api`, `teller worker` or `teller courier`. `start` it, again when it died.
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
        """The exit status of one that has ended; minus the signal that killed it."""
        return self._child.process.returncode if self._child and not self._child.alive() else None

    def start(self) -> None:
        """Returns at once."""
        self._child = spawn_part(self._program, self._environment)

    def alive(self) -> bool:
        """Whether it runs."""
        return self._child is not None and self._child.alive()

    def ask_to_stop(self) -> None:
        """Returns at once."""
        if self._child and self._child.alive():
            self._child.process.send_signal(self._child.stop_signal)

    def end(self) -> None:
        """Whatever it is at, it runs no more when this returns."""
        if self._child:
            self._child.stop(0)


@dataclass
class _Watched:
    """How it went with one of them."""

    kept: Kept
    pid: int | None
    started_at: float = field(default_factory=time.monotonic)
    #: Starts in close succession.
    restarts: int = 0
    #: When it is to be started; None while it lives.
    due_at: float | None = None


class Supervisor:
    """
    Keeps `kept` running; those whose start takes a moment (servers) last, so that they hold up nobody.
    `on_death` is told of each process that died, once it has been started again.
    """

    def __init__(self, kept: Sequence[Kept], signals: Signals, on_death: Callable[[Kept, int], None]) -> None:
        self._watched = [_Watched(one, one.pid) for one in kept]
        self._signals = signals
        self._on_death = on_death

    def run(self) -> None:
        """Until we are asked to stop. Raises Stopped when a server was starting then."""
        while not self._signals.stopping:
            self._signals.wait(self.mend())

    def mend(self) -> float:
        """Start again who died and is due. Returns the seconds until the next one is due."""
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
            log.error(  # noqa: TRY400 - the line says it; a traceback says nothing more
                "process_does_not_start", process=watched.kept.name, fault=str(fault), again_in_seconds=pause
            )
            return
        watched.due_at, watched.pid = None, watched.kept.pid
        log.info("process_started_again", process=watched.kept.name, pid=watched.pid)
        if died is not None:
            self._on_death(watched.kept, died)


def _pause(restarts: int, longest: float) -> float:
    """Seconds before the next start, after so many in close succession."""
    return min(longest, PAUSE_SECONDS * 2 ** min(restarts - 1, _DOUBLINGS_MAX)) if restarts else 0.0
