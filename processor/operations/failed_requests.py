"""
Parked requests: what an admin sees of them, and sends back into their queues.

Writes inbox rows and the audit, never a request: the batch of the home partition decides what comes of a
replay, in its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from processor.intake.intake import Submission, fingerprint
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Inbox rows written in one transaction when many requests are replayed.
CHUNK_LIMIT: Final = 1_000

SQL = statements.beside(__file__)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many requests match, how many were sent back, the partitions to ring, and which were sent."""

    matched: int
    replayed: int
    partitions: frozenset[int]
    sent: frozenset[UUID] = frozenset()


def replay(connection: Connection, ids: Sequence[UUID], actor: str, reason: str) -> Replayed:
    """
    Send these requests to the end of their queues, each that is failed; those of one resource in the
    order in which they were decided at first. Raises DatabaseUnavailable.
    """
    with connections.faults():
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
    with connections.faults():
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
        with connections.faults():
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
    with connections.faults():
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
