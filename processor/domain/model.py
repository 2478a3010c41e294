"""
The words of Teller as types: requests, resources, ledger entries, and decisions as values.

Pure data. Rules (`processor/domain/rules`) read it, the ledger (`processor/domain/ledger`) changes resources.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

#: The largest quantity: what every JSON reader holds exactly.
MAX_QUANTITY: Final = 2**53 - 1

RequestKind = Literal[
    "redemption",
    "withdrawal",
    "deposit",
    "exchange",
    "reservation",
    "refund",
    "opening",
    "amendment",
    "closing",
]
ResourceKind = Literal["balance", "points", "stock", "coupon", "seat", "pool"]
EntryKind = Literal["hold", "capture", "release", "debit", "credit"]
Verb = Literal[
    "decide",
    "cancel",
    "settle",
    "replay",
    "expire",
    "confirm",
    "approve",
    "deny",
    "capture",
    "release",
    "report",
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
]

REQUEST_KINDS: Final[tuple[RequestKind, ...]] = RequestKind.__args__  # type: ignore[attr-defined]  # a Literal's words
RESOURCE_KINDS: Final[tuple[ResourceKind, ...]] = ResourceKind.__args__  # type: ignore[attr-defined]  # likewise
STATUSES: Final[tuple[Status, ...]] = Status.__args__  # type: ignore[attr-defined]  # likewise

#: The states a request never leaves by itself or by a replay (`completed` can still become `refunded`).
FINAL_STATUSES: Final = frozenset({"completed", "rejected", "refunded", "cancelled"})

#: Who decides what nobody in particular asked for.
TELLER: Final = "teller"

#: What "not enough left" is called, by the kind of the resource.
SHORTAGE: Final[dict[str, RejectionCode]] = {
    "balance": "insufficient_funds",
    "pool": "insufficient_funds",
    "points": "insufficient_points",
    "stock": "out_of_stock",
    "seat": "out_of_stock",
    "coupon": "fully_redeemed",
}


@dataclass(slots=True)
class Resource:
    """
    A limited thing as a batch holds it in memory. Quantities in whole units of the resource.

    `version` counts its ledger entries; `digest` and `last_entry_at` are those of the last one.
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


@dataclass(slots=True)
class Request:
    """What was asked, as far as deciding needs it. `refund_of` names the request that a refund gives back."""

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
    def quantity(self) -> int:
        """How much is asked for; kinds without an amount ask for nothing."""
        return self.amount or 0


class State(NamedTuple):
    """
    A state that a request has come to, as `decisions` keeps it. Its acceptance is version 1 and has none.

    Most states say no more than the first four fields: those after them have values only where there was
    more to it.
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

    @property
    def is_final(self) -> bool:
        """Nothing but a refund changes it any more."""
        return self.status in FINAL_STATUSES


class Effect(NamedTuple):
    """
    What a gateway was asked to do for a request, as the batch reads it. `calling`: a call is in
    flight; `armed`: it is still to be tried; `voided`: it must not be called any more.
    """

    request_id: UUID
    gateway: str
    outcome: Outcome | None
    reference: str | None
    reason: str | None
    calling: bool
    armed: bool
    voided: bool


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


# Decisions: the pure result of applying one inbox row. Each says what follows, none of them does it.


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rule said no; nothing is taken. `reason` is in words, of a person who said no."""

    code: RejectionCode
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Await:
    """Nothing is taken before somebody says so: the account with a code, or another person."""

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
    """Set aside, until the gateway has answered."""

    quantity: int
    gateway: str


@dataclass(frozen=True, slots=True)
class Capture:
    """The gateway did it: what was held is taken for good. `reference` is the gateway's own."""

    reference: str | None


@dataclass(frozen=True, slots=True)
class Release:
    """What was held is back; the request is `refunded`. `reason` is in words, the gateway's or the admin's."""

    code: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Rearm:
    """The gateway is to be asked again, from the first try on; what is held stays held."""


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The gateway gave no answer that settles anything: the request waits for an admin, what is held stays held."""

    code: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class PaidAfterRefund:
    """The gateway did it after all, when what was held is back: nothing can be taken, and somebody must know."""

    reference: str | None


@dataclass(frozen=True, slots=True)
class GiveBack:
    """A refund of what was taken for good, or a part of it; `whole`: nothing of it is left then."""

    quantity: int
    whole: bool


@dataclass(frozen=True, slots=True)
class ReleaseHeld:
    """A refund of what is held for a request that could not be finished."""


@dataclass(frozen=True, slots=True)
class Open:
    """A resource comes into being, with what it has at first."""

    resource: Resource
    quantity: int


@dataclass(frozen=True, slots=True)
class Amend:
    """Some rules of the resource change; names and values of the changed fields."""

    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Close:
    """The resource takes no more requests."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Withdrawn before anything was taken. `reason` is in words, of the operator who withdrew it."""

    code: str
    detail: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Park:
    """It could not be finished: an admin replays or refunds it. `trace` is for admins alone."""

    code: str
    trace: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """The row came too late or twice: nothing follows."""


Decision = (
    Rejected
    | Await
    | Debit
    | Credit
    | Hold
    | Capture
    | Release
    | Rearm
    | Unsettled
    | PaidAfterRefund
    | GiveBack
    | ReleaseHeld
    | Open
    | Amend
    | Close
    | Cancel
    | Park
    | Nothing
)
