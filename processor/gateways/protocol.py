"""
What a gateway is: something outside that pays out or fulfils, asked for one request at a time.

A gateway of one's own is a class with these two methods, and an entry point of group `teller.gateways` that names
it: the entry point's name is what a resource's `gateway` says, and calling it without arguments makes the gateway.
"""

from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from processor.domain.model import Outcome


@dataclass(frozen=True, slots=True)
class Order:
    """
    What is to be done. `request_id` is the idempotency key: the same order may come several times, also at the same
    time, and must be done once. `amount` in whole units of the resource (money: minor units).
    """

    request_id: UUID
    kind: str
    account: str | None
    resource: str
    amount: int | None
    destination: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What came of it: `done`; `declined`, a definite no, nothing was or will be done; `misconfigured`, it is we who
    are wrong and trying again is pointless; `unknown`, it may or may not have been done.

    `reference` is the gateway's name for what it did; `reason` may be shown to the client; `error` is for admins.
    """

    outcome: Outcome
    status: int | None = None
    reference: str | None = None
    reason: str | None = None
    error: str | None = None


class Gateway(Protocol):
    """
    Made inside the courier's event loop. `perform` must not block it (a blocking library goes through
    `asyncio.to_thread`), is cancelled after TELLER_GATEWAY_TIMEOUT_SECONDS, and an exception counts as `unknown`.
    """

    async def perform(self, order: Order) -> Answer:
        """Do it, or find that it is done; at most once for each `order.request_id`."""

    async def close(self) -> None:
        """The courier ends."""
