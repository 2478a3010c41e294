"""
The history of a run: what clients asked and were told, and what was read back once all was over.

Only data, and how it is kept in a file. Seconds are those of one monotonic clock of the clients; microseconds are
those of PostgreSQL since 1970.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(slots=True)
class Try:
    """One time that a request was sent. `answered_at` None: nobody knows what became of it."""

    sent_at: float
    answered_at: float | None = None
    #: HTTP status of the answer (of an item of a batch: its own).
    status: int | None = None
    #: What a 200 or 202 said: the id of the request, its status and its version.
    request: str | None = None
    state: str | None = None
    version: int | None = None

    @property
    def accepted(self) -> bool:
        """Whether it was promised that the request is durable."""
        return self.status in (200, 202)

    @property
    def refused(self) -> bool:
        """Whether it was said that nothing is stored."""
        return self.status is not None and 400 <= self.status <= 499


@dataclass(slots=True)
class Asked:
    """One request as its client meant it; sent as often as it took to get an answer, always with the same key."""

    client: str
    key: str
    kind: str
    resource: str
    account: str | None = None
    amount: int | None = None
    refund_of: str | None = None
    tries: list[Try] = field(default_factory=list)

    @property
    def sent_at(self) -> float:
        """When it can have arrived at the earliest."""
        return self.tries[0].sent_at

    @property
    def promised(self) -> Try | None:
        """The first answer that promised that it is durable."""
        return next((one for one in self.tries if one.accepted), None)


@dataclass(slots=True)
class State:
    """A state that a request came to, after its acceptance (which is version 1)."""

    version: int
    status: str
    stage: str | None
    code: str | None
    refunded: int
    sequence: int
    decided_us: int
    at_us: int
    detail: str | None = None


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
    #: When it was accepted.
    created_us: int = 0
    states: list[State] = field(default_factory=list)
    #: Status and version as HTTP shows them; None: it was not asked.
    shown: tuple[str, int] | None = None

    @property
    def status(self) -> str:
        """What it is now."""
        return self.states[-1].status if self.states else "processing"

    @property
    def parked_at_first(self) -> bool:
        """Its deciding failed; if it was decided later, then out of the order of its number."""
        return bool(self.states) and self.states[0].status == "failed"


@dataclass(slots=True)
class Entry:
    """One line of a resource's ledger."""

    resource: str
    version: int
    kind: str
    request: str
    account: str | None
    amount: int
    available: int
    held: int
    at_us: int


@dataclass(slots=True)
class Resource:
    """A resource as it was read back."""

    id: str
    available: int
    held: int
    version: int


@dataclass(slots=True)
class Subscriber:
    """A webhook that was there before the first request; `events` None: it wants all."""

    id: str
    client: str
    events: list[str] | None = None


@dataclass(slots=True)
class Delivery:
    """A row that says that somebody is to be told."""

    request: str
    version: int
    type: str
    subscriber: str
    status: str = "delivered"


@dataclass(slots=True)
class Told:
    """A message that arrived at a subscriber, and the status of the request in it."""

    subscriber: str
    event: str
    type: str
    request: str
    version: int
    status: str


@dataclass(slots=True)
class History:
    """Everything that the checker looks at."""

    asked: list[Asked] = field(default_factory=list)
    requests: list[Stored] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    resources: list[Resource] = field(default_factory=list)
    #: How often each request was paid out, by the books of the gateways.
    payouts: dict[str, int] = field(default_factory=dict)
    #: Requests for which a gateway's yes arrived and was written down, whenever that was.
    heard: list[str] = field(default_factory=list)
    subscribers: list[Subscriber] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    #: The number of the last decision of each partition that has one.
    sequences: dict[int, int] = field(default_factory=dict)
    #: When it was read back; None: nobody looked at a clock.
    read_us: int | None = None

    def save(self, path: Path) -> None:
        """Keep it, for whoever wants to look."""
        with gzip.open(path, "wt") as file:
            json.dump(asdict(self), file, separators=(",", ":"))

    @classmethod
    def load(cls, path: Path) -> History:
        """What `save` kept."""
        with gzip.open(path, "rt") as file:
            kept = json.load(file)
        return cls(
            [Asked(**{**one, "tries": [Try(**tried) for tried in one["tries"]]}) for one in kept["asked"]],
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
            [Told(**one) for one in kept["told"]],
            {int(partition): last for partition, last in kept["sequences"].items()},
            kept["read_us"],
        )
