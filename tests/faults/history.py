"""
The history of a run: the clients' requests and answers, and the data read back after its end.

It has only data, and its form in a file. Seconds are of the clients' monotonic clock, and microseconds are of
PostgreSQL's clock since 1970.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(slots=True)
class Try:
    """One sending of a request. Without an answer, `answered_at` is None and the outcome unknown."""

    sent_at: float
    answered_at: float | None = None
    #: HTTP status of the answer; of a batch, the item's own status.
    status: int | None = None
    #: Content of a 200 or 202: the id of the request, its status and its version.
    request: str | None = None
    state: str | None = None
    version: int | None = None

    @property
    def accepted(self) -> bool:
        """True if the request was promised to be durable."""
        return self.status in (200, 202)

    @property
    def refused(self) -> bool:
        """True if the answer was that nothing is stored."""
        return self.status is not None and 400 <= self.status <= 499


class Leg(NamedTuple):
    """One resource of a request with legs. Either `take` or `give` is set."""

    resource: str
    take: int | None
    give: int | None


def legs_of(documents: Iterable[dict[str, Any]]) -> list[Leg]:
    """Return legs as the API shows them: `{"resource": …, "take": 1}`."""
    return [Leg(one["resource"], one.get("take"), one.get("give")) for one in documents]


@dataclass(slots=True)
class Asked:
    """One request as its client meant it. All its tries have the same key."""

    client: str
    key: str
    kind: str
    resource: str
    account: str | None = None
    amount: int | None = None
    refund_of: str | None = None
    tries: list[Try] = field(default_factory=list)
    #: The legs of an exchange, or of a refund of one, as they were sent.
    legs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sent_at(self) -> float:
        """The earliest time at which it can have arrived."""
        return self.tries[0].sent_at

    @property
    def promised(self) -> Try | None:
        """The first answer that promised durability."""
        return next((one for one in self.tries if one.accepted), None)


@dataclass(slots=True)
class Command:
    """A capture or release that was sent for a reservation. Without an answer, its `status` is None."""

    request: str
    verb: str
    amount: int | None = None
    status: int | None = None

    @property
    def accepted(self) -> bool:
        """True if it was promised that the command counts."""
        return self.status == 202


@dataclass(slots=True)
class State:
    """A state of a request after its acceptance, which is version 1."""

    version: int
    status: str
    stage: str | None
    code: str | None
    refunded: int
    sequence: int
    decided_us: int
    at_us: int
    detail: str | None = None
    #: The place of the leg that was refused.
    leg: int | None = None
    #: The quantity that a reservation captured.
    captured: int | None = None
    #: The transaction that wrote it; None if it is unknown.
    xact: int | None = None


@dataclass(slots=True)
class Stored:
    """A request as it was read back, with all its states, oldest first."""

    id: str
    client: str
    key: str
    kind: str
    resource: str
    partition: int
    account: str | None = None
    amount: int | None = None
    refund_of: str | None = None
    apply_before_us: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    #: The time of its acceptance.
    created_us: int = 0
    states: list[State] = field(default_factory=list)
    #: Status and version over HTTP; None if they were not read.
    shown: tuple[str, int] | None = None

    @property
    def legs(self) -> list[Leg]:
        """Its legs; none if it has a single resource."""
        return legs_of(self.details.get("legs", ()))

    @property
    def resources(self) -> list[str]:
        """Its resource, or those of its legs."""
        return [leg.resource for leg in self.legs] or [self.resource]

    @property
    def status(self) -> str:
        """Its present status."""
        return self.states[-1].status if self.states else "processing"

    @property
    def failed_at_first(self) -> bool:
        """True if its first decision failed. A later decision is then out of the order of its number."""
        return bool(self.states) and self.states[0].status == "failed"


@dataclass(slots=True)
class Entry:
    """One entry of a resource's ledger."""

    resource: str
    version: int
    kind: str
    request: str
    account: str | None
    amount: int
    available: int
    held: int
    at_us: int
    leg: int = 0
    #: The transaction that wrote it; None if it is unknown.
    xact: int | None = None


@dataclass(slots=True)
class Resource:
    """A resource as it was read back."""

    id: str
    available: int
    held: int
    version: int


@dataclass(slots=True)
class Subscriber:
    """A webhook registered before the first request. Without `events` it receives all."""

    id: str
    client: str
    events: list[str] | None = None


@dataclass(slots=True)
class Delivery:
    """A row for a notification that must be delivered."""

    request: str
    version: int
    type: str
    subscriber: str
    status: str = "delivered"


@dataclass(slots=True)
class Message:
    """A message that arrived at a subscriber, with the request's status in it."""

    subscriber: str
    event: str
    type: str
    request: str
    version: int
    status: str


@dataclass(slots=True)
class History:
    """The input of the checker."""

    asked: list[Asked] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    requests: list[Stored] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    resources: list[Resource] = field(default_factory=list)
    #: The number of payouts of each request, from the gateways' records.
    payouts: dict[str, int] = field(default_factory=dict)
    #: Requests for which a gateway's yes arrived and was recorded at any time.
    heard: list[str] = field(default_factory=list)
    subscribers: list[Subscriber] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    #: The number of the last decision of each partition that has one.
    sequences: dict[int, int] = field(default_factory=dict)
    #: The time of reading back; None if it is unknown.
    read_us: int | None = None

    def save(self, path: Path) -> None:
        """Write the history to a file."""
        with gzip.open(path, "wt") as file:
            json.dump(asdict(self), file, separators=(",", ":"))

    @classmethod
    def load(cls, path: Path) -> History:
        """Read a history that `save` wrote."""
        with gzip.open(path, "rt") as file:
            kept = json.load(file)
        return cls(
            [Asked(**{**one, "tries": [Try(**tried) for tried in one["tries"]]}) for one in kept["asked"]],
            [Command(**one) for one in kept.get("commands", ())],
            [
                Stored(
                    **{
                        **one,
                        "states": [State(**state) for state in one["states"]],
                        "shown": None if one["shown"] is None else tuple(one["shown"]),
                    }
                )
                for one in kept["requests"]
            ],
            [Entry(**one) for one in kept["entries"]],
            [Resource(**one) for one in kept["resources"]],
            kept["payouts"],
            kept["heard"],
            [Subscriber(**one) for one in kept["subscribers"]],
            [Delivery(**one) for one in kept["deliveries"]],
            [Message(**one) for one in kept["messages"]],
            {int(partition): last for partition, last in kept["sequences"].items()},
            kept["read_us"],
        )
