"""
One batch over several partitions: their oldest inbox rows, decided in order and written as sets, in one transaction.

This is the only code that changes resources, usages, entries and decisions. It locks the partitions and takes their
rows (`inbox`), reads everything that these touch once (`store`), decides in memory (`worksheet`), and writes
everything once. It does not use the queues: the caller announces the decisions after the commit.
"""

import functools
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import psycopg
from psycopg import DataError, IntegrityError, Pipeline
from psycopg.errors import LockNotAvailable, QueryCanceled

from processor.batch import inbox, store
from processor.batch.crossing import Crossing
from processor.batch.inbox import Taken
from processor.batch.snapshot import Row
from processor.batch.store import Writer
from processor.batch.worksheet import Worksheet
from processor.errors import DatabaseUnavailable
from processor.storage import arrays, connections
from processor.storage.arrays import Execute
from processor.storage.connections import Connection

#: Inbox rows of one transaction, at most. More would not be faster, and would delay the first decision.
BATCH_LIMIT: Final = 2_000
#: Rows that are decided before their decisions are sent to PostgreSQL, which writes them while the next are decided.
PART_ROWS: Final = 250
#: The time after which the search for refused rows ends, in seconds. The rows before are committed, because a drain
#: without a commit for three seconds counts as stalled.
SEARCH_SECONDS: Final = 1.0
#: Characters of a traceback that are kept, from its end.
TRACE_LIMIT: Final = 8_000

# Faults of a row: PostgreSQL refuses it, or it cannot be sent. All other faults are of the connection or the schema.
_UNWRITABLE: Final = (
    DataError,
    IntegrityError,
    QueryCanceled,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
)


#: Locks partitions and takes rows of theirs.
_Take = Callable[[Execute, Collection[int], int], Taken]

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Refused(Exception):
    """A row of the batch could not be written; the cause is the fault."""


@dataclass(slots=True)
class BatchReport:
    """The result of one batch, for the log and for the drain."""

    #: The number of rows that were applied, by partition.
    taken_from: Counter[int] = field(default_factory=Counter)
    #: Partitions in which more rows may wait. Later commits send their own notification.
    more: frozenset[int] = frozenset()
    #: Those among them whose rows ended the batch early. One needs a new snapshot, or a search took long.
    ended_by: frozenset[int] = frozenset()
    #: Partitions that were left out, because another backend holds their lock.
    locked: frozenset[int] = frozenset()
    #: Requests that need more partitions than the batch had, and the partitions in which rows wait for them.
    crossings: list[Crossing] = field(default_factory=list)
    blocked: frozenset[int] = frozenset()
    paused: frozenset[int] = frozenset()
    rejected: int = 0
    failed: int = 0
    duration_ms: float = 0.0
    decided: list[UUID] = field(default_factory=list)
    #: Whether couriers have new work.
    for_couriers: bool = False
    paid_after_refund: list[UUID] = field(default_factory=list)
    #: Rows that the API did not write, by partition. They have no request there, or its resource is of another one.
    misplaced: Counter[int] = field(default_factory=Counter)

    @property
    def taken(self) -> int:
        """The number of rows that were applied."""
        return self.taken_from.total()


def drain_once(
    connection: Connection, partitions: Collection[int], limit: int = BATCH_LIMIT, *, needs_all: bool = False
) -> BatchReport:
    """
    Apply up to `limit` inbox rows of some partitions, in `seq` order, in one transaction.

    Each partition with work gets a share. One that is paused, or whose lock another backend holds, is left out. With
    `needs_all` the batch waits for the locks. If one is not granted in time, all partitions count as locked.
    A request with legs waits for a batch that has the partitions of all legs, and the rows behind it wait too.
    A row that PostgreSQL refuses (SQLSTATE class 22 or 23, or a statement timeout) is found in a second transaction.
    Its request is marked as failed.

    Raises DatabaseUnavailable on a fault of the infrastructure. Nothing was applied then, or everything if only the
    answer to the COMMIT was lost. The next batch reads again in either case.
    """
    take = functools.partial(inbox.take, needs_all=needs_all)
    return _run(connection, partitions, limit, take, needs_all=needs_all)


def expire_once(
    connection: Connection, partitions: Collection[int], limit: int = BATCH_LIMIT, *, needs_all: bool = False
) -> BatchReport:
    """
    End up to `limit` reservations of some partitions whose time is over, in one transaction, as a batch of their own.

    They are found by their time and not in the inbox, so they do not wait behind the requests there. Paused and
    locked partitions are left out. One with legs is ended if all of its partitions are among these and none is left
    out. `needs_all` waits for the locks, as for `drain_once`, which has the errors, too.
    """
    take = functools.partial(inbox.take_expired, needs_all=needs_all)
    return _run(connection, partitions, limit, take, needs_all=needs_all)


def _run(
    connection: Connection, partitions: Collection[int], limit: int, take: _Take, *, needs_all: bool = False
) -> BatchReport:
    started = time.perf_counter()
    with connections.faults():
        try:
            report = _transaction(connection, partitions, limit, take, _Batch.write)
        except _Refused:
            report = _transaction(connection, partitions, limit, take, _Batch.search)
        except LockNotAvailable:
            if not needs_all:
                raise
            report = BatchReport(locked=frozenset(partitions))
    report.duration_ms = (time.perf_counter() - started) * 1_000
    return report


def _transaction(
    connection: Connection,
    partitions: Collection[int],
    limit: int,
    take: _Take,
    write: Callable[["_Batch"], None],
) -> BatchReport:
    """Lock the partitions, take their rows, and `write` them, in one transaction."""
    with connection.pipeline() as pipeline, connection.transaction():
        execute = arrays.executor(connection, inbox.SQL | store.SQL)
        batch = _Batch(connection, pipeline, execute, take(execute, partitions, limit))
        batch.delete_strays()
        if batch.taken.rows:
            write(batch)
        batch.note_misplaced()
    return batch.report


class _Batch:
    """The rows of one batch, between the take and the commit."""

    def __init__(self, connection: Connection, pipeline: Pipeline, execute: Execute, taken: Taken) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._execute = execute
        self.taken = taken
        self.report = BatchReport(
            locked=taken.locked, paused=taken.paused, crossings=taken.crossings, blocked=taken.blocked
        )
        #: The number of each partition's last decision that is written.
        self._sequences = taken.sequences

    # ---------------------------------------------------------------- rows of another origin

    def delete_strays(self) -> None:
        """Delete the rows without a request of their partition. More may wait behind them."""
        if self.taken.strays:
            inbox.delete_strays(self._execute, self.taken.strays)
            self.report.misplaced = Counter(partition for partition, _ in self.taken.strays)
            self.report.more = self.taken.deep

    def note_misplaced(self) -> None:
        """Raise the alarm about them, and about the requests whose resource is of another partition."""
        if self.report.misplaced:
            inbox.note_misplaced(self._execute, self.report.misplaced)

    # ---------------------------------------------------------------- all at once

    def write(self) -> None:
        """Write all rows. Raises _Refused if PostgreSQL refuses one of them."""
        try:
            rows = self.taken.rows
            sheet, writer, count = self._send(rows)
            self._note(sheet)
            ended_by = rows[count - 1 : count] if sheet.needs_reload else rows[count : count + 1]
            check = self._send_end(count, {row.partition for row in ended_by})
            self._pipeline.sync()
        except _UNWRITABLE as fault:
            raise _Refused from fault
        writer.check()
        check()

    def _send(self, rows: list[Row], refusal: str | None = None) -> tuple[Worksheet, Writer, int]:
        """
        Decide the rows in order, and send their decisions to PostgreSQL in parts.

        With a `refusal`, the rows could not be written, and their requests fail instead. Returns the number of rows
        that were decided: not all if those that follow need a new snapshot.
        """
        sheet = store.read(self._execute, self.taken, rows, self._sequences, recheck=refusal is not None)
        writer = Writer(self._execute, sheet)
        count = 0
        for row in rows:
            if sheet.needs_reload_before(row):
                break
            _decide(sheet, row, refusal)
            count += 1
            if sheet.needs_reload:
                break
            if count % PART_ROWS == 0:
                writer.part(sheet.flush())
        writer.part(sheet.flush())
        writer.rest()
        return sheet, writer, count

    def _send_end(self, count: int, ended_by: set[int]) -> Callable[[], None]:
        """
        Send the end of the first `count` rows. Returns the check of `inbox.finish`.

        `ended_by` are the partitions of the rows that ended the batch, if rows are left.
        """
        done, rest = self.taken.rows[:count], self.taken.rows[count:]
        self.report.taken_from = Counter(row.partition for row in done)
        self.report.more = self.taken.deep | {row.partition for row in rest}
        self.report.ended_by = self.report.more & ended_by if rest else frozenset()
        return inbox.finish(self._execute, self.taken, done, self._sequences)

    def _note(self, sheet: Worksheet) -> None:
        """Count what a worksheet has decided, as soon as it is written."""
        self._sequences = sheet.sequences
        report = self.report
        report.rejected += sheet.rejected
        report.failed += sheet.failed
        report.misplaced += sheet.misplaced
        report.decided += sheet.decided
        report.for_couriers |= bool(sheet.new_effects or sheet.retried or sheet.deliveries or sheet.codes)
        report.paid_after_refund += sheet.paid_after_refund

    # ---------------------------------------------------------------- the search for refused rows

    def search(self) -> None:
        """
        Write the rows in runs, each in a savepoint. The request of a row that PostgreSQL refuses fails instead.

        A refused run is tried again up to its first refused row: up to the row that the fault names, else up to its
        middle. The runs that succeed on the way stay written. The next run is as long as the last good stretch, and
        doubles while it succeeds. So the number of savepoints grows with the number of refused rows, and not with the
        good ones.
        """
        rows = self.taken.rows
        refused_in: set[int] = set()
        ends = time.monotonic() + SEARCH_SECONDS
        done = stretch_began = 0
        #: A run up to this row was refused, so there is a refused row before it.
        refused_before = len(rows)
        size = max(1, len(rows) // 2)
        while done < len(rows) and (done == 0 or time.monotonic() < ends):
            run = rows[done : done + size]
            fault, count = self._try(run)
            done += count
            if fault is None:
                size = max(1, (refused_before - done) // 2) if done < refused_before else 2 * size
            elif len(run) > 1:
                place = named_in_fault(fault, run)
                size = len(run) // 2 if place is None else max(1, place)
                refused_before = done + (len(run) if place is None else place + 1)
            else:
                self._fail(rows[done], fault)
                refused_in.add(rows[done].partition)
                size = max(1, done - stretch_began)
                done += 1
                stretch_began, refused_before = done, 0
        check = self._send_end(done, refused_in or {row.partition for row in rows[done:]})
        self._pipeline.sync()
        check()

    def _try(self, rows: list[Row], refusal: str | None = None) -> tuple[Exception | None, int]:
        """Write rows in a savepoint. Returns the fault if one is refused, and the number of rows that are written."""
        try:
            with self._connection.transaction():
                sheet, writer, count = self._send(rows, refusal)
                self._pipeline.sync()
                writer.check()
        except _UNWRITABLE as fault:
            return fault, 0
        self._note(sheet)
        return None, count

    def _fail(self, row: Row, refusal: Exception) -> None:
        """Mark the request of a refused row as failed. Raises DatabaseUnavailable if that is refused, too."""
        fault, _ = self._try([row], _trace(refusal))
        if fault is not None:  # the drain pauses before it tries again
            line = connections.first_line(fault)
            raise DatabaseUnavailable(
                f"a request can be neither decided nor marked as failed: {line}"
            ) from fault


def _decide(sheet: Worksheet, row: Row, refusal: str | None) -> None:
    """Decide one row. If its rule raises, its request fails, and the batch goes on."""
    try:
        if refusal is None:
            sheet.decide(row)
        else:
            sheet.fail(row, refusal)
    except Exception as fault:  # noqa: BLE001  # any fault of a rule is of this one request
        sheet.fail(row, _trace(fault))


def named_in_fault(fault: Exception, rows: list[Row]) -> int | None:
    """Return the place of the first row whose request PostgreSQL names as the reason. It is a guess, to be tried."""
    detail = fault.diag.message_detail if isinstance(fault, psycopg.Error) else None
    ids = set(_UUID.findall(detail or ""))
    return next((place for place, row in enumerate(rows) if str(row.request.id) in ids), None)


def _trace(fault: Exception) -> str:
    """Return the end of a traceback, with escapes for what PostgreSQL cannot store: NUL, lone surrogates."""
    text = "".join(traceback.format_exception(fault))[-TRACE_LIMIT:]
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
