"""
Webhook deliveries: which are sent when, and how many at once.

Fair to the endpoints: each look takes a few of each one that waits and goes on behind them. An endpoint begins with
little room, has more with each quick success, and next to none after a failure; those that have not shown yet that
they answer share a part of the room, so that they never take the place of the others.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from processor.outbox import deliveries
from processor.outbox.deliveries import Told, WebhookDelivery
from workers.courier.database_thread import GATHER_SECONDS
from workers.courier.recorder import Recorder
from workers.courier.webhook_client import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from uuid import UUID

    from workers.courier.database_thread import Line
    from workers.courier.webhook_client import Poster

#: Deliveries under way at once.
AT_ONCE: Final = 1_024
#: … to one endpoint that nothing is known of, or that is slow.
FIRST_AT_ONCE: Final = 4
#: … to one that has answered well; one more for each success up to here.
GOOD_AT_ONCE: Final = 64
#: … to one whose last try failed.
FAILED_AT_ONCE: Final = 1
#: … to all together that have no more than FIRST_AT_ONCE.
ALL_UNPROVEN_AT_ONCE: Final = AT_ONCE // 2
#: A success that took longer is none for this, in seconds.
SLOW_SECONDS: Final = 1.0
#: Endpoints of which is remembered how they answer; the oldest are forgotten first.
REMEMBERED_MAX: Final = 10_000

log = structlog.get_logger(__name__)


class Webhooks:
    """What is to be delivered, and what is under way."""

    def __init__(self, poster: Poster, claims: Line, records: Line) -> None:
        self._poster = poster
        self._claims = claims
        self._records = records
        self._after = deliveries.FIRST
        #: When the first delivery is due that was seen since the endpoints were begun with, in seconds.
        self._soonest = math.inf
        self._under_way: Counter[UUID] = Counter()
        #: How many may be under way to each endpoint that was called before.
        self._limits: dict[UUID, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Set when it is worth looking again.
        self.woken = asyncio.Event()
        self.recorder: Recorder[Told] = Recorder(self._write, lambda told: told.delivery.id, self._written)

    async def look(self) -> float:
        """
        Begin what is due and has room, among some of the endpoints; the next look goes on behind these. Returns in
        how many seconds there may be more. Raises DatabaseUnavailable.
        """
        if self._after == deliveries.FIRST:
            self._soonest = math.inf
        unfolded = await self._claims.run(deliveries.unfold)
        endpoints = await self._claims.run(deliveries.due_endpoints, self._after)
        is_last = len(endpoints) < deliveries.ENDPOINTS_PER_LOOK
        self._after = deliveries.FIRST if is_last else next(reversed(endpoints))
        began = 0
        if rooms := self._rooms([endpoint for endpoint, seconds in endpoints.items() if seconds <= 0]):
            began = await self._begin(rooms)
        soonest = min((seconds for seconds in endpoints.values() if seconds > 0), default=math.inf)
        self._soonest = GATHER_SECONDS if began or unfolded else min(self._soonest, soonest)
        if is_last:
            return self._soonest
        return GATHER_SECONDS

    async def finished(self) -> None:
        """Wait until nothing is under way and all outcomes are recorded."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.recorder.drained()

    async def _begin(self, rooms: dict[UUID, int]) -> int:
        claimed = await self._claims.run(deliveries.claim_webhooks, rooms, TIMEOUT_SECONDS)
        for delivery in claimed:
            self._under_way[delivery.webhook_id] += 1
            task = asyncio.create_task(self._deliver(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(claimed)

    def _rooms(self, endpoints: list[UUID]) -> dict[UUID, int]:
        """How many of each may be begun."""
        free = AT_ONCE - self._under_way.total()
        unproven = sum(count for endpoint, count in self._under_way.items() if not self._is_proven(endpoint))
        free_unproven = ALL_UNPROVEN_AT_ONCE - unproven
        rooms: dict[UUID, int] = {}
        for endpoint in endpoints:
            room = min(self._limits.get(endpoint, FIRST_AT_ONCE) - self._under_way[endpoint], free)
            if not self._is_proven(endpoint):
                room = min(room, free_unproven)
                free_unproven -= max(0, room)
            if room > 0:
                rooms[endpoint] = room
                free -= room
        return rooms

    def _is_proven(self, endpoint: UUID) -> bool:
        return self._limits.get(endpoint, 0) > FIRST_AT_ONCE

    def _learn(self, endpoint: UUID, *, is_success: bool, seconds: float) -> None:
        limit = self._limits.get(endpoint, FIRST_AT_ONCE)
        if not is_success:
            limit = FAILED_AT_ONCE
        else:
            limit = min(limit + 1, GOOD_AT_ONCE if seconds <= SLOW_SECONDS else FIRST_AT_ONCE)
        self._limits[endpoint] = limit
        if len(self._limits) > REMEMBERED_MAX:
            del self._limits[next(iter(self._limits))]

    async def _deliver(self, delivery: WebhookDelivery) -> None:
        began = time.monotonic()
        told = await self._poster.post(delivery)
        seconds = time.monotonic() - began
        self._learn(delivery.webhook_id, is_success=told.status == "delivered", seconds=seconds)
        self.recorder.add(told)
        log.info(
            "webhook_delivered" if told.status == "delivered" else "webhook_not_delivered",
            delivery=delivery.id,
            webhook=str(delivery.webhook_id),
            message=delivery.message_id,
            type=delivery.type,
            status=told.http_status,
            tries=delivery.tries,
            error=told.error,
            again_in_s=told.pause_seconds,
            duration_ms=round(seconds * 1_000),
        )

    # ------------------------------------------------------------ recording

    async def _write(self, tries: list[Told]) -> None:
        await self._records.run(deliveries.record, tries)

    def _written(self, tries: list[Told]) -> None:
        for told in tries:
            if isinstance(told.delivery, WebhookDelivery):
                self._under_way[told.delivery.webhook_id] -= 1
        self._under_way += Counter()  # forgets those that are at zero
        self.woken.set()
