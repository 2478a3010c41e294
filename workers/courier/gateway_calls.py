"""
Gateway calls: claim effects that are due, call their gateways, record the answers, notify the partitions.

The claim commits an attempt before its call. One transaction records the answer together with the `settle` row that
the batch applies. A courier that dies between the two leaves a lease that expires. The next call has the same key.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import structlog

from processor.gateways.http import describe
from processor.gateways.protocol import Answer, storable
from processor.outbox import gateway_calls
from processor.outbox.gateway_calls import CallResult
from processor.tracing import spans
from workers.courier.sender import BLOCKED_SECONDS, GATHER_SECONDS, Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from uuid import UUID

    from processor.gateways.protocol import Gateway, Order
    from processor.outbox.gateway_calls import ClaimedEffect
    from processor.tracing.spans import Span
    from workers.courier.database_thread import DatabaseThread

log = structlog.get_logger(__name__)


class GatewayResult(NamedTuple):
    """The name of a gateway, and the result of a call."""

    gateway: str
    result: CallResult


class GatewayCalls(Sender[GatewayResult]):
    """
    Calls gateways, many at once.

    `calls_at_once` returns the limit of each gateway. `call_tries`, `first_pause_seconds` and `timeout_seconds` are
    the settings of gateways. `notify` receives the partitions that have new `settle` rows.
    """

    def __init__(
        self,
        gateways: Mapping[str, Gateway],
        claims: DatabaseThread,
        records: DatabaseThread,
        *,
        calls_at_once: Callable[[str], int],
        call_tries: int,
        first_pause_seconds: float,
        timeout_seconds: float,
        notify: Callable[[Iterable[int]], None],
    ) -> None:
        super().__init__(claims, records)
        self._gateways = gateways
        self._calls_at_once = calls_at_once
        self._call_tries = call_tries
        self._first_pause_seconds = first_pause_seconds
        self._timeout_seconds = timeout_seconds
        self._notify = notify
        self._introduced: set[str] = set()
        #: The last gateway and client of the look before.
        self._after = gateway_calls.BEFORE_FIRST
        #: The seconds until the next call may be made, among the clients since BEFORE_FIRST.
        self._soonest = math.inf
        #: The client of each gateway that the last claim served last. The next claim begins behind it.
        self._served: dict[str, str] = {}
        #: The calls of each gateway that were claimed here and whose results are not recorded yet.
        self._under_way: Counter[str] = Counter()

    async def _look(self) -> float:
        if self._after == gateway_calls.BEFORE_FIRST:
            self._soonest = math.inf
        waiting = await self._claims.run(gateway_calls.due_clients, self._after)
        is_last = len(waiting) < gateway_calls.CLIENTS_PER_LOOK
        self._after = gateway_calls.BEFORE_FIRST if is_last else (waiting[-1].gateway, waiting[-1].client)
        due: dict[str, list[str]] = {}
        for gateway, client, seconds in waiting:
            if seconds > 0:
                self._soonest = min(self._soonest, seconds)
            else:
                due.setdefault(gateway, []).append(client)
        for gateway, clients in due.items():
            room = self._calls_at_once(gateway) - self._under_way[gateway]
            if room > 0:  # else the next recorded result makes room, and sets `woken`
                begun = await self._begin(gateway, clients, room)
                self._soonest = min(self._soonest, GATHER_SECONDS if begun else BLOCKED_SECONDS)
        return self._soonest if is_last else GATHER_SECONDS

    async def _begin(self, gateway: str, clients: list[str], room: int) -> int:
        if gateway not in self._introduced:
            await self._claims.run(gateway_calls.introduce, gateway)
            self._introduced.add(gateway)
        in_turn = self._in_turn(gateway, clients)
        claim = await self._claims.run(
            functools.partial(
                gateway_calls.claim,
                gateway=gateway,
                clients=in_turn,
                room=room,
                calls_at_once=self._calls_at_once(gateway),
                tries=self._call_tries,
                timeout_seconds=self._timeout_seconds,
            )
        )
        if not claim.effects and not claim.given_up:
            self._introduced.discard(gateway)  # a database that was restored from a backup may lack its row
        self._notify(claim.given_up)
        for effect in claim.effects:
            self._under_way[gateway] += 1
            self._start(self._call(gateway, effect))
        self._served[gateway] = max({one.client for one in claim.effects}, key=in_turn.index, default="")
        return len(claim.effects) + len(claim.given_up)

    def _in_turn(self, gateway: str, clients: list[str]) -> list[str]:
        """Return the clients, beginning behind the one that was served last."""
        served = self._served.get(gateway, "")
        return sorted(clients, key=lambda client: (client <= served, client))

    async def _call(self, gateway: str, effect: ClaimedEffect) -> None:
        began = time.monotonic()
        span = spans.start("client", f"call {gateway}", effect.order.correlation)
        answer = await self._perform(gateway, replace(effect.order, correlation=span.correlation))
        _end(span, gateway, effect, answer)
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
            **effect.order.correlation.log_fields(),
        )

    async def _perform(self, name: str, order: Order) -> Answer:
        gateway = self._gateways.get(name)
        if gateway is None:
            return Answer("misconfigured", reason="this gateway is no longer set up")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return storable(await gateway.perform(order))
        except TimeoutError:
            return Answer("unknown", reason=f"no answer within {self._timeout_seconds:g} s", error="timeout")
        except Exception as fault:
            log.exception(
                "gateway_fault", gateway=name, request=str(order.request_id), **order.correlation.log_fields()
            )
            return Answer("unknown", reason="no valid answer", error=describe(fault))

    async def _record(self, results: list[GatewayResult]) -> None:
        recorded = await self._records.run(gateway_calls.record, [one.result for one in results])
        self._notify(recorded.partitions)
        orders = {one.result.effect.order.request_id: one.result.effect.order for one in results}
        for request in recorded.contradicted:
            log.error(
                "paid_after_refund",
                request=str(request),
                detail="the gateway said no before",
                **orders[request].correlation.log_fields(),
            )
        changes = await self._records.run(gateway_calls.count_unknowns, results)
        for gateway, client, was_open, is_open in changes:
            if is_open and not was_open:
                log.warning(
                    "gateway_breaker_opened",
                    gateway=gateway,
                    client=client,
                    for_s=gateway_calls.BREAKER_OPEN_SECONDS,
                )
            elif was_open and not is_open:
                log.info("gateway_breaker_closed", gateway=gateway, client=client)

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


def _end(span: Span, gateway: str, effect: ClaimedEffect, answer: Answer) -> None:
    attributes: spans.Attributes = {
        "teller.gateway": gateway,
        "teller.request": str(effect.order.request_id),
        "teller.outcome": answer.outcome,
        "teller.tries": effect.tries,
    }
    if answer.status is not None:
        attributes["http.response.status_code"] = answer.status
    is_answered = answer.outcome in ("done", "declined")
    span.end(attributes, error=None if is_answered else answer.error or answer.reason or answer.outcome)
