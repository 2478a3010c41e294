"""
The courier keeps the tables of deliveries and attempts small: rows older than their retention are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from processor.errors import DatabaseUnavailable
from processor.outbox import retention

if TYPE_CHECKING:
    from workers.courier.database_thread import DatabaseThread

log = structlog.get_logger()

#: The pause between two rounds, in seconds.
ROUND_SECONDS: Final = 60.0
#: The pause between two parts of a round, in seconds, so that sending is not slowed down.
PART_SECONDS: Final = 0.05


async def keep(thread: DatabaseThread, days: int, stop: asyncio.Event) -> None:
    """
    Remove what is older than its retention, round after round, until `stop` is set.
    """
    while not stop.is_set():
        try:
            await _round(thread, days, stop)
        except DatabaseUnavailable as fault:
            log.warning("retention_postponed", fault=str(fault))
        await _wait(stop, ROUND_SECONDS)


async def _round(thread: DatabaseThread, days: int, stop: asyncio.Event) -> None:
    removed = {"deliveries": 0, "attempts": 0}
    delivery: int | None = 0
    request: UUID | None = UUID(int=0)
    while delivery is not None and not stop.is_set():
        count, delivery = await thread.run(retention.remove_deliveries, days, delivery)
        removed["deliveries"] += count
        await _wait(stop, PART_SECONDS)
    while request is not None and not stop.is_set():
        count, request = await thread.run(retention.remove_attempts, days, request)
        removed["attempts"] += count
        await _wait(stop, PART_SECONDS)
    if any(removed.values()):
        log.info("retention_removed", **removed)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
