"""
The right result for a resource on which one request runs after the other.

It follows the published rules in a few lines, and shares nothing with the code that it judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tests.faults.history import Entry, Leg, Stored

#: Codes for "not enough left", by kind of resource.
SHORT = {
    "balance": "insufficient_funds",
    "pool": "insufficient_funds",
    "points": "insufficient_points",
    "stock": "out_of_stock",
    "seat": "out_of_stock",
    "coupon": "fully_redeemed",
}
#: Changes of the available and the held quantity, by kind of entry.
MOVES = {"hold": (-1, 1), "capture": (0, -1), "release": (1, -1), "debit": (-1, 0), "credit": (1, 0)}
TAKING = ("redemption", "withdrawal", "reservation")
LARGEST = 2**53 - 1


class Verdict(NamedTuple):
    """
    The required result: an entry of this kind and amount, or none, and the code of a refusal.

    `also` is a second possible code. It depends on a gateway's open call, of which no record remains.
    """

    entry: str | None = None
    amount: int = 0
    code: str | None = None
    also: str | None = None


@dataclass(slots=True)
class Account:
    """Amounts of a request so far: held, taken for good, given back."""

    held: int = 0
    taken: int = 0
    back: int = 0


@dataclass(slots=True)
class Model:
    """One resource in the state after the entries and decisions so far."""

    requests: dict[str, Stored]
    name: str = ""
    is_open: bool = False
    closed: bool = False
    kind: str = ""
    rules: dict[str, Any] = field(default_factory=dict)
    available: int = 0
    held: int = 0
    version: int = 0
    last_us: int = 0
    #: The amount that each client's account has taken or holds.
    used: dict[tuple[str, str | None], int] = field(default_factory=dict)
    #: Amounts by request.
    amounts: dict[str, Account] = field(default_factory=dict)

    def verdict(self, asked: Stored) -> Verdict:
        """Return the required result of this request now, or of its leg of this resource."""
        if asked.legs:
            return self._of_leg(asked)
        if asked.kind == "opening":
            if self.is_open:
                return Verdict(code="resource_exists")
            return Verdict("credit", asked.amount or 0) if asked.amount else Verdict()
        if asked.kind == "refund":
            return self._refund(asked)
        if not self.is_open or (asked.kind in TAKING and self._is_foreign(asked)):
            return Verdict(code="resource_not_found")
        if self.closed:
            return Verdict(code="resource_closed")
        if asked.kind in TAKING:
            return self._take(asked, asked.amount or 0)
        if asked.kind == "deposit":
            return self._credit(asked.amount or 0)
        if asked.kind == "amendment":
            return self._amend(asked.details)
        return Verdict()

    def note(self, asked: Stored) -> None:
        """Apply what a completed request changes besides quantities."""
        if asked.kind == "opening":
            self.is_open, self.rules = True, dict(asked.details)
            self.kind = self.rules.pop("kind")
        elif asked.kind == "amendment":
            self.rules |= asked.details
        elif asked.kind == "closing":
            self.closed = True

    def post(self, entry: Entry) -> None:
        """Apply an entry to the quantities, whether it was right or not."""
        moves = MOVES[entry.kind]
        self.version += 1
        self.available += moves[0] * entry.amount
        self.held += moves[1] * entry.amount
        self.last_us = max(self.last_us, entry.at_us)
        by = self.requests.get(entry.request)
        if by is None or by.kind not in (*TAKING, "refund", "exchange"):
            return
        original = self.requests.get(by.refund_of or "", by)
        if by.legs and (entry.kind == "credit") == (by.kind == "exchange"):
            return  # a leg that gives is no usage, and neither is its refund
        book = self.amounts.setdefault(original.id, Account())
        owner = (original.client, original.account)
        used = self.used.get(owner, 0)
        match entry.kind:
            case "hold":
                book.held += entry.amount
                used += entry.amount
            case "debit":
                book.taken += entry.amount
                used += entry.amount
            case "capture":
                book.held -= entry.amount
                book.taken += entry.amount
            case "release":
                book.held -= entry.amount
                used -= entry.amount
            case "credit":
                book.back += entry.amount
                used -= entry.amount
        self.used[owner] = used

    @property
    def _overdraft(self) -> int:
        overdraft: int = self.rules.get("overdraft", 0)
        return overdraft

    def _credit(self, amount: int) -> Verdict:
        if self.available + self.held + amount > LARGEST:
            return Verdict(code="too_large")
        return Verdict("credit", amount)

    def _amend(self, rules: dict[str, Any]) -> Verdict:
        is_overdrawn = self.available < -rules.get("overdraft", self._overdraft)
        limit = rules.get("per_account_limit")
        is_used_up = limit is not None and max(self.used.values(), default=0) > limit
        return Verdict(code="invalid_amendment") if is_overdrawn or is_used_up else Verdict()

    def _of_leg(self, asked: Stored) -> Verdict:
        [leg] = [leg for leg in asked.legs if leg.resource == self.name]
        return self._undo(leg) if asked.kind == "refund" else self._exchange(asked, leg)

    def _exchange(self, asked: Stored, leg: Leg) -> Verdict:
        if not self.is_open or self._is_foreign(asked):
            return Verdict(code="resource_not_found")
        if self.closed:
            return Verdict(code="resource_closed")
        if self.rules.get("gateway"):
            return Verdict(code="not_exchangeable")
        if leg.give is None:
            return self._take(asked, leg.take or 0)
        if self._is_late(asked):
            return Verdict(code="deadline_passed")
        return self._credit(leg.give)

    def _is_foreign(self, asked: Stored) -> bool:
        return self.rules.get("client") not in (None, asked.client)

    def _undo(self, leg: Leg) -> Verdict:
        """Return the result of a leg of a refund."""
        if leg.take is None:
            return self._credit(leg.give or 0)
        if self.available - leg.take < -self._overdraft:
            return Verdict(code=SHORT[self.kind])
        return Verdict("debit", leg.take)

    def _is_late(self, asked: Stored) -> bool:
        deadline = asked.apply_before_us
        return deadline is not None and asked.states[0].decided_us >= deadline

    def _take(self, asked: Stored, amount: int) -> Verdict:
        if self._is_late(asked):
            return Verdict(code="deadline_passed")
        limit = self.rules.get("per_account_limit")
        if limit is not None and self.used.get((asked.client, asked.account), 0) + amount > limit:
            return Verdict(code="limit_reached")
        if self.available - amount < -self._overdraft:
            return Verdict(code=SHORT[self.kind])
        holds = asked.kind == "reservation" or bool(self.rules.get("gateway"))
        if holds and self.held + amount > LARGEST:
            return Verdict(code="too_large")
        return Verdict("hold" if holds else "debit", amount)

    def _refund(self, asked: Stored) -> Verdict:
        original = self.requests.get(asked.refund_of or "")
        if original is None or original.kind not in TAKING:
            return Verdict(code="nothing_to_refund")
        book = self.amounts.get(original.id, Account())
        if book.held:
            if asked.amount is not None and asked.amount > book.held:
                return Verdict(code="refund_too_large", also="outcome_pending")
            if asked.amount is not None and asked.amount < book.held:
                return Verdict(code="outcome_pending")
            return Verdict("release", book.held, also="outcome_pending")
        left = book.taken - book.back
        if left <= 0:
            return Verdict(code="nothing_to_refund")
        if asked.amount is not None and asked.amount > left:
            return Verdict(code="refund_too_large")
        return self._credit(left if asked.amount is None else asked.amount)
