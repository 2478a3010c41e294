"""
Gateway calls: claim effects that are due, call their gateways, record the answers, notify the partitions.

The claim commits an attempt before its call. One transaction records the answer together with the `settle` row that
the batch applies. A courier that dies between the two leaves a lease that expires. The next call has the same key.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import structlog

from processor.gateways.http import describe
from processor.gateways.protocol import Answer, storable
from processor.outbox import gateway_calls
from processor.outbox.gateway_calls import CallResult
from workers.courier.sender import BLOCKED_SECONDS, GATHER_SECONDS, Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from uuid import UUID

    from processor.gateways.protocol import Gateway
    from processor.outbox.gateway_calls import ClaimedEffect
    from processor.storage.connections import Connection
    from workers.courier.database_thread import DatabaseThread

log = structlog.get_logger(__name__)


class GatewayResult(NamedTuple):
    """The name of a gateway, and the result of a call."""

    gateway: str
    result: CallResult


class GatewayCalls(Sender[GatewayResult]):
    """
    Calls gateways, many at once.

    `call_tries`, `first_pause_seconds` and `timeout_seconds` are the settings of gateways. `notify` receives the
    partitions that have new `settle` rows.
    """

    def __init__(
        self,
        gateways: Mapping[str, Gateway],
        claims: DatabaseThread,
        records: DatabaseThread,
        *,
        call_tries: int,
        first_pause_seconds: float,
        timeout_seconds: float,
        notify: Callable[[Iterable[int]], None],
    ) -> None:
        super().__init__(claims, records)
        self._gateways = gateways
        self._call_tries = call_tries
        self._first_pause_seconds = first_pause_seconds
        self._timeout_seconds = timeout_seconds
        self._notify = notify
        self._introduced: set[str] = set()
        #: The calls of each gateway that were claimed here and whose results are not recorded yet.
        self._under_way: Counter[str] = Counter()

    async def _look(self) -> float:
        pauses: list[float] = []
        for gateway, seconds in (await self._claims.run(gateway_calls.due_gateways)).items():
            room = gateway_calls.CALLS_AT_ONCE - self._under_way[gateway]
            if seconds > 0:
                pauses.append(seconds)
            elif room > 0:  # else the next recorded result makes room, and sets `woken`
                begun = await self._begin(gateway, room)
                pauses.append(GATHER_SECONDS if begun else BLOCKED_SECONDS)
        return min(pauses, default=math.inf)

    async def _begin(self, gateway: str, room: int) -> int:
        if gateway not in self._introduced:
            await self._claims.run(gateway_calls.introduce, gateway)
            self._introduced.add(gateway)
        claim = await self._claims.run(
            gateway_calls.claim, gateway, room, self._call_tries, self._timeout_seconds
        )
        if not claim.effects and not claim.given_up:
            self._introduced.discard(gateway)  # a database that was restored from a backup may lack its row
        self._notify(claim.given_up)
        for effect in claim.effects:
            self._under_way[gateway] += 1
            self._start(self._call(gateway, effect))
        return len(claim.effects) + len(claim.given_up)

    async def _call(self, gateway: str, effect: ClaimedEffect) -> None:
        began = time.monotonic()
        answer = await self._perform(gateway, effect)
        again = answer.outcome == "unknown" and effect.tries < self._call_tries
        pause = gateway_calls.pause_before_retry(effect.tries, self._first_pause_seconds) if again else None
        self.recorder.add(GatewayResult(gateway, CallResult(effect, answer, pause)))
        log.info(
            "gateway_called",
            gateway=gateway,
            request=str(effect.order.request_id),
            outcome=answer.outcome,
            status=answer.status,
            tries=effect.tries,
            error=answer.error,
            again_in_s=None if pause is None else round(pause, 1),
            duration_ms=round((time.monotonic() - began) * 1_000),
        )

    async def _perform(self, name: str, effect: ClaimedEffect) -> Answer:
        gateway = self._gateways.get(name)
        if gateway is None:
            return Answer("misconfigured", reason="this gateway is no longer set up")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return storable(await gateway.perform(effect.order))
        except TimeoutError:
            return Answer("unknown", reason=f"no answer within {self._timeout_seconds:g} s", error="timeout")
        except Exception as fault:
            log.exception("gateway_fault", gateway=name)
            return Answer("unknown", reason="no valid answer", error=describe(fault))

    async def _record(self, results: list[GatewayResult]) -> None:
        recorded = await self._records.run(gateway_calls.record, [one.result for one in results])
        self._notify(recorded.partitions)
        for request in recorded.contradicted:
            log.error("paid_after_refund", request=str(request), detail="the gateway said no before")
        for gateway in {one.gateway for one in results}:
            await self._records.run(
                _count_unknowns, gateway, [one.result for one in results if one.gateway == gateway]
            )

    def _key(self, result: GatewayResult) -> tuple[UUID, int]:
        """
        Return the effect of a result, so that one transaction records at most one result for each effect.

        An effect has two results if a call is answered after its lease expired.
        """
        effect = result.result.effect
        return effect.order.request_id, effect.leg

    def _after_record(self, results: list[GatewayResult]) -> None:
        self._under_way.subtract(one.gateway for one in results)
        self.woken.set()


def _count_unknowns(connection: Connection, gateway: str, results: list[CallResult]) -> None:
    change = gateway_calls.count_unknowns(connection, gateway, results)
    if change == (False, True):
        log.warning("gateway_breaker_opened", gateway=gateway, for_s=gateway_calls.BREAKER_OPEN_SECONDS)
    elif change == (True, False):
        log.info("gateway_breaker_closed", gateway=gateway)
