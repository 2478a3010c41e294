"""
Intake: makes requests durable, many at a time, and answers each.

The concurrent requests of one API process share one INSERT of one writer thread. More requests make larger groups.
Intake writes `requests`, `inbox` and audit lines. It decides nothing.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
import structlog
from psycopg import DataError, IntegrityError

from processor.domain.legs import partitions_of
from processor.domain.partitioning import partition_of
from processor.errors import DatabaseUnavailable, IdempotencyKeyReused, PartitionSaturated, TellerError
from processor.ids import accepted_id, new_tails
from processor.intake.saturation import Saturation, await_standby
from processor.intake.turns import Turns
from processor.records import documents
from processor.records.audit import AuditLine
from processor.records.documents import RequestRecord
from processor.storage import arrays, connections, json_text, statements
from processor.storage.connections import Connection, Reconnecting
from processor.tracing import correlation
from processor.tracing.correlation import Correlation

#: Requests of one call that are in the same INSERT. The parts of a larger call may be in several.
PART_LIMIT: Final = 250
#: The longest wait of a caller for its group. The outcome is unknown after it.
ANSWER_TIMEOUT_SECONDS: Final = 2.8

# Its form never changes: the fingerprints of all stored requests use it.
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)

# Faults of a value: PostgreSQL refuses it, or UTF-8 cannot express it.
_REFUSED: Final = (DataError, IntegrityError, UnicodeEncodeError)

SQL = {
    name: text.replace("{request_columns}", documents.REQUEST_COLUMNS).replace(
        "{request_tables}", documents.REQUEST_TABLES
    )
    for name, text in statements.beside(__file__).items()
}
#: Only a group with audit lines pays for them.
ACCEPT: Final = SQL["accept_requests"].replace("{audit_lines}", "")
ACCEPT_AND_AUDIT: Final = SQL["accept_requests"].replace("{audit_lines}", SQL["audit_lines"])
log = structlog.get_logger()


class Submission(NamedTuple):
    """One request, already validated. `fingerprint` is the SHA-256 of its body."""

    client_id: str
    key_id: UUID
    idempotency_key: str
    fingerprint: bytes
    kind: str
    resource_id: str
    account: str | None
    amount: int | None
    apply_before: datetime | None = None
    refund_of: UUID | None = None
    details: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    #: The act of an operator that made this request. Written with it, never with a replay of its key.
    audit: AuditLine | None = None


class Receipt(NamedTuple):
    """The answer to one submission: the durable request, or the problem for which nothing is stored."""

    request: RequestRecord | None = None
    replayed: bool = False
    problem: TellerError | None = None

    def record(self) -> RequestRecord:
        """Return the durable request. Raises its problem."""
        if self.request is None:
            raise self.problem or TellerError("intake gave no reason")
        return self.request


@dataclass(slots=True)
class _Asked:
    """One submission in the writer."""

    submission: Submission
    partition: int
    #: The partition of each of its legs. A request with a single resource has its home partition alone.
    partitions: frozenset[int]
    #: The HTTP call that makes it.
    correlation: Correlation
    #: The id that the INSERT made. None: it is not written yet.
    id: UUID | None = None
    receipt: Receipt | None = None


@dataclass(slots=True)
class _Call:
    """
    The submissions of one caller, which waits for the release of `done`.

    `done` is a plain lock. A Future wakes a thread twice, and waking threads is most of the cost of accepting.
    """

    asked: list[_Asked]
    done: threading.Lock = field(default_factory=threading.Lock)
    #: The caller no longer waits, so the writer may skip what is left of this call.
    given_up: bool = False
    is_answered: bool = False
    fault: DatabaseUnavailable | None = None

    def __post_init__(self) -> None:
        self.done.acquire()

    def answer(self, fault: DatabaseUnavailable | None = None) -> None:
        """Release the caller: its receipts are there, or the outcome is unknown because of the fault. Once."""
        if not self.is_answered:
            self.is_answered = self.given_up = True
            self.fault = fault
            self.done.release()


class _Part(NamedTuple):
    """Submissions of one call, in the order of the call. They are written together."""

    call: _Call
    asked: list[_Asked]
    is_last: bool


def fingerprint(kind: str, body: dict[str, Any]) -> bytes:
    """
    Return the SHA-256 of the kind and the body, as canonical JSON with sorted keys and no spaces.

    It separates a repetition of a request from a reuse of its key.
    """
    return hashlib.sha256(_CANONICAL.encode([kind, body]).encode()).digest()


class Intake:
    """
    The writer of one process. Start it after the fork; `accept` may then be called from any thread.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        partitions: int,
        backlog_limit: int,
        accepted: Callable[[Iterable[int]], None],
    ) -> None:
        """
        `accepted` is called after each commit with the partitions that have new work. It must not block, for it runs
        in the writer's thread. `backlog_limit` is the number of inbox rows from which a partition is saturated.
        """
        self._saturation = Saturation(connect, backlog_limit)
        self._partitions = partitions
        self._accepted = accepted
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._turns: Turns[_Part] = Turns()
        self._stopping = False
        self._connection = Reconnecting(connect)
        #: The writer has given a commit up, and the server still waits for a standby.
        self._is_settling = False
        self._writer = threading.Thread(target=self._write_groups, name="intake-writer", daemon=True)
        #: For the metrics: groups written, and requests in them.
        self.groups = 0
        self.requests = 0

    def start(self) -> None:
        """Start the threads; once."""
        self._writer.start()
        self._saturation.start()

    def stop(self) -> None:
        """Write the submissions that were handed in, and end."""
        self._saturation.stop()
        self._calls.put(None)
        self._writer.join(ANSWER_TIMEOUT_SECONDS)

    def alive(self) -> bool:
        """Return False if the writer has died; the process must then be restarted."""
        return self._writer.is_alive()

    def waits_for_standby(self) -> bool:
        """Return whether commits wait for a synchronous standby, so that no request is accepted."""
        return self._is_settling or self._saturation.waits_for_standby

    def accept(self, submissions: Sequence[Submission], within_seconds: float | None = None) -> list[Receipt]:
        """
        Make requests durable, each with the current correlation. Returns a receipt for each, in order.

        Raises DatabaseUnavailable if the outcome is unknown, at the latest after ANSWER_TIMEOUT_SECONDS or
        `within_seconds`. A repetition with the same key returns the outcome.
        """
        if self._is_settling:  # a queue without a limit would grow otherwise
            raise DatabaseUnavailable("the database does not answer, or waits for its standby")
        made_by = correlation.current()
        asked = [self._asked(one, made_by) for one in submissions]
        if asked:
            call = _Call(asked)
            self._calls.put(call)
            longest = ANSWER_TIMEOUT_SECONDS
            if not call.done.acquire(
                timeout=longest if within_seconds is None else min(longest, within_seconds)
            ):
                call.given_up = True
                raise DatabaseUnavailable("the database did not answer in time")
            if call.fault is not None:
                raise call.fault
        return [one.receipt for one in asked if one.receipt is not None]

    def _asked(self, submission: Submission, made_by: Correlation) -> _Asked:
        home = partition_of(submission.resource_id, self._partitions)
        partitions = partitions_of(submission.details, home, self._partitions)
        return _Asked(submission, home, partitions, made_by)

    # ------------------------------------------------------------ the writer's thread

    def _write_groups(self) -> None:
        while group := self._next_group():
            parts = [part for part in group if not part.call.given_up]
            try:
                self._write_parts(parts)
            except DatabaseUnavailable as fault:
                self._fail(parts, fault)
            except psycopg.Error as fault:
                log.exception("intake_fault")
                self._fail(parts, DatabaseUnavailable(connections.first_line(fault)))
            except BaseException as fault:
                self._fail(parts, DatabaseUnavailable(f"intake died: {connections.first_line(fault)}"))
                raise
        self._connection.close()

    def _fail(self, parts: list[_Part], fault: DatabaseUnavailable) -> None:
        """Answer that the outcome is unknown. Close the connection, once its commit waits for no standby."""
        for part in parts:
            part.call.answer(fault)
        self._is_settling = True
        self._connection.close()
        self._is_settling = False

    def _next_group(self) -> list[_Part]:
        """Take waiting calls in turns of their clients. Blocks for the first. Returns [] to stop."""
        if not self._turns and not self._stopping:
            self._line_up(self._calls.get())
        while not self._stopping:
            try:
                self._line_up(self._calls.get_nowait())
            except queue.Empty:
                break
        return self._turns.next_group()

    def _line_up(self, call: _Call | None) -> None:
        """Let a call wait for the turn of its client. None: finish what waits, and stop."""
        if call is None:
            self._stopping = True
        else:
            client = call.asked[0].submission.client_id
            for start in range(0, len(call.asked), PART_LIMIT):
                asked = call.asked[start : start + PART_LIMIT]
                self._turns.add(client, len(asked), _Part(call, asked, start + PART_LIMIT >= len(call.asked)))

    def _write_parts(self, parts: list[_Part]) -> None:
        group = [one for part in parts for one in part.asked]
        if not group:
            return
        try:
            self._write(group)
        except _REFUSED:
            for one in group:  # PostgreSQL refuses one of them, and the others are valid
                self._write_alone(one)
        self.groups += 1
        self.requests += len(group)
        self._accepted(frozenset().union(*(one.partitions for one in group)))
        for part in parts:
            if part.is_last:
                part.call.answer()

    def _write_alone(self, one: _Asked) -> None:
        try:
            self._write([one])
        except _REFUSED as fault:
            log.exception(
                "request_refused_by_database",
                client=one.submission.client_id,
                kind=one.submission.kind,
                error=connections.first_line(fault),
                **one.correlation.log_fields(),
            )
            one.receipt = Receipt(problem=TellerError("the database refuses this request"))

    def _write(self, group: list[_Asked]) -> None:
        with connections.faults():
            connection = self._connection.get()
            won = self._insert(
                connection, [one for one in group if one.partitions.isdisjoint(self._saturation.partitions)]
            )
        others = []
        for one in group:
            if one.id is not None and one.id in won:
                one.receipt = Receipt(_new_record(one.submission, one.id, won[one.id]))
            else:
                others.append(one)
        if others:
            self._answer_others(connection, others)

    def _insert(self, connection: Connection, group: list[_Asked]) -> dict[UUID, datetime]:
        """Insert a group. Returns the time of acceptance of each request that was the first with its key."""
        if not group:
            return {}
        tails = new_tails(len(group))
        audited = [(one, tail) for one, tail in zip(group, tails, strict=True) if one.submission.audit]
        columns = _columns(group, tails)
        statement = ACCEPT
        if audited:
            statement = ACCEPT_AND_AUDIT
            columns |= _audit_columns(audited)
        parameters = arrays.packed(statement, columns)
        accepted_at: datetime
        [(count, accepted_at)] = connection.cursor(binary=True).execute(statement, parameters).fetchall()
        ids = [accepted_id(accepted_at, tail) for tail in tails]
        for one, request_id in zip(group, ids, strict=True):
            one.id = request_id
        if count != len(ids):
            there = connection.cursor(binary=True).execute(SQL["read_accepted"], {"ids": ids}).fetchall()
            ids = [request_id for (request_id,) in there]
        return dict.fromkeys(ids, accepted_at)

    def _answer_others(self, connection: Connection, others: list[_Asked]) -> None:
        """Answer repetitions with the first request of their key, and new requests with PartitionSaturated."""
        keys = {
            "client_ids": [one.submission.client_id for one in others],
            "idempotency_keys": [one.submission.idempotency_key for one in others],
        }
        with connections.faults():
            rows = connection.cursor(binary=True).execute(SQL["read_by_keys"], keys).fetchall()
        first = {(record.client_id, key): (digest, record) for key, digest, record in map(_keyed, rows)}
        if first:  # the wait of their own commits may have been cancelled
            await_standby(connection)
        for one in others:
            digest, record = first.get(
                (one.submission.client_id, one.submission.idempotency_key), (None, None)
            )
            if record is None:
                one.receipt = Receipt(
                    problem=PartitionSaturated("too much is waiting for this resource already")
                )
            elif digest == one.submission.fingerprint:
                one.receipt = Receipt(record, replayed=True)
            else:
                one.receipt = Receipt(
                    problem=IdempotencyKeyReused("this key was used before, with another body")
                )


def _keyed(columns: tuple[Any, ...]) -> tuple[str, bytes, RequestRecord]:
    return columns[0], columns[1], RequestRecord(*columns[2:])


def _columns(group: list[_Asked], tails: list[int]) -> dict[str, Any]:
    """Return the group as one list for each column of `accept_requests`."""
    submissions = [one.submission for one in group]
    return {
        "tail": tails,
        "client_id": [s.client_id for s in submissions],
        "created_by": [s.key_id for s in submissions],
        "idempotency_key": [s.idempotency_key for s in submissions],
        "fingerprint": [s.fingerprint for s in submissions],
        "kind": [s.kind for s in submissions],
        "partition": [one.partition for one in group],
        "resource_id": [s.resource_id for s in submissions],
        "account": [s.account for s in submissions],
        "amount": [s.amount for s in submissions],
        "apply_before": [s.apply_before for s in submissions],
        "refund_of": [s.refund_of for s in submissions],
        "details": [_json(s.details) for s in submissions],
        "metadata": [_json(s.metadata) for s in submissions],
        "x_request_id": [one.correlation.x_request_id for one in group],
        "traceparent": [one.correlation.traceparent for one in group],
    }


def _audit_columns(audited: list[tuple[_Asked, int]]) -> dict[str, Any]:
    """Return the audit lines of a group as one list for each column."""
    lines = [one.submission.audit for one, _ in audited if one.submission.audit is not None]
    return {
        "audit_of": [tail for _, tail in audited],
        "audit_actor": [line.actor for line in lines],
        "audit_action": [line.action for line in lines],
        "audit_request_id": [line.request_id for line in lines],
        "audit_reason": [line.reason for line in lines],
        "audit_detail": [_json(line.detail) for line in lines],
    }


def _json(value: dict[str, Any] | None) -> str | None:
    return json_text.dumps(value) if value else None


def _new_record(s: Submission, request_id: UUID, created_at: datetime) -> RequestRecord:
    return RequestRecord(
        request_id,
        s.client_id,
        s.kind,
        s.resource_id,
        s.account,
        s.amount,
        s.metadata,
        s.details,
        s.apply_before,
        s.refund_of,
        created_at,
    )
