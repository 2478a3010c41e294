"""
Recording as sets: what is written together, what is written again, what is given up.
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
    """Record these; returns the sets that were done with."""
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


def test_what_waits_is_written_as_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Up to a limit, in the order in which it came; two outcomes of one thing are never in one set.
    """
    monkeypatch.setattr(recorder, "SET_SIZE", 3)

    async def write(_: list[tuple[int, str]]) -> None:
        pass

    outcomes = [(1, "a"), (2, "a"), (1, "b"), (3, "a"), (4, "a")]

    assert record(outcomes, write) == [[(1, "a"), (2, "a"), (3, "a")], [(1, "b"), (4, "a")]]


def test_a_set_is_written_again_until_postgresql_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An outcome is worth waiting for.
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
    It is dropped, its leases run out, and it is tried again under the same key.
    """
    written = []

    async def write(outcomes: list[tuple[int, str]]) -> None:
        if (1, "bad") in outcomes:
            raise ValueError("no such thing")
        written.extend(outcomes)

    assert record([(1, "bad"), (1, "good")], write) == [[(1, "bad")], [(1, "good")]]
    assert written == [(1, "good")]
