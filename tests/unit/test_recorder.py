"""
Outcomes are recorded as sets: one transaction each, retries, and sets that are dropped.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from processor.errors import DatabaseUnavailable
from workers.courier import recorder
from workers.courier.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest


def record(
    outcomes: list[tuple[int, str]], write: Callable[[list[tuple[int, str]]], Awaitable[None]]
) -> list[list[tuple[int, str]]]:
    """Record these outcomes. Returns the sets that were finished."""
    done: list[list[tuple[int, str]]] = []

    async def run() -> None:
        recording = Recorder(write, lambda outcome: outcome[0], done.append)
        for outcome in outcomes:
            recording.add(outcome)
        task = asyncio.create_task(recording.run())
        await asyncio.wait_for(recording.drained(), 5)
        task.cancel()

    asyncio.run(run())
    return done


def test_waiting_outcomes_are_written_as_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A set has a limit, keeps the order of arrival, and never holds two outcomes of one effect.
    """
    monkeypatch.setattr(recorder, "SET_SIZE", 3)

    async def write(_: list[tuple[int, str]]) -> None:
        pass

    outcomes = [(1, "a"), (2, "a"), (1, "b"), (3, "a"), (4, "a")]

    assert record(outcomes, write) == [[(1, "a"), (2, "a"), (3, "a")], [(1, "b"), (4, "a")]]


def test_a_set_is_retried_until_postgresql_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An outcome is retried until it is stored.
    """
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0.001)
    tries = 0

    async def write(_: list[tuple[int, str]]) -> None:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise DatabaseUnavailable("no connection")

    assert record([(1, "a")], write) == [[(1, "a")]]
    assert tries == 5


def test_a_set_that_cannot_be_written_does_not_stop_the_next() -> None:
    """
    The failed set is dropped. Its leases expire, and it is tried again under the same key.
    """
    written = []

    async def write(outcomes: list[tuple[int, str]]) -> None:
        if (1, "bad") in outcomes:
            raise ValueError("no such thing")
        written.extend(outcomes)

    assert record([(1, "bad"), (1, "good")], write) == [[(1, "bad")], [(1, "good")]]
    assert written == [(1, "good")]
