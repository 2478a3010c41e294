"""
Refusals that a client repeats without a pause are answered late, up to a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from api.web import holds
from api.web.holds import PER_SECOND, SECONDS_MAX, Holds

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """A clock that stands still until it is set. Sleeps are recorded."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []
        self.during_sleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Record a sleep."""
        self.slept.append(seconds)
        self.during_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the module."""
    clock = Clock()
    monkeypatch.setattr(holds, "time", clock)
    return clock


def test_a_second_has_a_number_of_refusals_and_the_others_are_later(clock: Clock) -> None:
    """
    Those beyond the number of one second are due one after the other, at most a second later. Clients count alone.
    """
    held = Holds()
    for _ in range(PER_SECOND):
        held.hold("greedy")
    assert clock.slept == []

    for _ in range(3 * PER_SECOND):
        held.hold("greedy")
    held.hold("other")
    assert clock.slept[:3] == pytest.approx([1 / PER_SECOND, 2 / PER_SECOND, 3 / PER_SECOND], abs=0.011)
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == pytest.approx(SECONDS_MAX)

    count = len(clock.slept)
    clock.now += 2 * SECONDS_MAX
    held.hold("greedy")
    assert len(clock.slept) == count


def test_the_number_of_holds_is_limited(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Beyond it, refusals are answered at once, since each hold has a thread.
    """
    monkeypatch.setattr(holds, "HOLDS_MAX", 20)
    held = Holds()
    depth = 0

    def hold_another() -> None:
        nonlocal depth
        depth += 1
        held.hold("greedy")

    for _ in range(2 * PER_SECOND):
        held.hold("greedy")
    clock.slept.clear()
    clock.during_sleep = hold_another
    held.hold("greedy")

    assert (depth, len(clock.slept)) == (20, 20)
