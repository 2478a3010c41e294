"""
Verification: derives every balance, hold, usage, refund, state, sequence and digest from entries and requests, and
reports each stored value that differs.

It only reads, in one snapshot, while the system is running. Memory does not grow with the database. While it runs,
the snapshot keeps PostgreSQL from removing dead rows, which costs space until it ends.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from operator import itemgetter
from typing import Any, Final, NamedTuple

import psycopg

from processor.domain import ledger
from processor.domain.kinds import KINDS
from processor.domain.model import RejectionCode, Resource
from processor.domain.rules.amendments import parsed
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Rows fetched at once. Progress through the entries is reported after as many.
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
    One stored value that differs from the derived one.
    """

    #: The kind of fault; stable.
    code: str
    #: The resource, request, entry (`resource/version`), usage, partition or inbox row; or the check that could not
    #: read a value.
    id: str
    #: A description for people.
    line: str

    def __str__(self) -> str:
        return f"{self.code} {self.id}: {self.line}"


class Counts(NamedTuple):
    """
    The numbers of rows that were checked, all of one snapshot.
    """

    resources: int
    entries: int
    requests: int
    decided: int
    waiting: int
    usages: int
    #: Requests that have left for files.
    archived: int


class Verification:
    """
    The discrepancies of one run, which can be iterated once. `counts` is set from the first step on, and `found` is
    the number of discrepancies so far.
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
        except psycopg.DataError as fault:  # a value that Teller never writes, such as a date of infinity
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
    Verify the database in one snapshot. The connection must not be shared; its role is the owner or that of the API.

    `progress(done, total)` is called repeatedly, in arbitrary units; `done` ends at `total`. The iteration raises
    DatabaseUnavailable.
    """
    return Verification(connection, progress)


# ---------------------------------------------------------------- the ledger, line by line


def _faulty_entries(rows: Iterable[Row]) -> Iterator[Discrepancy]:
    """
    Yield entries that do not follow from the entry or checkpoint before. Each is compared with the stored one, so
    that one change is reported once and not for all later entries.
    """
    for resource_id, entries in itertools.groupby(rows, key=itemgetter(0)):
        version = available = held = 0
        digest, last_at = bytes(32), None
        for entry in entries:
            if entry[2] is None:  # a checkpoint
                if entry[1] <= version:
                    yield Discrepancy(
                        "checkpoint_wrong", f"{resource_id}/{entry[1]}", f"it follows {version}"
                    )
                _, version, _, _, _, _, available, held, last_at, digest = entry
                continue
            for code, line in _faults_of_entry(entry, version, available, held, digest, last_at):
                yield Discrepancy(code, f"{resource_id}/{entry[1]}", line)
            _, version, _, _, _, _, available, held, last_at, digest = entry


def _faults_of_entry(
    entry: Row, version: int, available: int, held: int, digest: bytes, last_at: datetime | None
) -> Iterator[tuple[str, str]]:
    """
    Yield a code and a line for each fault of an entry. The other arguments are the state that the entry before left.
    """
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


# ---------------------------------------------------------------- the rules of resources


def _faulty_rules(rows: Iterable[Row]) -> Iterator[Discrepancy]:
    """
    Yield resources that differ from the result of their opening, amendments and closing.
    """
    for resource_id, group in itertools.groupby(rows, key=itemgetter(0)):
        acts = list(group)
        width = 1 + len(_RULE_FIELDS)
        (_, *stored), decided = acts[0][:width], [act[width:] for act in acts if act[width] is not None]
        in_order = _derived(resource_id, decided)
        # A replayed act may have been applied before or after another act of the same batch.
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
    "per_account_daily_limit",
    "decimals",
)


def _derived(resource_id: str, acts: Iterable[Row]) -> Resource | None:
    """
    Return the resource that these acts result in. Returns None if it is no single one, or an act is unreadable.
    """
    resource: Resource | None = None
    try:
        for kind, details, at, _ in acts:
            if KINDS[kind].opens is not (resource is None):
                return None
            rules = dict(details or {})
            if resource is None:
                resource = Resource(resource_id, rules.pop("kind"), 0, at, **parsed(rules))
            elif KINDS[kind].closes:
                resource.closed_at = at
            else:
                for name, value in parsed(rules).items():
                    setattr(resource, name, value)
    except (KeyError, TypeError, ValueError):
        return None
    return resource
