"""
The content of one file of the archive: its requests and chains, and the sums that the database keeps of them.

Pure. Each row is checked against those before it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from processor.domain import ledger
from processor.errors import TellerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: The tables of a file, in their order. All refer to requests, and entries to chains.
TABLES: Final = ("requests", "legs", "decisions", "effects", "attempts", "deliveries", "chains", "entries")
#: The last version of a request before its first decision.
FIRST_DECISION: Final = 2


class ArchiveDamaged(TellerError):
    """A file of the archive is not as it was written; the message says where."""

    code = "archive_damaged"


class QuantityState(NamedTuple):
    """The state of a resource after an entry, or before its first one."""

    available: int
    held: int
    created_at: datetime | None
    digest: bytes

    def document(self) -> list[Any]:
        """Return the state as the files have it."""
        at = None if self.created_at is None else self.created_at.isoformat()
        return [self.available, self.held, at, self.digest.hex()]

    @classmethod
    def of(cls, written: list[Any]) -> QuantityState:
        """Read a state of a file."""
        available, held, at, digest = written
        return cls(available, held, None if at is None else datetime.fromisoformat(at), bytes.fromhex(digest))


#: The state before the first entry.
NOTHING: Final = QuantityState(0, 0, None, bytes(32))


class Chain(NamedTuple):
    """An unbroken run of entries of one resource, with the states before its first and after its last one."""

    resource_id: str
    first: int
    last: int
    before: QuantityState
    after: QuantityState

    def document(self) -> dict[str, Any]:
        """Return the chain as the files have it."""
        return {
            "resource_id": self.resource_id,
            "first": self.first,
            "last": self.last,
            "before": self.before.document(),
            "after": self.after.document(),
        }

    def text(self) -> str:
        """Return the chain as JSON."""
        return json.dumps(self.document())

    @classmethod
    def of(cls, written: Mapping[str, Any]) -> Chain:
        """Read a chain of a file."""
        return cls(
            written["resource_id"],
            written["first"],
            written["last"],
            QuantityState.of(written["before"]),
            QuantityState.of(written["after"]),
        )


class Run(NamedTuple):
    """An unbroken run of entries, with the state after its last one."""

    resource_id: str
    first: int
    last: int
    after: QuantityState


def runs_of(lines: Iterable[str]) -> Iterator[Run]:
    """Yield the unbroken runs of entries, which are JSON in the order of resources and versions."""
    run: Run | None = None
    for line in lines:
        row = json.loads(line)
        resource_id, version = row["resource_id"], row["version"]
        after = state_of(row)
        if run is not None and (resource_id, version) == (run.resource_id, run.last + 1):
            run = Run(resource_id, run.first, version, after)
            continue
        if run is not None:
            yield run
        run = Run(resource_id, version, version, after)
    if run is not None:
        yield run


class FiledRequest(NamedTuple):
    """The fields of a request that sums depend on."""

    client_id: str
    partition: int
    refund_of: UUID | None


@dataclass(slots=True)
class Usage:
    """The quantity that an account has taken, and that of the last day on which it took something."""

    used: int = 0
    day: date | None = None
    day_used: int = 0

    def add(self, amount: int, day: date | None) -> None:
        """Count an amount; `day` is that of something taken, None of something given back."""
        self.used += amount
        if day is None or (self.day is not None and day < self.day):
            return
        self.day_used = self.day_used + amount if day == self.day else amount
        self.day = day


@dataclass
class Content:
    """The content of a file, without most columns of its rows."""

    header: dict[str, Any]
    #: The rows of each table, and the SHA-256 over their lines.
    rows: Counter[str] = field(default_factory=Counter)
    digests: dict[str, str] = field(default_factory=dict)
    #: The sum of the amounts of each kind of entry.
    amounts: Counter[str] = field(default_factory=Counter)
    requests: dict[UUID, FiledRequest] = field(default_factory=dict)
    chains: list[Chain] = field(default_factory=list)
    #: By resource, client and account.
    usages: dict[tuple[str, str, str], Usage] = field(default_factory=dict)
    #: For each partition: its first decisions, the sum of their numbers, and the greatest number.
    decisions: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    #: The chain that entries are read of, and the state after the last one.
    _chain: int = -1
    _version: int = 0
    _state: QuantityState = NOTHING

    def manifest(self) -> dict[str, Any]:
        """Return the last line of the file."""
        return {
            "rows": dict(self.rows),
            "sha256": self.digests,
            "amounts": dict(self.amounts),
            "decisions": {str(partition): list(sums) for partition, sums in self.decisions.items()},
        }

    def add(self, table: str, row: dict[str, Any]) -> None:
        """
        Take the next row. Raises ArchiveDamaged if it does not follow; KeyError, TypeError, ValueError.
        """
        self.rows[table] += 1
        if table == "requests":
            refund_of = row["refund_of"]
            self.requests[UUID(row["id"])] = FiledRequest(
                row["client_id"], row["partition"], None if refund_of is None else UUID(refund_of)
            )
        elif table == "chains":
            self.chains.append(Chain.of(row))
        elif UUID(row["request_id"]) not in self.requests:
            raise ArchiveDamaged(f"{table} of request {row['request_id']}, which is not in the file")
        elif table == "entries":
            self._add_entry(row)
        elif table == "decisions" and row["version"] == FIRST_DECISION:
            partition = self.requests[UUID(row["request_id"])].partition
            count, total, last = self.decisions.get(partition, (0, 0, 0))
            self.decisions[partition] = (count + 1, total + row["sequence"], max(last, row["sequence"]))

    def finish(self) -> None:
        """Check that nothing is missing at the end. Raises ArchiveDamaged."""
        self._end_chain()
        if self._chain + 1 != len(self.chains):
            raise ArchiveDamaged(f"{self.chains[self._chain + 1].resource_id} has a chain without entries")
        if len(self.requests) != self.rows["requests"]:
            raise ArchiveDamaged("it has a request twice")

    def _add_entry(self, row: dict[str, Any]) -> None:
        resource_id, version = row["resource_id"], row["version"]
        chain = self.chains[self._chain] if self._chain >= 0 else None
        if chain is None or self._version == chain.last:
            self._end_chain()
            self._chain += 1
            if self._chain == len(self.chains):
                raise ArchiveDamaged(f"entry {resource_id}/{version} is in no chain")
            chain = self.chains[self._chain]
            self._version, self._state = chain.first - 1, chain.before
        if (resource_id, version) != (chain.resource_id, self._version + 1):
            raise ArchiveDamaged(
                f"entry {resource_id}/{version} does not follow {chain.resource_id}/{self._version}"
            )
        self._state = follow(self._state, row)
        self._version = version
        self.amounts[row["kind"]] += row["amount"]
        self._use(row)

    def _end_chain(self) -> None:
        if self._chain < 0:
            return
        chain = self.chains[self._chain]
        if (self._version, self._state) != (chain.last, chain.after):
            raise ArchiveDamaged(f"the chain of {chain.resource_id} to {chain.last} ends in another state")

    def _use(self, row: dict[str, Any]) -> None:
        """Count the usage, as `usage_wrong` of processor/verify does."""
        if row["account"] is None:
            return
        request = self.requests[UUID(row["request_id"])]
        original = None if request.refund_of is None else self.requests.get(request.refund_of)
        takes = row["kind"] == "hold" or (row["kind"] == "debit" and request.refund_of is None)
        gives_back = row["kind"] == "release" or (row["kind"] == "credit" and request.refund_of is not None)
        if not takes and not gives_back:
            return
        key = (row["resource_id"], (original or request).client_id, row["account"])
        day = datetime.fromisoformat(row["created_at"]).astimezone(UTC).date() if takes else None
        self.usages.setdefault(key, Usage()).add(row["amount"] if takes else -row["amount"], day)


def state_of(row: Mapping[str, Any]) -> QuantityState:
    """Return the state that an entry of a file left."""
    digest = bytes.fromhex(row["digest"].removeprefix("\\x"))
    return QuantityState(row["available"], row["held"], datetime.fromisoformat(row["created_at"]), digest)


def follow(state: QuantityState, row: Mapping[str, Any]) -> QuantityState:
    """
    Return the state after an entry of a file. Raises ArchiveDamaged if it does not follow from the state before.
    """
    name = f"entry {row['resource_id']}/{row['version']}"
    amount = row["amount"]
    available_move, held_move = ledger.MOVES[row["kind"]]
    after = state_of(row)
    if after[:2] != (state.available + available_move * amount, state.held + held_move * amount):
        raise ArchiveDamaged(f"{name} does not have the sum of the entries up to it")
    created_at = datetime.fromisoformat(row["created_at"])
    if state.created_at is not None and created_at < state.created_at:
        raise ArchiveDamaged(f"{name} is older than the entry before it")
    digest = ledger.digest_of(
        state.digest,
        row["resource_id"],
        row["version"],
        row["kind"],
        UUID(row["request_id"]),
        row["account"],
        amount,
        row["available"],
        row["held"],
        created_at,
    )
    if after.digest != digest:
        raise ArchiveDamaged(f"the digest of {name} is not that of its fields and the digest before")
    return after
