"""
The supervisor's restarts: the first is immediate, and repeated ones come after growing pauses.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from processor.errors import ServerError
from teller.up import supervisor as supervisor_module
from teller.up.signals import Signals
from teller.up.supervisor import Process, Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    """A clock that the test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        """The time for the supervisor."""
        return self.now


@dataclass
class Server:
    """A supervised server that dies when the test decides."""

    clock: Clock
    name: str = "server"
    pid: int | None = 0
    is_alive: bool = True
    starts: bool = True
    started_at: list[float] = field(default_factory=list)

    def alive(self) -> bool:
        """Return the state that the test has set."""
        return self.is_alive

    def start(self) -> None:
        """Record the time, and fail if the test decided so."""
        self.started_at.append(self.clock.now)
        if not self.starts:
            raise ServerError("it does not start")
        self.pid, self.is_alive = len(self.started_at), True


class GivesUp(Process):
    """A process of Teller that ends with status 1 immediately after each start."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("gives up", [], {})
        self.clock = clock
        self.started_at: list[float] = []

    @property
    def status(self) -> int:
        """The exit status of an error."""
        return 1

    def alive(self) -> bool:
        """Return False: it ends immediately."""
        return False

    def start(self) -> None:
        """Record the time."""
        self.started_at.append(self.clock.now)


class NoSignals(Signals):
    """Signals that set no handlers, because the signals of this process belong to pytest."""

    def __init__(self) -> None:
        self.stopping = False

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Run a block that no signal interrupts."""
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """
    The clock of the supervisor.
    """
    made = Clock()
    monkeypatch.setattr(supervisor_module, "time", made)
    return made


@pytest.fixture
def signals() -> Signals:
    """
    Signals without handlers.
    """
    return NoSignals()


def run_for(supervisor: Supervisor, clock: Clock, seconds: float) -> None:
    """Run the supervisor ten times a second."""
    for _ in range(round(10 * seconds)):
        supervisor.mend()
        clock.now += 0.1


def test_a_process_that_ran_long_is_restarted_at_once(clock: Clock, signals: Signals) -> None:
    """
    The first restart is immediate. The supervisor reports the process and its former process id.
    """
    server, reported = Server(clock), []
    supervisor = Supervisor([server], signals, lambda died, pid: reported.append((died, pid)))
    clock.now += 60
    server.is_alive = False

    supervisor.mend()

    assert server.started_at == [clock.now]
    assert reported == [(server, 0)]


def test_a_process_that_is_killed_repeatedly_is_back_within_two_seconds(
    clock: Clock, signals: Signals
) -> None:
    """
    The pauses grow, but stay short for a process that was killed.
    """
    server = Server(clock)
    supervisor = Supervisor([server], signals, lambda *_: None)

    for _ in range(200):
        server.is_alive = False
        run_for(supervisor, clock, 1.5)
        assert server.is_alive


def test_a_process_that_ends_by_itself_is_restarted_more_and_more_slowly(
    clock: Clock, signals: Signals
) -> None:
    """
    In a minute there are at most 14 starts. The pauses never shrink, and have an upper limit.
    """
    process = GivesUp(clock)
    supervisor = Supervisor([process], signals, lambda *_: None)

    run_for(supervisor, clock, 60)

    pauses = [
        later - earlier for earlier, later in zip(process.started_at, process.started_at[1:], strict=False)
    ]
    assert 5 < len(process.started_at) < 15
    assert all(later > earlier - 0.11 for earlier, later in itertools.pairwise(pauses))
    assert max(pauses) < supervisor_module.PAUSE_FAILED_SECONDS_MAX + 0.2


def test_a_server_that_does_not_start_delays_no_other(clock: Clock, signals: Signals) -> None:
    """
    A server that does not start is tried again after growing pauses. A process that dies meanwhile is restarted.
    """
    broken, other = Server(clock, name="broken", is_alive=False, starts=False), Server(clock)
    supervisor = Supervisor([broken, other], signals, lambda *_: None)

    run_for(supervisor, clock, 10)
    other.is_alive = False
    run_for(supervisor, clock, 1)
    assert other.is_alive
    assert len(broken.started_at) < 10

    broken.starts = True
    run_for(supervisor, clock, 11)
    assert broken.is_alive
