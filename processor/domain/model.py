"""
The words of Teller as types: requests, resources, ledger entries, and decisions as values.

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


# Decisions: the result of one inbox row, as a value. The worksheet carries it out.


@dataclass(frozen=True, slots=True)
class Rejected:
    """
    A rule refused it; nothing is taken.

    `reason` is the text of an approver who denied it, and `leg` is the leg that the rule refused.
    """

    code: RejectionCode
    reason: str | None = None
    leg: int | None = None


@dataclass(frozen=True, slots=True)
class Await:
    """Nothing is taken before the account confirms with a code, or an approver approves."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class Debit:
    """Taken at once, for good."""

    quantity: int


@dataclass(frozen=True, slots=True)
class Credit:
    """Given."""

    quantity: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Set aside until the gateway has answered."""

    quantity: int
    gateway: str


@dataclass(frozen=True, slots=True)
class Reserve:
    """Set aside until a capture or release, for at most this time."""

    quantity: int
    seconds: int


@dataclass(frozen=True, slots=True)
class ReserveLegs:
    """Every leg of a request is set aside until a capture or release of all, for at most this time."""

    seconds: int


@dataclass(frozen=True, slots=True)
class AskGateway:
    """A reservation is captured: its gateway is called. The hold stays until the answer."""

    gateway: str


@dataclass(frozen=True, slots=True)
class KeepHeld:
    """A failed reservation is held again, until its client captures or releases it, or its time is over."""


@dataclass(frozen=True, slots=True)
class EndHold:
    """The hold of a reservation is given back, and the request is `cancelled`."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Capture:
    """
    The hold is taken for good. `reference` is that of the gateway which performed it; None: no gateway was called.
    """

    reference: str | None


@dataclass(frozen=True, slots=True)
class Release:
    """The hold is given back, and the request is `refunded`. `reason` is the gateway's text."""

    code: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class RetryEffect:
    """The gateway is called again, with all tries ahead. The hold stays."""


@dataclass(frozen=True, slots=True)
class Unsettled:
    """No answer of the gateway was definite: the request is `failed` until an operator acts. The hold stays."""

    code: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class PaidAfterRefund:
    """The gateway paid although the hold was given back. Nothing can be taken, and operators are alerted."""

    reference: str | None


@dataclass(frozen=True, slots=True)
class GiveBack:
    """A refund of a quantity that was taken for good. `whole`: nothing is left to refund after it."""

    quantity: int
    whole: bool


@dataclass(frozen=True, slots=True)
class ReleaseHeld:
    """A refund of the hold of a `failed` request."""


@dataclass(frozen=True, slots=True)
class Open:
    """The resource is created, with its first quantity."""

    resource: Resource
    quantity: int


@dataclass(frozen=True, slots=True)
class Move:
    """All legs of a request: some of each resource is taken or given, at once and for good."""


@dataclass(frozen=True, slots=True)
class GiveBackLegs:
    """A refund of a request with legs: each is undone. The refund has the legs that undo them."""


@dataclass(frozen=True, slots=True)
class Amend:
    """Some rules of the resource change: the names and values of its fields."""

    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Close:
    """The resource takes no more requests."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Withdrawn before anything was taken. `reason` is the text of the operator who withdrew it."""

    code: str
    detail: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """Deciding it raised an exception. An operator replays it. Clients never see `trace`."""

    code: str
    trace: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """The command came too late, or twice. It changes nothing."""


Decision = (
    Rejected
    | Await
    | Debit
    | Credit
    | Hold
    | Reserve
    | ReserveLegs
    | AskGateway
    | KeepHeld
    | EndHold
    | Capture
    | Release
    | RetryEffect
    | Unsettled
    | PaidAfterRefund
    | GiveBack
    | ReleaseHeld
    | Open
    | Move
    | GiveBackLegs
    | Amend
    | Close
    | Cancel
    | Fail
    | Nothing
)
