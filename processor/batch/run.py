"""
One batch of one partition: the oldest inbox rows, decided in order and written as sets, in one transaction.

This is the only code that changes resources, usages, entries and decisions. It reads everything once,
decides in memory (`processor/domain`), and writes everything once. Nothing here knows of
queues: the caller notifies the partitions of the follow-ups after the commit.
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

#: Inbox rows applied in one transaction: enough that the round trips do not matter, few enough to be quick.
BATCH_LIMIT: Final = 2_000
#: Rows after which what was decided is sent to be written, while the next ones are decided: enough that a
#: statement is worth it, few enough that PostgreSQL has not long to wait for the first.
PART_ROWS: Final = 250
#: How long one statement of a batch, its wait for the partition's lock, and a pause between two statements may take.
STATEMENT_TIMEOUT_MS: Final = 10_000
LOCK_TIMEOUT_MS: Final = 5_000
IDLE_TIMEOUT_MS: Final = 10_000
#: Characters of a traceback that are kept: the end of it, where the fault is.
TRACE_LIMIT: Final = 8_000

LOCK_PARAMETERS: Final = {
    "lock_class": connections.LOCK_CLASS,
    "statement_ms": STATEMENT_TIMEOUT_MS,
    "lock_ms": LOCK_TIMEOUT_MS,
    "idle_ms": IDLE_TIMEOUT_MS,
}


# What says that a row cannot be written: PostgreSQL refuses it, or it cannot even be sent. Everything else says
# something about the connection or the schema.
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
    """PostgreSQL refused what the batch wanted to write; the cause says why."""

    def __init__(self, taken: int, fault: Exception) -> None:
        self.taken = taken
        self.fault = fault


@dataclass(slots=True)
class BatchReport:
    """What one batch did, for the log and for whoever drains."""

    partition: int
    taken: int = 0
    #: Whether there may be more: the batch was full, or cut short. What is committed later rings again.
    more: bool = False
    rejected: int = 0
    parked: int = 0
    paused: bool = False
    duration_ms: float = 0.0
    decided: list[UUID] = field(default_factory=list)
    follow_ups: set[int] = field(default_factory=set)
    #: Whether couriers have something to do now.
    for_couriers: bool = False
    paid_after_refund: list[UUID] = field(default_factory=list)


def drain_once(connection: Connection, partition: int, limit: int = BATCH_LIMIT) -> BatchReport:
    """
    Apply up to `limit` inbox rows of a partition, the oldest first, in one transaction.

    A row that PostgreSQL refuses (SQLSTATE class 22 or 23, or a statement timeout) is found by halving
    the batch, and parked. Raises DatabaseUnavailable on a fault of the infrastructure, with nothing
    applied or, when the answer to the COMMIT was lost, everything: a fresh read tells.
    """
    started = time.perf_counter()
    refusal: str | None = None
    while True:
        try:
            with connections.faults():
                report = _apply(connection, partition, limit, refusal)
        except _Unwritable as unwritable:
            if refusal is not None:  # whoever drains waits before it tries again
                raise DatabaseUnavailable(
                    f"a request can be neither decided nor parked: {connections.first_line(unwritable.fault)}"
                ) from unwritable
            limit = unwritable.taken // 2
            if limit == 0:
                limit, refusal = 1, _trace(unwritable.fault)
        else:
            report.duration_ms = (time.perf_counter() - started) * 1_000
            return report


def _apply(connection: Connection, partition: int, limit: int, refusal: str | None) -> BatchReport:
    """One transaction. `refusal` is why the first row cannot be written: it is parked instead of decided."""
    with connection.pipeline() as pipeline, connection.transaction():
        execute = store.executor(connection)
        locked = execute("lock_partition", LOCK_PARAMETERS | {"partition": partition})
        inbox = execute("take_inbox", {"partition": partition, "batch_limit": limit})
        # After the take, for the clock: nothing is decided at an earlier time than it was asked.
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
            doubt=refusal is not None,
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
        parked=sheet.parked,
        decided=sheet.decided,
        for_couriers=bool(sheet.new_effects or sheet.rearmed or sheet.deliveries or sheet.codes),
        paid_after_refund=sheet.paid_after_refund,
    )


def _decide(sheet: Worksheet, rows: list[Row], refusal: str | None, writer: Writer) -> list[Row]:
    """
    Decide each row in order, and have what is decided written along the way; returns those rows that were,
    which can be fewer: the sheet asks for a fresh read when a row changes what the others need to know.
    """
    done = rows
    for count, row in enumerate(rows, start=1):
        _decide_one(sheet, row, refusal)
        if sheet.stale:
            done = rows[:count]
            break
        if count % PART_ROWS == 0:
            writer.part(sheet.flush())
    writer.part(sheet.flush())
    return done


def _decide_one(sheet: Worksheet, row: Row, refusal: str | None) -> None:
    """A fault in deciding one request parks that one, and the others go on."""
    try:
        if refusal is None:
            sheet.decide(row)
        else:
            sheet.park(row, refusal)
    except Exception as fault:  # noqa: BLE001  # whatever a rule raises is about this one request
        sheet.park(row, _trace(fault))


def _trace(fault: Exception) -> str:
    """The end of a traceback, with what PostgreSQL cannot store (NUL, lone surrogates) as escapes."""
    text = "".join(traceback.format_exception(fault))[-TRACE_LIMIT:]
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
