"""
Parked requests: what an admin sees of them, and sends back into their queues.

Writes inbox rows and the audit, never a request: the batch of the home partition decides what comes of a
replay, in its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from processor import database
from processor.database import Connection
from processor.intake import Submission, fingerprint
from processor.records import Document, timestamp

#: Inbox rows written in one transaction when many requests are replayed.
CHUNK_LIMIT: Final = 1_000

SQL = database.queries("parked")


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many requests match, how many were sent back, the partitions to ring, and which were sent."""

    matched: int
    replayed: int
    partitions: frozenset[int]
    sent: frozenset[UUID] = frozenset()


class Attempt(NamedTuple):
    """One call of a gateway."""

    started_at: datetime
    ended_at: datetime | None
    status: int | None
    outcome: str | None
    error: str | None

    def document(self) -> Document:
        """The attempt as admins see it."""
        fields: Document = self._asdict()
        return fields | {"started_at": timestamp(self.started_at), "ended_at": timestamp(self.ended_at)}


def replay(connection: Connection, ids: Sequence[UUID], actor: str, reason: str) -> Replayed:
    """
    Send these requests to the end of their queues, each that is failed; those of one resource in the
    order in which they were decided at first. Raises DatabaseUnavailable.
    """
    with database.faults():
        found = connection.execute(SQL["failed_among"], {"ids": list(ids)}).fetchall()
    return _send(connection, found, actor, reason)


def replay_all(
    connection: Connection,
    code: str | None,
    resource: str | None,
    actor: str,
    reason: str,
    *,
    dry_run: bool = False,
) -> Replayed:
    """
    Send all failed requests that match back, or only count them. Raises DatabaseUnavailable.
    """
    with database.faults():
        found = connection.execute(SQL["failed_requests"], {"code": code, "resource": resource}).fetchall()
    return Replayed(len(found), 0, frozenset()) if dry_run else _send(connection, found, actor, reason)


def _send(connection: Connection, found: list[tuple[Any, ...]], actor: str, reason: str) -> Replayed:
    sent: dict[UUID, int] = {}
    for begin in range(0, len(found), CHUNK_LIMIT):
        chunk = found[begin : begin + CHUNK_LIMIT]
        parameters = {
            "ids": [request_id for request_id, _ in chunk],
            "partitions": [partition for _, partition in chunk],
            "actor": actor,
            "reason": reason,
        }
        with database.faults():
            sent |= dict(connection.execute(SQL["replay"], parameters).fetchall())
    return Replayed(len(found), len(sent), frozenset(sent.values()), frozenset(sent))


def refund(
    connection: Connection,
    request_id: UUID,
    amount: int | None,
    reason: str,
    *,
    client_id: str,
    key_id: UUID,
    idempotency_key: str,
) -> Submission | None:
    """
    A refund of a request, ready for intake; it is decided in its turn. None: there is no such request.
    Raises DatabaseUnavailable.
    """
    with database.faults():
        original = connection.execute(SQL["read_original"], {"id": request_id}).fetchone()
    if original is None:
        return None
    _, resource_id, account = original
    body = {"refund_of": str(request_id), "reason": reason} | ({} if amount is None else {"amount": amount})
    return Submission(
        client_id,
        key_id,
        idempotency_key,
        fingerprint("refund", body),
        "refund",
        resource_id,
        account,
        amount,
        refund_of=request_id,
        details={"reason": reason},
    )


def note(
    connection: Connection,
    actor: str,
    action: str,
    request_id: UUID | None,
    reason: str | None,
    detail: Document | None = None,
) -> None:
    """Write a line into the audit. Raises DatabaseUnavailable."""
    parameters = {
        "actor": actor,
        "action": action,
        "request_id": request_id,
        "reason": reason,
        "detail": None if detail is None else Jsonb(detail),
    }
    with database.faults():
        connection.execute(SQL["note"], parameters)


def read_trace(connection: Connection, request_id: UUID) -> str | None:
    """The traceback of a parked request, for admins alone. Raises DatabaseUnavailable."""
    with database.faults():
        row = connection.execute(SQL["read_trace"], {"id": request_id}).fetchone()
    return None if row is None else row[0]


def read_attempts(connection: Connection, request_id: UUID) -> list[Attempt]:
    """The calls of its gateway, oldest first. Raises DatabaseUnavailable."""
    with database.faults():
        return [Attempt(*row) for row in connection.execute(SQL["read_attempts"], {"id": request_id})]
