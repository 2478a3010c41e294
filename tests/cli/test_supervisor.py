"""
Who is started again when: at once the first time, and then more and more slowly.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from processor.errors import ServerError
from teller.up import supervisor as supervision
from teller.up.signals import Signals
from teller.up.supervisor import Process, Supervisor


class Clock:
    """Time that passes when the test says so, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        """What the supervisor takes for the time."""
        return self.now


@dataclass
class Server:
    """Something to be kept, that dies when the test says so."""

    clock: Clock
    name: str = "server"
    pid: int | None = 0
    lives: bool = True
    starts: bool = True
    started_at: list[float] = field(default_factory=list)

    def alive(self) -> bool:
        """Until the test says otherwise."""
        return self.lives

    def start(self) -> None:
        """Notes when; and dies at once where it shall not start."""
        self.started_at.append(self.clock.now)
        if not self.starts:
            raise ServerError("it does not start")
        self.pid, self.lives = len(self.started_at), True


class GivesUp(Process):
    """A process of our own that ends with status 1 as soon as it is started."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("gives up", [], {})
        self.clock = clock
        self.started_at: list[float] = []

    @property
    def status(self) -> int:
        """It said why, and ended."""
        return 1

    def alive(self) -> bool:
        """Never for long."""
        return False

    def start(self) -> None:
        """Notes when."""
        self.started_at.append(self.clock.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """
    The supervisor's time.
    """
    made = Clock()
    monkeypatch.setattr(supervision, "time", made)
    return made


@pytest.fixture
def signals() -> Signals:
    """
    Without handlers of their own: the signals of this process belong to pytest.
    """
    made = object.__new__(Signals)
    made.stopping, made._interruptible = False, False
    return made


def run_for(kept: Supervisor, clock: Clock, seconds: float) -> None:
    """Let it look ten times a second."""
    for _ in range(round(10 * seconds)):
        kept.mend()
        clock.now += 0.1


def test_who_lived_long_is_started_again_at_once(clock: Clock, signals: Signals) -> None:
    """
    And who used to own something by its process id is told of.
    """
    server, told = Server(clock), []
    kept = Supervisor([server], signals, lambda died, pid: told.append((died, pid)))
    clock.now += 60
    server.lives = False

    kept.mend()

    assert server.started_at == [clock.now]
    assert told == [(server, 0)]


def test_who_is_killed_again_and_again_is_back_within_two_seconds(clock: Clock, signals: Signals) -> None:
    """
    The pauses grow, but a kill is no reason to give up on anybody.
    """
    server = Server(clock)
    kept = Supervisor([server], signals, lambda *_: None)

    for _ in range(200):
        server.lives = False
        run_for(kept, clock, 1.5)
        assert server.lives


def test_what_gives_up_by_itself_is_tried_more_and_more_slowly(clock: Clock, signals: Signals) -> None:
    """
    A minute of it is a handful of starts, not hundreds; the pauses never shrink, and stay below a limit.
    """
    process = GivesUp(clock)
    kept = Supervisor([process], signals, lambda *_: None)

    run_for(kept, clock, 60)

    pauses = [
        later - earlier for earlier, later in zip(process.started_at, process.started_at[1:], strict=False)
    ]
    assert 5 < len(process.started_at) < 15
    assert all(later > earlier - 0.11 for earlier, later in itertools.pairwise(pauses))
    assert max(pauses) < supervision.PAUSE_FAILED_SECONDS_MAX + 0.2


def test_a_server_that_does_not_start_holds_up_nobody(clock: Clock, signals: Signals) -> None:
    """
    It is tried again, more slowly, until it does; who dies meanwhile is started.
    """
    broken, other = Server(clock, name="broken", lives=False, starts=False), Server(clock)
    kept = Supervisor([broken, other], signals, lambda *_: None)

    run_for(kept, clock, 10)
    other.lives = False
    run_for(kept, clock, 1)
    assert other.lives
    assert len(broken.started_at) < 10

    broken.starts = True
    run_for(kept, clock, 11)
    assert broken.lives
