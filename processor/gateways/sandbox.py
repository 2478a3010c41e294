"""
The sandbox gateway: it moves no money, records each call, and chooses its answer by the destination of a withdrawal.

It makes one payout for each key, at any concurrency. Each answer was committed before. docs/gateways.md describes it.
"""

from datetime import datetime
from http import HTTPStatus
from typing import Final, NamedTuple
from uuid import UUID

from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The calls that `flaky` answers with 503 before it pays.
FLAKY_FAILURES: Final = 2
#: The time that `slow` takes to answer, in seconds.
SLOW_SECONDS: Final = 3.0

SQL = statements.beside(__file__)


class Reply(NamedTuple):
    """An answer of the sandbox, and the pause before it."""

    status: HTTPStatus
    reference: str | None = None
    reason: str | None = None
    pause_seconds: float = 0.0


class Call(NamedTuple):
    """A recorded call, and the status of its answer."""

    at: datetime
    status: int


def perform(connection: Connection, request_id: UUID, destination: str | None) -> Reply:
    """
    Pay or decline, by `destination`. A key that was paid stays paid.

    Raises DatabaseUnavailable; then the payout may have been made, and the same call again returns the outcome.
    """
    parameters = {"request_id": request_id}
    with connections.faults(), connection.transaction():
        connection.execute(SQL["lock_key"], parameters | {"lock_class": connections.SANDBOX_LOCK})
        [(calls, is_paid)] = connection.execute(SQL["read_past"], parameters).fetchall()
        reply = _paid(request_id, destination) if is_paid else _decide(request_id, destination, calls)
        if reply.status == HTTPStatus.OK and not is_paid:
            connection.execute(SQL["insert_payout"], parameters)
        connection.execute(SQL["insert_call"], parameters | {"status": int(reply.status)})
    return reply


def read_past(connection: Connection, request_id: UUID) -> tuple[list[Call], int]:
    """Return the calls for a request, oldest first, and its number of payouts. Raises DatabaseUnavailable."""
    parameters = {"request_id": request_id}
    with connections.faults():
        calls = [Call(*row) for row in connection.execute(SQL["list_calls"], parameters)]
        [(payouts,)] = connection.execute(SQL["count_payouts"], parameters).fetchall()
    return calls, payouts


def _decide(request_id: UUID, destination: str | None, calls: int) -> Reply:
    if destination == "decline":
        return Reply(HTTPStatus.UNPROCESSABLE_ENTITY, reason="the sandbox declines this destination")
    if destination == "unavailable" or (destination == "flaky" and calls < FLAKY_FAILURES):
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE, reason="the sandbox is unavailable for this destination")
    return _paid(request_id, destination)


def _paid(request_id: UUID, destination: str | None) -> Reply:
    pause_seconds = SLOW_SECONDS if destination == "slow" else 0.0
    return Reply(HTTPStatus.OK, reference=f"sandbox-{request_id}", pause_seconds=pause_seconds)
