"""
Replay failed requests, and refund requests.

A replay is a command, and a refund is a request of its own. The batch of the home partition decides both in turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.archive.lookup import missing
from processor.clients.keys import Caller, Role
from processor.domain.kinds import KINDS
from processor.domain.legs import Leg, legs_of
from processor.errors import Forbidden, TellerError
from processor.intake.intake import Receipt, Submission, fingerprint
from processor.reading import requests as stored_requests
from processor.records.audit import AuditLine
from processor.records.documents import Document, RequestRecord
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Requests that one transaction replays.
CHUNK_LIMIT: Final = 1_000

SQL = statements.beside(__file__)

#: Hands refunds to intake, and returns their receipts in order.
Accept = Callable[[Sequence[Submission]], list[Receipt]]


class NotFailed(TellerError):
    """No request is failed, so there is nothing to replay."""

    code = "not_failed"


class LegsHaveNoAmount(TellerError):
    """A request with legs is refunded as a whole."""

    code = "invalid"


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a replay."""

    #: The requests that match. Some of them may be in the inbox already.
    matched: int
    #: The requests that were put into the inbox.
    sent: frozenset[UUID] = frozenset()
    #: Their partitions. The caller notifies the workers.
    partitions: frozenset[int] = frozenset()
    #: The requests that were named and are not failed, or do not exist.
    not_failed: frozenset[UUID] = frozenset()


class Original(NamedTuple):
    """The request that a refund is of."""

    id: UUID
    resource_id: str
    account: str | None
    #: Empty for a request with a single resource.
    legs: tuple[Leg, ...]


class Refunder(NamedTuple):
    """The client and the key of a refund, and the name that the audit records."""

    client_id: str
    key_id: UUID
    actor: str


def replay(
    connection: Connection, request_id: UUID, by: Caller, reason: str
) -> tuple[RequestRecord, Replayed]:
    """
    Send a failed request to the end of its queue.

    Returns the request as it is now, and the result. Raises RequestNotFound, NotFailed, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        request, _ = stored_requests.read_request(connection, request_id, by.sees)
        try:
            replayed = replay_each(connection, [request_id], by.actor, reason)
        except NotFailed:
            raise NotFailed("the request is not failed: only failed requests are replayed") from None
    return request, replayed


def replay_each(connection: Connection, ids: Sequence[UUID], actor: str, reason: str) -> Replayed:
    """
    Send those of these requests that are failed to the ends of their queues.

    Requests of one resource keep the order of their first decisions. The result names the requests that are not
    failed. Raises NotFailed if none is failed, DatabaseUnavailable.
    """
    with connections.faults():
        failed = connection.execute(SQL["failed_among"], {"ids": list(ids)}).fetchall()
    if not failed:
        raise NotFailed("none of them is failed, so none was replayed")
    not_failed = frozenset(ids) - {request_id for request_id, _ in failed}
    return replace(_send(connection, failed, actor, reason), not_failed=not_failed)


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
    Send all failed requests that match to the ends of their queues, or only count them.

    Raises DatabaseUnavailable.
    """
    with connections.faults():
        failed = connection.execute(SQL["failed_requests"], {"code": code, "resource": resource}).fetchall()
    return Replayed(len(failed)) if dry_run else _send(connection, failed, actor, reason)


def _send(connection: Connection, failed: list[tuple[Any, ...]], actor: str, reason: str) -> Replayed:
    """Write the commands and their audit lines, CHUNK_LIMIT in a statement."""
    sent: dict[UUID, int] = {}
    for begin in range(0, len(failed), CHUNK_LIMIT):
        chunk = failed[begin : begin + CHUNK_LIMIT]
        parameters = {
            "ids": [request_id for request_id, _ in chunk],
            "partitions": [partition for _, partition in chunk],
            "actor": actor,
            "reason": reason,
        }
        with connections.faults():
            sent |= dict(connection.execute(SQL["replay"], parameters).fetchall())
    return Replayed(len(failed), frozenset(sent), frozenset(sent.values()))


def refund(
    accept: Accept,
    connection: Connection,
    request_id: UUID,
    amount: int | None,
    reason: str,
    by: Caller,
    idempotency_key: str,
) -> tuple[RequestRecord, bool]:
    """
    Make a refund of a request. `amount` None refunds all that is left.

    Intake writes the refund and its audit line in one transaction. Returns the refund, and whether its key was used
    before. Raises Forbidden, RequestNotFound, Archived, LegsHaveNoAmount, IdempotencyKeyReused, PartitionSaturated,
    DatabaseUnavailable.
    """
    require_refunder(by.role)
    originals = read_originals(connection, [request_id])
    if not originals:
        raise missing(connection, request_id, None)
    if amount is not None and originals[0].legs:
        raise LegsHaveNoAmount("the request has legs: a refund gives all of them back, so it has no amount")
    refunder = Refunder(by.client, by.key_id, by.actor)
    [receipt] = accept([refund_of(originals[0], amount, reason, refunder, idempotency_key)])
    return receipt.record(), receipt.replayed


def require_refunder(role: Role) -> None:
    """Refuse a role that may not refund. Raises Forbidden."""
    if role not in KINDS["refund"].roles:
        raise Forbidden("refunds need the role admin: nothing was done")


def read_originals(connection: Connection, ids: Sequence[UUID]) -> list[Original]:
    """
    Read the requests that refunds are of, in the order of `ids`, without those that do not exist.

    Raises DatabaseUnavailable.
    """
    with connections.faults():
        rows = connection.execute(SQL["read_originals"], {"ids": list(ids)})
        return [
            Original(request, resource, account, legs_of(details))
            for request, resource, account, details in rows
        ]


def refund_of(
    original: Original,
    amount: int | None,
    reason: str,
    refunder: Refunder,
    idempotency_key: str,
    detail: Document | None = None,
) -> Submission:
    """
    Return the refund of a request with its audit line, to which intake adds the id of the refund.

    The refund of a request with legs has the legs that undo them.
    """
    back = [leg.reversed().document() for leg in original.legs]
    part: Document = {} if amount is None else {"amount": amount}
    return Submission(
        refunder.client_id,
        refunder.key_id,
        idempotency_key,
        fingerprint("refund", {"refund_of": str(original.id), "reason": reason} | part),
        "refund",
        original.resource_id,
        original.account,
        amount,
        refund_of=original.id,
        details={"reason": reason} | ({"legs": back} if back else {}),
        audit=AuditLine(refunder.actor, "refund", original.id, reason, part | (detail or {})),
    )
