"""
Verifying: derives every balance, hold, usage, refund, state, sequence and digest anew, from the entries and the
requests, and tells where what is stored says something else.

Reads only, in one snapshot, while the system is at work, and in little memory however much there is. While it lasts
the snapshot keeps PostgreSQL from cleaning up after the batches, which costs space and hurts nobody.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from operator import itemgetter
from typing import Any, Final, NamedTuple

import psycopg

from processor.domain import ledger
from processor.domain.model import RejectionCode, Resource
from processor.domain.rules.amendments import parsed
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Rows fetched at once; so often the walk through the entries tells how far it is.
FETCH_ROWS: Final = 5_000

SQL = statements.beside(__file__)
_READS: Final = ("take_snapshot", "count", "read_entries", "read_rules")
#: The checks that are one query each, by the code of what they find.
CHECKS: Final = {code: query for code, query in SQL.items() if code not in _READS}
_PARAMETERS: Final = {"rejections": list(RejectionCode.__args__)}  # type: ignore[attr-defined]  # a Literal's words

Progress = Callable[[int, int], None]
Row = tuple[Any, ...]


class Discrepancy(NamedTuple):
    """
    One thing that is not as it must be. `code` is stable: what kind of fault; `id`: of the resource, request,
    entry (`resource/version`), usage, partition or inbox row that has it, or of the check that met a value which
    cannot be read; `line`: for people, what is wrong.
    """

    code: str
    id: str
    line: str

    def __str__(self) -> str:
        return f"{self.code} {self.id}: {self.line}"


class Counts(NamedTuple):
    """How much was looked at, all in the same moment."""

    resources: int
    entries: int
    requests: int
    decided: int
    waiting: int
    usages: int


class Verification:
    """
    What `verify` returns: iterate once over the discrepancies. `counts` is there from the first step on, `found`
    says how many there were so far.
    """

    def __init__(self, connection: Connection, progress: Progress | None) -> None:
        self.counts: Counts | None = None
        self.found = 0
        self._connection = connection
        self._progress = progress
        self._done = self._total = 0

    def __iter__(self) -> Iterator[Discrepancy]:
        with connections.faults(), self._connection.transaction():
            self._connection.execute(SQL["take_snapshot"])
            [row] = self._connection.execute(SQL["count"]).fetchall()
            self.counts = counts = Counts(*row)
            steps = 2 + len(CHECKS)  # each costs about as much as the walk through the entries
            self._total = steps * (counts.entries + 1)
            for code in ("entry_wrong", "resource_rules_wrong", *CHECKS):
                step_ends = self._done + counts.entries + 1
                for discrepancy in self._found_by(code):
                    self.found += 1
                    yield discrepancy
                self._advance(step_ends - self._done)

    def _found_by(self, code: str) -> Iterator[Discrepancy]:
        try:
            if code == "entry_wrong":
                yield from _faulty_entries(self._counted(self._rows("read_entries")))
            elif code == "resource_rules_wrong":
                yield from _faulty_rules(self._rows("read_rules"))
            else:
                yield from (Discrepancy(code, *row) for row in self._rows(code))
        except psycopg.DataError as fault:  # a value that no Teller writes, like a date of infinity
            yield Discrepancy(
                "unreadable", code, f"this check could not be finished: {connections.first_line(fault)}"
            )

    def _rows(self, name: str) -> Iterator[Row]:
        with self._connection.cursor(name=name, binary=True) as cursor:
            cursor.itersize = FETCH_ROWS
            yield from cursor.execute(SQL[name], _PARAMETERS)

    def _counted(self, rows: Iterable[Row]) -> Iterator[Row]:
        for number, row in enumerate(rows, start=1):
            yield row
            if number % FETCH_ROWS == 0:
                self._advance(FETCH_ROWS)

    def _advance(self, by: int) -> None:
        self._done += by
        if self._progress is not None:
            self._progress(self._done, self._total)


def verify(connection: Connection, progress: Progress | None = None) -> Verification:
    """
    Look at everything, in one snapshot, on a connection of one's own that may read all of it (the owner's or that
    of the API). `progress(done, total)` is called now and then, in units of no meaning; `done` ends at `total`.

    The iteration raises DatabaseUnavailable when PostgreSQL goes away.
    """
    return Verification(connection, progress)


# ---------------------------------------------------------------- the ledger, line by line


def _faulty_entries(rows: Iterable[Row]) -> Iterator[Discrepancy]:
    """
    Entries that do not follow from the one before. Each is held against what is stored before it, so that one
    change shows once and does not accuse all that follow.
    """
    for resource_id, entries in itertools.groupby(rows, key=itemgetter(0)):
        version = available = held = 0
        digest, last_at = bytes(32), None
        for entry in entries:
            for code, line in _faults_of_entry(entry, version, available, held, digest, last_at):
                yield Discrepancy(code, f"{resource_id}/{entry[1]}", line)
            _, version, _, _, _, _, available, held, last_at, digest = entry


def _faults_of_entry(
    entry: Row, version: int, available: int, held: int, digest: bytes, last_at: datetime | None
) -> Iterator[tuple[str, str]]:
    """What is wrong with an entry that follows one that left this state; a code and a line for each."""
    kind, amount, created_at = entry[2], entry[5], entry[8]
    if entry[1] != version + 1:
        yield "entry_version_wrong", f"it follows version {version}"
    available_move, held_move = ledger.MOVES.get(kind, (0, 0))
    sums = available + available_move * amount, held + held_move * amount
    if entry[6:8] != sums:
        yield (
            "entry_sum_wrong",
            f"a {kind} of {amount} leaves {sums[0]} available and {sums[1]} held, not {entry[6]} and {entry[7]}",
        )
    if last_at is not None and created_at < last_at:
        yield "entry_time_wrong", f"it is of {created_at}, the one before of {last_at}"
    if entry[9] != ledger.digest_of(digest, *entry[:9]):
        yield "entry_digest_wrong", "its digest is not that of its fields and the digest before"


# ---------------------------------------------------------------- what was decided about rules


def _faulty_rules(rows: Iterable[Row]) -> Iterator[Discrepancy]:
    """Resources that are not as their opening, their amendments and their closing made them."""
    for resource_id, group in itertools.groupby(rows, key=itemgetter(0)):
        acts = list(group)
        (_, *stored), decided = acts[0][:14], [act[14:] for act in acts if act[14] is not None]
        in_order = _derived(resource_id, decided)
        # What was replayed in the same batch as another act may have come before it or after it.
        replayed_last = _derived(resource_id, sorted(decided, key=itemgetter(2, 3)))
        if in_order is None or replayed_last is None:
            yield Discrepancy("resource_unexplained", resource_id, "no single completed opening explains it")
            continue
        for name, value in zip(_RULE_FIELDS, stored, strict=True):
            expected = getattr(in_order, name)
            if value not in (expected, getattr(replayed_last, name)):
                line = f"{name} is {value}, but what was decided makes it {expected}"
                yield Discrepancy("resource_rules_wrong", resource_id, line)


#: The fields of a resource that openings, amendments and closings write, in the order of `read_rules`.
_RULE_FIELDS: Final = (
    "kind",
    "unit",
    "client_id",
    "overdraft",
    "per_account_limit",
    "starts_at",
    "ends_at",
    "gateway",
    "confirm_above",
    "approve_above",
    "metadata",
    "created_at",
    "closed_at",
)


def _derived(resource_id: str, acts: Iterable[Row]) -> Resource | None:
    """The resource that these acts make; None when they make none, or more than one, or cannot be read."""
    resource: Resource | None = None
    try:
        for kind, details, at, _ in acts:
            if (kind == "opening") is not (resource is None):
                return None
            rules = dict(details or {})
            if resource is None:
                resource = Resource(resource_id, rules.pop("kind"), 0, at, **parsed(rules))
            elif kind == "closing":
                resource.closed_at = at
            else:
                for name, value in parsed(rules).items():
                    setattr(resource, name, value)
    except (KeyError, TypeError, ValueError):
        return None
    return resource
