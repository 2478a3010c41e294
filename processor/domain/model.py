"""
The words of Teller as types: requests, resources, states, effects, holds and ledger entries.

Pure data. The rules (`processor/domain/rules`) read it, and the ledger (`processor/domain/ledger`) changes resources.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from processor.domain.amounts import Unit
from processor.domain.legs import Leg, legs_of

#: The largest quantity: every JSON reader holds it exactly.
MAX_QUANTITY: Final = 2**53 - 1

ResourceKind = Literal["balance", "points", "stock", "coupon", "seat", "pool"]
EntryKind = Literal["hold", "capture", "release", "debit", "credit"]
#: The command that an inbox row carries for its request.
Verb = Literal[
    "decide", "cancel", "settle", "replay", "expire", "confirm", "approve", "deny", "capture", "release"
]
Status = Literal["processing", "completed", "rejected", "refunded", "cancelled", "failed"]
Stage = Literal["awaiting_confirmation", "awaiting_approval", "queued", "held", "settling"]
Outcome = Literal["done", "declined", "misconfigured", "unknown"]
#: The side that withdrew a request.
Canceller = Literal["client", "operator"]
RejectionCode = Literal[
    "resource_not_found",
    "resource_closed",
    "not_started",
    "ended",
    "insufficient_funds",
    "insufficient_points",
    "out_of_stock",
    "fully_redeemed",
    "limit_reached",
    "deadline_passed",
    "denied",
    "no_contact",
    "resource_exists",
    "too_large",
    "nothing_to_refund",
    "refund_too_large",
    "outcome_pending",
    "invalid_amendment",
    "daily_limit_reached",
    "not_exchangeable",
]

STATUSES: Final[tuple[Status, ...]] = Status.__args__  # type: ignore[attr-defined]  # a Literal's words

#: The statuses that no replay changes. A refund changes `completed`, and nothing changes the others.
FINAL_STATUSES: Final = frozenset({"completed", "rejected", "refunded", "cancelled"})

#: The actor of a decision that no command asked for.
TELLER: Final = "teller"

#: The rejection code of a request that exceeds the available quantity, by the kind of the resource.
SHORTAGE: Final[dict[str, RejectionCode]] = {
    "balance": "insufficient_funds",
    "pool": "insufficient_funds",
    "points": "insufficient_points",
    "stock": "out_of_stock",
    "seat": "out_of_stock",
    "coupon": "fully_redeemed",
}


def event_of(status: str, refunded: int) -> str:
    """Return the type of the notification about a state of a request."""
    is_refunded_in_part = status == "completed" and refunded > 0
    return "request.partially_refunded" if is_refunded_in_part else f"request.{status}"


@dataclass(slots=True)
class Resource:
    """
    A limited thing in the memory of a batch. Its quantities are in whole units of the resource.

    `version` counts its ledger entries; `digest` and `last_entry_at` belong to the last one.
    """

    id: str
    kind: str
    available: int
    created_at: datetime
    unit: str | None = None
    client_id: str | None = None
    held: int = 0
    version: int = 0
    overdraft: int = 0
    per_account_limit: int | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    gateway: str | None = None
    confirm_above: int | None = None
    approve_above: int | None = None
    metadata: dict[str, Any] | None = None
    closed_at: datetime | None = None
    digest: bytes = bytes(32)
    last_entry_at: datetime | None = None
    per_account_daily_limit: int | None = None
    #: How many digits of an amount stand behind the point where people read it.
    decimals: int = 0

    @property
    def written_unit(self) -> Unit:
        """The unit and the decimals of its amounts."""
        return Unit(self.unit, self.decimals)


@dataclass(slots=True)
class Request:
    """The fields of a request that its decision needs. A refund names the request that it gives back, `refund_of`."""

    id: UUID
    client_id: str
    kind: str
    resource_id: str
    account: str | None
    amount: int | None
    apply_before: datetime | None = None
    details: dict[str, Any] | None = None
    refund_of: UUID | None = None

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The legs of a request with several resources; else none."""
        return legs_of(self.details)

    @property
    def quantity(self) -> int:
        """The amount; 0 for kinds without one."""
        return self.amount or 0

    def of_leg(self, leg: Leg) -> "Request":
        """Return this request as if it had the resource of one leg alone."""
        details = {name: value for name, value in (self.details or {}).items() if name != "legs"}
        return replace(self, resource_id=leg.resource_id, amount=leg.quantity, details=details)


class State(NamedTuple):
    """
    A state of a request, as a row of `decisions`. Version 1 is the acceptance, which has no such row.

    The first five fields are always set. Most states have the defaults in all others.
    """

    request_id: UUID
    status: str
    code: str | None
    sequence: int
    decided_at: datetime
    version: int = 2
    stage: str | None = None
    reason: str | None = None
    reference: str | None = None
    refunded: int = 0
    detail: str | None = None
    trace: str | None = None
    actor: str = TELLER
    #: The leg that the code is about.
    leg: int | None = None
    #: The quantity that a capture took of a reservation's hold; None for other kinds, and before.
    captured: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether only a refund can change it."""
        return self.status in FINAL_STATUSES


class Effect(NamedTuple):
    """
    The outside act of a request, which its gateway performs.

    `calling`: a call is in flight. `due`: a call is planned. `voided`: no further call may be made.
    """

    request_id: UUID
    gateway: str
    outcome: Outcome | None
    reference: str | None
    reason: str | None
    calling: bool
    due: bool
    voided: bool


class Reservation(NamedTuple):
    """
    The open hold of a reservation.

    A command that was accepted before `expires_at` counts, however late it is decided.
    """

    request_id: UUID
    expires_at: datetime
    #: `capture` or `release`, once the API has accepted one of them. It is final.
    command: str | None
    #: The quantity to capture; None: all of it.
    amount: int | None


class Entry(NamedTuple):
    """One immutable line of a resource's ledger, with the state after it."""

    resource_id: str
    version: int
    kind: EntryKind
    request_id: UUID
    account: str | None
    amount: int
    available: int
    held: int
    created_at: datetime
    digest: bytes
    leg: int = 0
