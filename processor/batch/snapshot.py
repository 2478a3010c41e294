"""
What a batch reads, as types: its inbox rows, and everything that they can touch.

Pure data, between the database (`worksheet_store`) and the decisions (`worksheet`).
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self
from uuid import UUID

from processor.domain.model import TELLER, Canceller, Effect, Entry, Request, Resource, State

#: What an account has used of a resource, by (resource, client, account).
UsageKey = tuple[str, str, str]


class Row(NamedTuple):
    """One inbox row, with the request that it is about."""

    seq: int
    verb: str
    payload: dict[str, Any] | None
    request: Request

    @property
    def actor(self) -> str:
        """The actor of the command; of an undecided request, Teller."""
        return TELLER if self.payload is None else self.payload.get("actor", TELLER)


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
        given = payload or {}
        by: Canceller = "operator" if given.get("by") == "operator" else "client"
        return cls(given.get("actor", TELLER), by, given.get("reason"))


class Webhook(NamedTuple):
    """Where a client wants to be told, and of what (None: of everything)."""

    client_id: str
    id: UUID
    events: list[str] | None


class Delivery(NamedTuple):
    """One who is to be told of a new state of a request: by webhook or by e-mail."""

    request_id: UUID
    version: int
    type: str
    webhook_id: UUID | None
    email: str | None


class Decided(NamedTuple):
    """The part of a worksheet that is written for each row."""

    entries: list[Entry]
    states: list[State]
    #: The states in the database that are not current any more, by request.
    superseded: dict[UUID, State]
    #: Those of `states` that are not current: a later one of them is.
    outdated: list[State]

    def is_current(self, state: State) -> bool:
        """Whether the request has come no further within this part."""
        return not self.outdated or all(state is not one for one in self.outdated)


@dataclass(slots=True)
class Snapshot:
    """What the batch read, and what its decisions have made of it so far."""

    resources: dict[str, Resource]
    usages: dict[UsageKey, int]
    #: The present state of the requests that were decided before, in this batch or earlier.
    states: dict[UUID, State]
    #: The commands to cancel that wait in the inbox, by request: they count as soon as its turn comes.
    cancels: dict[UUID, CancelCommand]
    #: What the refunds of this batch are to give back.
    originals: dict[UUID, Request] = field(default_factory=dict)
    effects: dict[UUID, Effect] = field(default_factory=dict)
    #: Requests whose hold is neither captured nor released.
    holding: set[UUID] = field(default_factory=set)
    webhooks: dict[str, list[Webhook]] = field(default_factory=dict)
    #: Requests that wait for a code whose time is over.
    lapsed: set[UUID] = field(default_factory=set)
    #: E-mail addresses by (client, account).
    contacts: dict[tuple[str, str], str] = field(default_factory=dict)
