"""
One batch of one partition: the oldest inbox rows, decided in order and written as sets, in one transaction.

This is the only code that changes resources, usages, entries and decisions. It reads everything once,
decides in memory (`processor/rules`, `processor/ledger`), and writes everything once. Nothing here knows
of queues: whoever drains rings for the follow-ups after the commit.
"""

import itertools
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg import Cursor, DataError, IntegrityError, Pipeline
from psycopg.errors import QueryCanceled
from psycopg.types.json import Jsonb

from processor import database
from processor.database import Connection
from processor.errors import DatabaseUnavailable
from processor.model import Effect, Entry, Request, Resource, State
from processor.worksheet import Delivery, Known, Row, Webhook, Worksheet

#: Inbox rows applied in one transaction: enough that the round trips do not matter, few enough to be quick.
BATCH_LIMIT: Final = 2_000
#: How long one statement of a batch, its wait for the partition's lock, and a pause between two statements may take.
STATEMENT_TIMEOUT_MS: Final = 10_000
LOCK_TIMEOUT_MS: Final = 5_000
IDLE_TIMEOUT_MS: Final = 10_000
#: Characters of a traceback that are kept: the end of it, where the fault is.
TRACE_LIMIT: Final = 8_000

SQL = database.queries("batch")
_TIMEOUTS: Final = {
    "statement_ms": STATEMENT_TIMEOUT_MS,
    "lock_ms": LOCK_TIMEOUT_MS,
    "idle_ms": IDLE_TIMEOUT_MS,
}


class _Unwritable(Exception):
    """PostgreSQL refused what the batch wanted to write; the cause says why."""

    def __init__(self, taken: int) -> None:
        self.taken = taken


@dataclass(slots=True)
class BatchReport:
    """What one batch did, for the log and for whoever drains."""

    partition: int
    taken: int = 0
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
            with database.faults():
                report = _apply(connection, partition, limit, refusal)
        except _Unwritable as unwritable:
            limit = unwritable.taken // 2
            if limit == 0:
                limit, refusal = 1, _trace(unwritable.__cause__)
        else:
            report.duration_ms = (time.perf_counter() - started) * 1_000
            return report


def _apply(connection: Connection, partition: int, limit: int, refusal: str | None) -> BatchReport:
    """One transaction. `refusal` is why the first row cannot be written: it is parked instead of decided."""
    with connection.pipeline() as pipeline, connection.transaction():
        execute = _executor(connection)
        execute("set_timeouts", _TIMEOUTS)
        execute("lock_partition", {"lock_class": database.LOCK_CLASS, "partition": partition})
        state = execute("read_partition", {"partition": partition})
        inbox = execute("take_inbox", {"partition": partition, "batch_limit": limit})
        cancels = execute("read_cancels", {"partition": partition})
        [(now, sequence, paused)] = state.fetchall()
        if paused:
            return BatchReport(partition, paused=True)
        rows = [Row(seq, verb, payload, Request(*asked)) for seq, verb, payload, *asked in inbox.fetchall()]
        if not rows:
            return BatchReport(partition)

        sheet = _read(execute, partition, rows, now, sequence, {request_id for (request_id,) in cancels})
        done = _decide(sheet, rows, refusal)
        try:
            _write(execute, pipeline, sheet, done)
        except (DataError, IntegrityError, QueryCanceled) as fault:
            raise _Unwritable(len(rows)) from fault
    return BatchReport(
        partition,
        taken=len(done),
        rejected=sheet.rejected,
        parked=sheet.parked,
        decided=[state.request_id for state in sheet.new_states],
        for_couriers=bool(sheet.new_effects or sheet.rearmed or sheet.deliveries),
        paid_after_refund=sheet.paid_after_refund,
    )


def _decide(sheet: Worksheet, rows: list[Row], refusal: str | None) -> list[Row]:
    """
    Decide each row in order; returns those that were, which can be fewer: the sheet asks for a fresh
    read when a row changes what the others need to know. A fault in deciding one parks that one.
    """
    for count, row in enumerate(rows, start=1):
        try:
            if refusal is None:
                sheet.decide(row)
            else:
                sheet.park(row, refusal)
        except Exception as fault:  # noqa: BLE001  # whatever a rule raises is about this one request: it is parked
            sheet.park(row, _trace(fault))
        if sheet.stale:
            return rows[:count]
    return rows


def _trace(fault: BaseException | None) -> str:
    return "".join(traceback.format_exception(fault))[-TRACE_LIMIT:]


# ---------------------------------------------------------------- reading and writing

Execute = Callable[[str, Mapping[str, Any]], Cursor[tuple[Any, ...]]]


def _executor(connection: Connection) -> Execute:
    """Run a named query of this module; in a pipeline it returns at once, and its rows wait in the cursor."""

    def execute(name: str, parameters: Mapping[str, Any]) -> Cursor[tuple[Any, ...]]:
        return connection.cursor(binary=True).execute(SQL[name], parameters)

    return execute


def _read(
    execute: Execute, partition: int, rows: list[Row], now: datetime, sequence: int, cancels: set[UUID]
) -> Worksheet:
    """Everything that the rows can touch, in one or two round trips."""
    requests = [row.request for row in rows]
    clients = list({request.client_id for request in requests})
    resources_read = execute("read_resources", {"ids": list({request.resource_id for request in requests})})
    webhooks_read = execute("read_webhooks", {"client_ids": clients})
    accounts = list({request.account for request in requests if request.account is not None})
    contacts_read = execute("read_contacts", {"client_ids": clients, "accounts": accounts})

    known = Known({columns[0]: Resource(*columns) for columns in resources_read}, {}, {}, cancels)
    for webhook in itertools.starmap(Webhook, webhooks_read):
        known.webhooks.setdefault(webhook.client_id, []).append(webhook)
    known.contacts = {(client, account): email for client, account, email in contacts_read}
    _read_usages(execute, known, requests)
    _read_history(execute, known, rows)
    return Worksheet(partition, now, sequence, known)


def _read_usages(execute: Execute, known: Known, requests: list[Request]) -> None:
    """What the accounts have used so far of the resources that limit it."""
    limited = {resource.id for resource in known.resources.values() if resource.per_account_limit is not None}
    keys = {
        (request.resource_id, request.client_id, request.account)
        for request in requests
        if request.account is not None and request.resource_id in limited
    }
    if keys:
        read = execute("read_usages", _columns(keys, ("resource_ids", "client_ids", "accounts")))
        known.usages = {(resource, client, account): used for resource, client, account, used in read}


def _read_history(execute: Execute, known: Known, rows: list[Row]) -> None:
    """How the requests stand that were decided before: those with a later word on them, and those to be refunded."""
    refunded = [row.request.refund_of for row in rows if row.request.refund_of is not None]
    ids = [row.request.id for row in rows if row.verb != "decide"] + refunded
    if not ids:
        return
    effects_read = execute("read_effects", {"ids": ids})  # first: a courier that is calling is waited for
    states_read = execute("read_states", {"ids": ids})
    holds_read = execute("read_open_holds", {"ids": ids})
    originals_read = execute("read_originals", {"ids": refunded})
    known.effects = {effect.request_id: effect for effect in itertools.starmap(Effect, effects_read)}
    known.states = {state.request_id: state for state in itertools.starmap(State, states_read)}
    known.holding = {request_id for (request_id,) in holds_read}
    known.originals = {original.id: original for original in itertools.starmap(Request, originals_read)}
    _read_usages(execute, known, [*known.originals.values(), *(row.request for row in rows)])


def _write(execute: Execute, pipeline: Pipeline, sheet: Worksheet, done: list[Row]) -> None:
    """
    Everything that was decided, as sets, in one round trip; and the check that it hit what was read.
    """
    moved = _write_resources(execute, sheet)
    superseded = _write_states(execute, sheet)
    _write_consequences(execute, sheet)
    deleted = execute("delete_inbox", {"partition": sheet.partition, "seqs": [row.seq for row in done]})
    execute("count_batch", {"partition": sheet.partition, "sequence": sheet.sequence})
    pipeline.sync()

    if deleted.rowcount != len(done):
        raise _overtaken("the inbox")
    if moved.rowcount != len(sheet.versions_before.keys() - set(sheet.opened)):
        raise _overtaken("a resource")
    if superseded.rowcount != len(sheet.superseded):
        raise _overtaken("a request")


def _write_resources(execute: Execute, sheet: Worksheet) -> Cursor[tuple[Any, ...]]:
    """Resources, usages and entries."""
    resources, opened = sheet.known.resources, set(sheet.opened)
    for resource_id in sheet.opened:
        resource = asdict(resources[resource_id])
        execute(
            "insert_resource",
            resource | {"metadata": _json(resource["metadata"]), "partition": sheet.partition},
        )
    for resource_id in sheet.amended - opened:
        resource = asdict(resources[resource_id])
        execute("update_rules", resource | {"metadata": _json(resource["metadata"])})
    moved = [
        (one.id, before, one.available, one.held, one.version, one.digest, one.last_entry_at)
        for one, before in (
            (resources[moved_id], before) for moved_id, before in sheet.versions_before.items()
        )
        if one.id not in opened
    ]
    names = ("ids", "versions_before", "availables", "helds", "versions", "digests", "last_entries")
    updated = execute("update_resources", _columns(moved, names))
    if sheet.moved_usages:
        usages = [
            (*key, used, max(used, resources[key[0]].per_account_limit or 0))
            for key, used in ((key, sheet.known.usages[key]) for key in sheet.moved_usages)
        ]
        execute(
            "write_usages", _columns(usages, ("resource_ids", "client_ids", "accounts", "used", "limits"))
        )
    if sheet.entries:
        execute("insert_entries", _columns(sheet.entries, Entry._fields))
    if sheet.newly_limited is not None:
        limit = resources[sheet.newly_limited].per_account_limit
        execute("rebuild_usages", {"resource_id": sheet.newly_limited, "limit": limit})
    return updated


def _write_states(execute: Execute, sheet: Worksheet) -> Cursor[tuple[Any, ...]]:
    """The new states; returns the cursor of those that are not current any more."""
    before = [(state.request_id, state.version) for state in sheet.superseded.values()]
    superseded = execute("supersede_states", _columns(before, ("request_ids", "versions")))
    if sheet.new_states:
        states = _columns(sheet.new_states, State._fields)
        current = [state is sheet.known.states[state.request_id] for state in sheet.new_states]
        execute("insert_states", states | {"current": current, "now": sheet.now})
    return superseded


def _write_consequences(execute: Execute, sheet: Worksheet) -> None:
    """What the couriers have to do."""
    if sheet.new_effects:
        columns = _columns(sheet.new_effects, ("request_ids", "gateways"))
        execute("insert_effects", columns | {"partition": sheet.partition, "now": sheet.now})
    if sheet.rearmed:
        execute("rearm_effects", {"ids": sheet.rearmed, "now": sheet.now})
    if sheet.voided:
        execute("void_effects", {"ids": sheet.voided, "now": sheet.now})
    if sheet.deliveries:
        execute("insert_deliveries", _columns(sheet.deliveries, Delivery._fields))


def _columns(rows: Iterable[tuple[Any, ...]], names: tuple[str, ...]) -> dict[str, Any]:
    """Rows as one list for each column: what `unnest` takes."""
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def _json(value: dict[str, Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(value)


def _overtaken(what: str) -> DatabaseUnavailable:
    """Somebody else changed what this batch had read: nothing is written, and a fresh read decides anew."""
    return DatabaseUnavailable(f"{what} changed while the batch was under way; nothing was written")
