"""
Webhook deliveries: which are sent now, and how many are under way to each endpoint.

It is fair to the endpoints. Each look claims some deliveries of each endpoint that has any, and the next look
continues behind them. An endpoint begins with little room, gains more with each quick success, and has room for one
delivery after a failure. The endpoints that are not proven yet share half of the room, so they never displace proven
ones.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from processor.errors import DatabaseUnavailable
from processor.outbox import deliveries
from processor.outbox.deliveries import BEFORE_FIRST, WebhookDelivery
from processor.outbox.tries import SendResult
from processor.tracing import spans
from workers.courier.sender import GATHER_SECONDS, Sender
from workers.courier.webhook_client import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from uuid import UUID

    from processor.tracing.spans import Span
    from workers.courier.database_thread import DatabaseThread
    from workers.courier.webhook_client import WebhookClient

#: The deliveries under way at once to all endpoints.
AT_ONCE: Final = 1_024
#: The deliveries under way at once to an endpoint that is new, or slow.
FIRST_AT_ONCE: Final = 4
#: The deliveries under way at once to a proven endpoint. Each quick success adds one, up to this number.
PROVEN_AT_ONCE: Final = 64
#: The deliveries under way at once to an endpoint whose last try failed.
FAILED_AT_ONCE: Final = 1
#: The deliveries under way at once to all endpoints that are not proven.
ALL_UNPROVEN_AT_ONCE: Final = AT_ONCE // 2
#: A success that takes longer does not prove an endpoint, in seconds.
SLOW_SECONDS: Final = 1.0
#: An endpoint that fails has one warning in this time, in seconds. Each try has a line at the level info.
WARN_SECONDS: Final = 60.0
#: The endpoints whose room is remembered. The oldest are forgotten first.
REMEMBERED_MAX: Final = 10_000

log = structlog.get_logger(__name__)


class WebhookDeliveries(Sender[SendResult[WebhookDelivery]]):
    """Delivers webhooks, many at once."""

    def __init__(
        self,
        client: WebhookClient,
        claims: DatabaseThread,
        records: DatabaseThread,
        background: DatabaseThread,
    ) -> None:
        super().__init__(claims, records)
        self._client = client
        self._background = background
        #: The webhooks whose deliveries are being ended.
        self._ending: set[UUID] = set()
        #: The last webhook whose fanout rows were expanded.
        self._expanded = BEFORE_FIRST
        #: The last endpoint of the look before.
        self._after = BEFORE_FIRST
        #: Seconds until the first delivery is due, among the endpoints since BEFORE_FIRST.
        self._soonest = math.inf
        self._under_way: Counter[UUID] = Counter()
        #: The deliveries that may be under way to each endpoint that was called before.
        self._limits: dict[UUID, int] = {}
        #: For each endpoint that fails, the time of its last warning and the failures since then.
        self._warned: dict[UUID, tuple[float, int]] = {}

    async def _look(self) -> float:
        if self._after == BEFORE_FIRST:
            self._soonest = math.inf
        has_expanded = await self._expand()
        endpoints = await self._claims.run(deliveries.due_endpoints, self._after)
        is_last = len(endpoints) < deliveries.ENDPOINTS_PER_LOOK
        self._after = BEFORE_FIRST if is_last else endpoints[-1].id
        if (ended := {one.id for one in endpoints if one.is_ended}) and not self._ending:
            self._ending = ended
            self._start(self._end(ended))
        begun = 0
        if room := self._room([one.id for one in endpoints if one.seconds <= 0 and not one.is_ended]):
            begun = await self._begin(room)
        soonest = min(
            (one.seconds for one in endpoints if one.seconds > 0 and not one.is_ended), default=math.inf
        )
        self._soonest = GATHER_SECONDS if begun or has_expanded else min(self._soonest, soonest)
        return self._soonest if is_last else GATHER_SECONDS

    async def _expand(self) -> bool:
        """Expand some fanout rows, behind the last ones. Returns whether there may be more."""
        began_first = self._expanded == BEFORE_FIRST
        expanded = await self._claims.run(deliveries.expand, self._expanded)
        self._expanded = expanded.last or BEFORE_FIRST
        return expanded.deliveries > 0 or not began_first

    async def _end(self, webhook_ids: set[UUID]) -> None:
        """End all deliveries of these webhooks, in parts with a pause as long as each took."""
        try:
            began = time.monotonic()
            while not self._is_stopping:
                count = await self._background.run(deliveries.end, list(webhook_ids))
                if not count:
                    break
                log.info("deliveries_ended", count=count)
                await asyncio.sleep(time.monotonic() - began)
                began = time.monotonic()
        except DatabaseUnavailable:
            pass  # a later look finds them again
        finally:
            self._ending = set()

    async def _begin(self, room: dict[UUID, int]) -> int:
        claimed = await self._claims.run(deliveries.claim_webhooks, room, TIMEOUT_SECONDS)
        for delivery in claimed:
            self._under_way[delivery.webhook_id] += 1
            self._start(self._deliver(delivery))
        return len(claimed)

    def _room(self, endpoints: list[UUID]) -> dict[UUID, int]:
        """Return how many deliveries to each endpoint may begin now."""
        free = AT_ONCE - self._under_way.total()
        unproven = sum(count for endpoint, count in self._under_way.items() if not self._is_proven(endpoint))
        free_unproven = ALL_UNPROVEN_AT_ONCE - unproven
        room: dict[UUID, int] = {}
        for endpoint in endpoints:
            count = min(self._limits.get(endpoint, FIRST_AT_ONCE) - self._under_way[endpoint], free)
            if not self._is_proven(endpoint):
                count = min(count, free_unproven)
                free_unproven -= max(0, count)
            if count > 0:
                room[endpoint] = count
                free -= count
        return room

    def _is_proven(self, endpoint: UUID) -> bool:
        return self._limits.get(endpoint, 0) > FIRST_AT_ONCE

    def _adjust_limit(self, endpoint: UUID, *, is_success: bool, seconds: float) -> None:
        limit = self._limits.get(endpoint, FIRST_AT_ONCE)
        if not is_success:
            limit = FAILED_AT_ONCE
        else:
            limit = min(limit + 1, PROVEN_AT_ONCE if seconds <= SLOW_SECONDS else FIRST_AT_ONCE)
        self._limits[endpoint] = limit
        if len(self._limits) > REMEMBERED_MAX:
            del self._limits[next(iter(self._limits))]

    async def _deliver(self, delivery: WebhookDelivery) -> None:
        began = time.monotonic()
        span = spans.start("client", f"deliver {delivery.type}", delivery.correlation)
        result = (await self._client.send(delivery._replace(correlation=span.correlation)))._replace(
            item=delivery
        )
        _end(span, result)
        seconds = time.monotonic() - began
        self._adjust_limit(delivery.webhook_id, is_success=result.is_sent, seconds=seconds)
        if not result.is_sent:
            self._warn(delivery, result.error)
        self.recorder.add(result)
        log.info(
            "webhook_delivered" if result.is_sent else "webhook_not_delivered",
            delivery=delivery.id,
            webhook=str(delivery.webhook_id),
            message=delivery.message_id,
            request=str(delivery.request.id),
            type=delivery.type,
            status=result.http_status,
            tries=delivery.tries,
            error=result.error,
            again_in_s=result.pause_seconds,
            duration_ms=round(seconds * 1_000),
            **delivery.correlation.log_fields(),
        )

    def _warn(self, delivery: WebhookDelivery, error: str | None) -> None:
        """Log a warning for an endpoint that fails, one in WARN_SECONDS, with the failures since the last one."""
        now = time.monotonic()
        since, failures = self._warned.pop(delivery.webhook_id, (-math.inf, 0))
        if now - since < WARN_SECONDS:
            self._warned[delivery.webhook_id] = since, failures + 1
            return
        self._warned[delivery.webhook_id] = now, 0
        if len(self._warned) > REMEMBERED_MAX:
            del self._warned[next(iter(self._warned))]
        log.warning(
            "webhook_failing",
            webhook=str(delivery.webhook_id),
            failures=failures + 1,
            error=error,
        )

    async def _record(self, results: list[SendResult[WebhookDelivery]]) -> None:
        await self._records.run(deliveries.record, results)

    def _key(self, result: SendResult[WebhookDelivery]) -> int:
        return result.item.id

    def _after_record(self, results: list[SendResult[WebhookDelivery]]) -> None:
        self._under_way.subtract(result.item.webhook_id for result in results)
        self._under_way += Counter()  # removes the endpoints that are at zero
        self.woken.set()


def _end(span: Span, result: SendResult[WebhookDelivery]) -> None:
    delivery = result.item
    attributes: spans.Attributes = {
        "teller.webhook": str(delivery.webhook_id),
        "teller.delivery": delivery.id,
        "teller.request": str(delivery.request.id),
        "teller.tries": delivery.tries,
    }
    if result.http_status is not None:
        attributes["http.response.status_code"] = result.http_status
    span.end(attributes, error=result.error)
