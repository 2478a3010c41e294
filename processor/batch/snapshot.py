"""
The snapshot of a batch: its inbox rows, and everything that they can touch.

Pure data, between the database (`store`) and the decisions (`worksheet`).
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Self
from uuid import UUID

from processor.domain.model import TELLER, Canceller, Effect, Entry, Request, Reservation, Resource, State
from processor.domain.rules.daily_limits import DailyUsage

#: The key of an account's usage of a resource: (resource, client, account).
UsageKey = tuple[str, str, str]


def _text(payload: object, name: str) -> str | None:
    """Return a text of a payload. Another process than the API may have written anything."""
    value = payload.get(name) if isinstance(payload, dict) else None
    return value if isinstance(value, str) else None


class Row(NamedTuple):
    """One inbox row, with its request."""

    seq: int
    partition: int
    verb: str
    payload: dict[str, Any] | None
    request: Request
    #: Above 0, it only holds the place of its request in the partition of a later leg.
    leg: int = 0
    #: The place of the row in its table, as PostgreSQL sends it.
    ctid: bytes | None = None

    @property
    def actor(self) -> str:
        """The actor of the command; of an undecided request, Teller."""
        return _text(self.payload, "actor") or TELLER


class CancelCommand(NamedTuple):
    """A command to cancel, as its inbox row carries it."""

    actor: str
    by: Canceller
    reason: str | None

    @classmethod
    def of(cls, payload: dict[str, Any] | None) -> Self:
        """
        Read the payload of a row. Rows of the release before have no `by`: they count as the client's.
        """
        by: Canceller = "operator" if _text(payload, "by") == "operator" else "client"
        return cls(_text(payload, "actor") or TELLER, by, _text(payload, "reason"))


class Webhook(NamedTuple):
    """An address that receives a client's events. `events` are the types that are sent; None: all."""

    client_id: str
    id: UUID
    events: list[str] | None


class Delivery(NamedTuple):
    """One notification of a new state of a request, by webhook or by e-mail."""

    request_id: UUID
    version: int
    type: str
    webhook_id: UUID | None
    email: str | None


class Reserved(NamedTuple):
    """A reservation whose hold has begun. `quantity` is the sum of its legs, if it has any."""

    request_id: UUID
    partition: int
    expires_at: datetime
    quantity: int
    has_legs: bool


class Decided(NamedTuple):
    """A part of a worksheet: the entries and states of some rows."""

    entries: list[Entry]
    states: list[State]
    #: The states in the database that are no longer current, by request.
    superseded: dict[UUID, State]
    #: Those of `states` that a later one of them has replaced.
    outdated: list[State]
    #: Some of the entries are of later legs.
    has_legs: bool = False

    def is_current(self, state: State) -> bool:
        """Return whether no later state of the request is in this part."""
        return not self.outdated or all(state is not one for one in self.outdated)


@dataclass(slots=True)
class Snapshot:
    """The rows that the batch read, as its decisions have changed them so far."""

    resources: dict[str, Resource]
    usages: dict[UsageKey, int]
    #: The current states of requests that were decided before, in this batch or earlier.
    states: dict[UUID, State]
    #: The commands to cancel that wait in the inbox, by request: they count as soon as its turn comes.
    cancels: dict[UUID, CancelCommand]
    #: The home partitions of the resources of this batch, also of those that do not exist.
    homes: dict[str, int] = field(default_factory=dict)
    #: The quantities that accounts took on their last day, for resources with a daily limit.
    daily_usages: dict[UsageKey, DailyUsage] = field(default_factory=dict)
    #: The keys of usages and daily usages that were looked for and had no row.
    new_usages: set[UsageKey] = field(default_factory=set)
    new_daily_usages: set[UsageKey] = field(default_factory=set)
    #: The most that any account has used, of each resource whose per-account limit an amendment of this batch sets.
    most_used: dict[str, int] = field(default_factory=dict)
    #: The requests that the refunds of this batch give back.
    originals: dict[UUID, Request] = field(default_factory=dict)
    effects: dict[UUID, Effect] = field(default_factory=dict)
    #: Requests whose hold is neither captured nor released.
    holding: set[UUID] = field(default_factory=set)
    #: Those of them that are reservations.
    reservations: dict[UUID, Reservation] = field(default_factory=dict)
    webhooks: dict[str, list[Webhook]] = field(default_factory=dict)
    #: Requests that wait for a code whose lifetime is over.
    lapsed: set[UUID] = field(default_factory=set)
    #: E-mail addresses by (client, account).
    contacts: dict[tuple[str, str], str] = field(default_factory=dict)
