"""
The interface of a gateway: an outside system that pays out or fulfils one request with each call.

A package adds a gateway with a class that has the two methods of `Gateway`, and an entry point in the group
`teller.gateways`. The name of the entry point is the `gateway` of resources. The class is called without arguments.
"""

from dataclasses import dataclass
from typing import Any, Final, Protocol, get_args
from uuid import UUID

from processor.domain.model import Outcome
from processor.tracing import correlation
from processor.tracing.correlation import Correlation

#: The longest reference, reason or error that is kept, in characters.
TEXT_CHARACTERS_MAX: Final = 255
_OUTCOMES: Final = frozenset(get_args(Outcome))
#: The highest status that is kept.
STATUS_MAX: Final = 999


@dataclass(frozen=True, slots=True)
class Order:
    """
    An order to pay out or fulfil. `amount` is in whole units of the resource (money: minor units).

    `request_id` is the idempotency key. An order can arrive several times, also concurrently, and is performed once.
    """

    request_id: UUID
    kind: str
    account: str | None
    resource: str
    amount: int | None
    destination: str | None
    metadata: dict[str, Any]
    #: The HTTP call that made the request.
    correlation: Correlation = correlation.NONE


@dataclass(frozen=True, slots=True)
class Answer:
    """
    The answer to an order. `outcome` is one of:

    - `done`: the gateway has performed the order.
    - `declined`: it has not, and never will.
    - `misconfigured`: the key or the address is wrong, so another try is useless.
    - `unknown`: it may or may not have performed the order.

    `reference` is the gateway's own id of the payout. Clients see `reason`, and operators see `error`.
    """

    outcome: Outcome
    status: int | None = None
    reference: str | None = None
    reason: str | None = None
    error: str | None = None


def storable(answer: object) -> Answer:
    """
    Return an answer as it can be stored: known outcome, text of printable characters, status of at most three digits.

    Raises ValueError if it is no Answer, or has no known outcome.
    """
    if not isinstance(answer, Answer) or answer.outcome not in _OUTCOMES:
        raise ValueError("the gateway returned no Answer with a known outcome")
    is_status = isinstance(answer.status, int) and 0 <= answer.status <= STATUS_MAX
    return Answer(
        answer.outcome,
        answer.status if is_status else None,
        text_of(answer.reference),
        text_of(answer.reason),
        text_of(answer.error),
    )


def text_of(value: object) -> str | None:
    """
    Return the printable part of a text or number, at most TEXT_CHARACTERS_MAX of it.

    Returns None for any other value, and if nothing is left.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        text = str(value)
    except ValueError:  # Python writes no number of more than some thousand digits
        return None
    return "".join(filter(str.isprintable, text))[:TEXT_CHARACTERS_MAX].strip() or None


class Gateway(Protocol):
    """
    A gateway, made inside the courier's event loop.

    `perform` must not block the loop; a blocking library runs in `asyncio.to_thread`. It is cancelled after
    TELLER_GATEWAY_TIMEOUT_SECONDS. An exception counts as `unknown`.
    """

    async def perform(self, order: Order) -> Answer:
        """Perform the order unless it was performed before, at most once for each `order.request_id`."""

    async def close(self) -> None:
        """Release all resources, when the courier stops."""
