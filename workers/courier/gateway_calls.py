"""
Gateway calls: claim what is due, call, record the answer and what follows, ring the partition.

An attempt is committed before its call, and the answer is recorded in one transaction with the `settle` row that
tells the batch. A courier that dies at any point in between leaves a lease that runs out, and the next call has the
same key.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from processor.gateways.http import describe
from processor.gateways.protocol import Answer
from processor.outbox import gateway_calls
from processor.outbox.gateway_calls import Called, Claimed
from workers.courier.database_thread import GATHER_SECONDS
from workers.courier.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from uuid import UUID

    from processor.gateways.protocol import Gateway
    from processor.storage.connections import Connection
    from workers.courier.database_thread import Line

#: The rest when something is due that cannot be claimed: another courier is at it, or has all the room. In seconds.
BLOCKED_SECONDS: Final = 0.05

log = structlog.get_logger(__name__)


class Calls:
    """
    `call_tries`, `first_pause_seconds` and `timeout_seconds` as in the settings; `ring` tells workers that these
    partitions have work.
    """

    def __init__(
        self,
        gateways: Mapping[str, Gateway],
        claims: Line,
        records: Line,
        *,
        call_tries: int,
        first_pause_seconds: float,
        timeout_seconds: float,
        ring: Callable[[Iterable[int]], None],
    ) -> None:
        self._gateways = gateways
        self._claims = claims
        self._records = records
        self._call_tries = call_tries
        self._first_pause_seconds = first_pause_seconds
        self._timeout_seconds = timeout_seconds
        self._ring = ring
        self._introduced: set[str] = set()
        #: Calls of each gateway that were claimed here and whose outcome is not recorded yet.
        self._under_way: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Set when it is worth looking again.
        self.woken = asyncio.Event()
        self.recorder: Recorder[tuple[str, Called]] = Recorder(self._write, _effect, self._written)

    async def look(self) -> float:
        """
        Begin what is due and has room. Returns in how many seconds there may be more. Raises DatabaseUnavailable.
        """
        pauses: list[float] = []
        for gateway, seconds in (await self._claims.run(gateway_calls.due_gateways)).items():
            room = gateway_calls.CALLS_AT_ONCE - self._under_way[gateway]
            if seconds > 0:
                pauses.append(seconds)
            elif room > 0:  # else somebody who ends makes room, and sets `woken`
                began = await self._begin(gateway, room)
                pauses.append(GATHER_SECONDS if began else BLOCKED_SECONDS)
        return min(pauses, default=math.inf)

    async def finished(self) -> None:
        """Wait until no call is under way and all outcomes are recorded."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.recorder.drained()

    async def _begin(self, gateway: str, room: int) -> int:
        if gateway not in self._introduced:
            await self._claims.run(gateway_calls.introduce, gateway)
            self._introduced.add(gateway)
        claim = await self._claims.run(
            gateway_calls.claim, gateway, room, self._call_tries, self._timeout_seconds
        )
        if not claim.effects and not claim.given_up:
            self._introduced.discard(gateway)  # a database that was put back from a backup may not know it
        self._ring(claim.given_up)
        for claimed in claim.effects:
            self._under_way[gateway] += 1
            task = asyncio.create_task(self._call(gateway, claimed))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(claim.effects) + len(claim.given_up)

    async def _call(self, gateway: str, claimed: Claimed) -> None:
        began = time.monotonic()
        answer = await self._ask(gateway, claimed)
        again = answer.outcome == "unknown" and claimed.tries < self._call_tries
        pause = gateway_calls.pause_before_retry(claimed.tries, self._first_pause_seconds) if again else None
        self.recorder.add((gateway, Called(claimed, answer, pause)))
        log.info(
            "gateway_called",
            gateway=gateway,
            request=str(claimed.order.request_id),
            outcome=answer.outcome,
            status=answer.status,
            tries=claimed.tries,
            error=answer.error,
            again_in_s=None if pause is None else round(pause, 1),
            duration_ms=round((time.monotonic() - began) * 1_000),
        )

    async def _ask(self, gateway: str, claimed: Claimed) -> Answer:
        known = self._gateways.get(gateway)
        if known is None:
            return Answer("misconfigured", reason="this gateway is not set up any more")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await known.perform(claimed.order)
        except TimeoutError:
            return Answer("unknown", reason=f"no answer within {self._timeout_seconds:g} s", error="timeout")
        except Exception as fault:
            log.exception("gateway_fault", gateway=gateway)
            return Answer("unknown", reason="no valid answer", error=describe(fault))

    # ------------------------------------------------------------ recording

    async def _write(self, calls: list[tuple[str, Called]]) -> None:
        recorded = await self._records.run(gateway_calls.record, [called for _, called in calls])
        self._ring(recorded.partitions)
        for request in recorded.contradicted:
            log.error("paid_after_refund", request=str(request), detail="the gateway said no before")
        for gateway in {gateway for gateway, _ in calls}:
            await self._records.run(
                self._tell_breaker, gateway, [called for name, called in calls if name == gateway]
            )

    @staticmethod
    def _tell_breaker(connection: Connection, gateway: str, calls: list[Called]) -> None:
        moved = gateway_calls.count_unknowns(connection, gateway, calls)
        if moved == (False, True):
            log.warning("gateway_breaker_opened", gateway=gateway, for_s=gateway_calls.BREAKER_OPEN_SECONDS)
        elif moved == (True, False):
            log.info("gateway_breaker_closed", gateway=gateway)

    def _written(self, calls: list[tuple[str, Called]]) -> None:
        self._under_way.subtract(gateway for gateway, _ in calls)
        self.woken.set()


def _effect(outcome: tuple[str, Called]) -> tuple[UUID, int]:
    """An effect can be answered twice, by a call that was thought lost, too: never in one set."""
    claimed = outcome[1].claimed
    return claimed.order.request_id, claimed.leg
