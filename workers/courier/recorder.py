"""
Writes what came of things as sets: what ends while the last set is being written, is the next one.

Never gives up while PostgreSQL is away: an outcome is worth waiting for. What cannot be written otherwise is dropped
with a line in the log; its lease runs out, and it is tried again under the same key.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import structlog

from processor.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

#: Outcomes written in one statement.
SET_SIZE: Final = 500
#: The pause after PostgreSQL did not answer, in seconds.
RETRY_SECONDS: Final = 0.2

log = structlog.get_logger(__name__)

Outcome = TypeVar("Outcome")


class Recorder(Generic[Outcome]):
    """
    `write` writes a set, in which no two have the same `key`; `written` is called after each set, with what was in
    it, also when it was dropped.
    """

    def __init__(
        self,
        write: Callable[[list[Outcome]], Awaitable[None]],
        key: Callable[[Outcome], Hashable],
        written: Callable[[list[Outcome]], None],
    ) -> None:
        self._write = write
        self._key = key
        self._written = written
        self._waiting: list[Outcome] = []
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, outcome: Outcome) -> None:
        """To be written soon."""
        self._waiting.append(outcome)
        self._idle.clear()
        self._changed.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while chosen := self._next_set():
                await self._persist(chosen)
                self._written(chosen)
            self._idle.set()

    async def drained(self) -> None:
        """Wait until all is written."""
        await self._idle.wait()

    def _next_set(self) -> list[Outcome]:
        chosen: dict[Hashable, Outcome] = {}
        left: list[Outcome] = []
        for outcome in self._waiting:
            if len(chosen) < SET_SIZE and self._key(outcome) not in chosen:
                chosen[self._key(outcome)] = outcome
            else:
                left.append(outcome)
        self._waiting = left
        return list(chosen.values())

    async def _persist(self, chosen: list[Outcome]) -> None:
        away_since: float | None = None
        while True:
            try:
                await self._write(chosen)
            except DatabaseUnavailable as fault:
                if away_since is None:
                    away_since = time.monotonic()
                    log.warning("outcomes_wait", count=len(chosen), fault=str(fault))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("outcomes_dropped", count=len(chosen))
                return
            else:
                if away_since is not None:
                    log.info(
                        "outcomes_recorded",
                        count=len(chosen),
                        waited_s=round(time.monotonic() - away_since, 1),
                    )
                return
