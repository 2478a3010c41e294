"""
Decisions: the result of one inbox row, as a value.

Pure. The rules (`processor/domain/rules`) make them, and the worksheet of a batch carries them out.
"""

from dataclasses import dataclass
from typing import Any

from processor.domain.model import RejectionCode, Resource, Stage


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
