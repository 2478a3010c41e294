"""
One batch of one partition: the oldest inbox rows, decided in order and written as sets, in one transaction.

This is the only code that changes resources, usages, entries and decisions. It reads everything once, decides in
memory (`worksheet`), and writes everything once. It does not use the queues: the caller announces the decisions after
the commit.
"""

import time
import traceback
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from psycopg import DataError, IntegrityError
from psycopg.errors import QueryCanceled

from processor.batch import store
from processor.batch.snapshot import CancelCommand, Row
from processor.batch.store import Writer
from processor.batch.worksheet import Worksheet
from processor.domain.model import Request
from processor.errors import DatabaseUnavailable
from processor.storage import connections
from processor.storage.connections import Connection

#: Inbox rows of one transaction, at most. More would not be faster, and would delay the first decision.
BATCH_LIMIT: Final = 2_000
#: Rows that are decided before their decisions are sent to PostgreSQL, which writes them while the next are decided.
PART_ROWS: Final = 250
#: Limits of one statement of a batch, its wait for the partition's lock, and a pause between two statements.
STATEMENT_TIMEOUT_MS: Final = 10_000
LOCK_TIMEOUT_MS: Final = 5_000
IDLE_TIMEOUT_MS: Final = 10_000
#: Characters of a traceback that are kept, from its end.
TRACE_LIMIT: Final = 8_000

LOCK_PARAMETERS: Final = {
    "lock_class": connections.LOCK_CLASS,
    "statement_ms": STATEMENT_TIMEOUT_MS,
    "lock_ms": LOCK_TIMEOUT_MS,
    "idle_ms": IDLE_TIMEOUT_MS,
}


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


class _Unwritable(Exception):
    """PostgreSQL refused a row of the batch; the cause is the fault."""

    def __init__(self, taken: int, fault: Exception) -> None:
        self.taken = taken
        self.fault = fault


@dataclass(slots=True)
class BatchReport:
    """The result of one batch, for the log and for the drain."""

    partition: int
    taken: int = 0
    #: Whether more rows may wait: the batch was full, or cut short. Later commits send their own notification.
    more: bool = False
    rejected: int = 0
    failed: int = 0
    paused: bool = False
    duration_ms: float = 0.0
    decided: list[UUID] = field(default_factory=list)
    #: Whether couriers have new work.
    for_couriers: bool = False
    paid_after_refund: list[UUID] = field(default_factory=list)


def drain_once(connection: Connection, partition: int, limit: int = BATCH_LIMIT) -> BatchReport:
    """
    Apply up to `limit` inbox rows of a partition, the oldest first, in one transaction.

    A row that PostgreSQL refuses (SQLSTATE class 22 or 23, or a statement timeout) is found by halving the batch. Its
    request is marked as failed.

    Raises DatabaseUnavailable on a fault of the infrastructure. Nothing was applied then, or everything if only the
    answer to the COMMIT was lost. The next batch reads again in either case.
    """
    started = time.perf_counter()
    refusal: str | None = None
    while True:
        try:
            with connections.faults():
                report = _apply(connection, partition, limit, refusal)
        except _Unwritable as unwritable:
            if refusal is not None:  # the drain pauses before it tries again
                line = connections.first_line(unwritable.fault)
                raise DatabaseUnavailable(
                    f"a request can be neither decided nor marked as failed: {line}"
                ) from unwritable
            limit = unwritable.taken // 2
            if limit == 0:
                limit, refusal = 1, _trace(unwritable.fault)
        else:
            report.duration_ms = (time.perf_counter() - started) * 1_000
            return report


def _apply(connection: Connection, partition: int, limit: int, refusal: str | None) -> BatchReport:
    """Apply one transaction. With a `refusal`, the first row could not be written, and its request fails instead."""
    with connection.pipeline() as pipeline, connection.transaction():
        execute = store.executor(connection)
        locked = execute("lock_partition", LOCK_PARAMETERS | {"partition": partition})
        inbox = execute("take_inbox", {"partition": partition, "batch_limit": limit})
        # After the take, because of the clock: no request is decided at an earlier time than it was accepted.
        state = execute("read_partition", {"partition": partition})
        [(*_, settled_xid)] = locked.fetchall()
        [(now, sequence, paused, cancels)] = state.fetchall()
        if paused:
            return BatchReport(partition, paused=True)
        rows = [Row(seq, verb, payload, Request(*asked)) for seq, verb, payload, *asked in inbox.fetchall()]
        if not rows:
            return BatchReport(partition)

        sheet = store.read(
            execute,
            partition,
            rows,
            now,
            sequence,
            {UUID(request): CancelCommand.of(payload) for request, payload in (cancels or {}).items()},
            recheck=refusal is not None,
        )
        writer = store.Writer(execute, sheet)
        try:
            done = _decide(sheet, rows, refusal, writer)
            writer.rest(done, settled_xid)
            pipeline.sync()
        except _UNWRITABLE as fault:
            raise _Unwritable(len(rows), fault) from fault
        writer.check()
    return BatchReport(
        partition,
        taken=len(done),
        more=len(rows) == limit or len(done) < len(rows),
        rejected=sheet.rejected,
        failed=sheet.failed,
        decided=sheet.decided,
        for_couriers=bool(sheet.new_effects or sheet.retried or sheet.deliveries or sheet.codes),
        paid_after_refund=sheet.paid_after_refund,
    )


def _decide(sheet: Worksheet, rows: list[Row], refusal: str | None, writer: Writer) -> list[Row]:
    """
    Decide the rows in order, and send their decisions to PostgreSQL in parts.

    Returns the rows that were decided. It stops early if the rows that follow need a new snapshot.
    """
    done = rows
    for count, row in enumerate(rows, start=1):
        if sheet.needs_reload_before(row):
            done = rows[: count - 1]
            break
        _decide_one(sheet, row, refusal)
        if sheet.needs_reload:
            done = rows[:count]
            break
        if count % PART_ROWS == 0:
            writer.part(sheet.flush())
    writer.part(sheet.flush())
    return done


def _decide_one(sheet: Worksheet, row: Row, refusal: str | None) -> None:
    """Decide one row. If its rule raises, its request fails, and the batch goes on."""
    try:
        if refusal is None:
            sheet.decide(row)
        else:
            sheet.fail(row, refusal)
    except Exception as fault:  # noqa: BLE001  # any fault of a rule is of this one request
        sheet.fail(row, _trace(fault))


def _trace(fault: Exception) -> str:
    """Return the end of a traceback, with escapes for what PostgreSQL cannot store: NUL, lone surrogates."""
    text = "".join(traceback.format_exception(fault))[-TRACE_LIMIT:]
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
