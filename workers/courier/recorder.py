"""
The recorder writes results as sets: the results that arrive while one set is written are the next set.

It waits for as long as PostgreSQL is unavailable. A set that PostgreSQL refuses is dropped and logged: its leases
expire, and its rows are sent again under the same key.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import structlog

from processor.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

#: The most results that one statement writes.
SET_SIZE: Final = 500
#: The pause after PostgreSQL was unavailable, in seconds.
RETRY_SECONDS: Final = 0.2

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


class Recorder(Generic[Result]):
    """
    `write` writes a set, in which no two results have the same `key`.

    `written` is called with each set that was written or dropped.
    """

    def __init__(
        self,
        write: Callable[[list[Result]], Awaitable[None]],
        key: Callable[[Result], Hashable],
        written: Callable[[list[Result]], None],
    ) -> None:
        self._write = write
        self._key = key
        self._written = written
        #: Called with each result, before it is queued.
        self.on_result: Callable[[Result], None] = lambda _: None
        self._waiting: list[Result] = []
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, result: Result) -> None:
        """Queue a result for the next set."""
        self.on_result(result)
        self._waiting.append(result)
        self._idle.clear()
        self._changed.set()

    async def run(self) -> None:
        """Write sets until the task is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while chosen := self._next_set():
                await self._persist(chosen)
                self._written(chosen)
            self._idle.set()

    async def drained(self) -> None:
        """Wait until no result is queued."""
        await self._idle.wait()

    def _next_set(self) -> list[Result]:
        chosen: dict[Hashable, Result] = {}
        left: list[Result] = []
        for result in self._waiting:
            if len(chosen) < SET_SIZE and self._key(result) not in chosen:
                chosen[self._key(result)] = result
            else:
                left.append(result)
        self._waiting = left
        return list(chosen.values())

    async def _persist(self, chosen: list[Result]) -> None:
        waiting_since: float | None = None
        while True:
            try:
                await self._write(chosen)
            except DatabaseUnavailable as fault:
                if waiting_since is None:
                    waiting_since = time.monotonic()
                    log.warning("outcomes_wait", count=len(chosen), fault=str(fault))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("outcomes_dropped", count=len(chosen))
                return
            else:
                if waiting_since is not None:
                    log.info(
                        "outcomes_recorded",
                        count=len(chosen),
                        waited_s=round(time.monotonic() - waiting_since, 1),
                    )
                return
