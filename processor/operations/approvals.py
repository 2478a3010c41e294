"""
Withdrawals that wait: for a code, or for the word of another person.

Nothing is decided here: a right code, an approval, a denial and a code that ran out are inbox rows, and the batch of
the home partition decides what follows, in their turn. Each leaves a line in the audit, in the same transaction.
"""

from collections.abc import Collection
from typing import Final, Literal
from uuid import UUID

from processor.clients import codes
from processor.clients.codes import Asked
from processor.errors import TellerError
from processor.intake import commands
from processor.records import audit
from processor.settings import Settings
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Requests whose codes ran out that one look of the sweep takes.
EXPIRE_LIMIT: Final = 1_000

Verdict = Literal["approve", "deny"]

SQL = statements.beside(__file__)


class NotAwaitingConfirmation(TellerError):
    """The request waits for no code, or not any more."""

    code = "not_awaiting_confirmation"


class NotAwaitingApproval(TellerError):
    """The request waits for nobody's approval, or not any more."""

    code = "not_awaiting_approval"


class ApproverIsRequester(TellerError):
    """Nobody approves, or denies, what his own client asked for."""

    code = "approver_is_requester"


def confirm(connection: Connection, settings: Settings, request_id: UUID, typed: str, actor: str) -> int:
    """
    Use up the request's code, if this is it, and have the request decided, in one transaction. Returns the partition
    to ring. Raises NotAwaitingConfirmation, CodeInvalid, CodeLocked, DatabaseUnavailable; LookupError when there is
    no such request.
    """
    partition = 0
    with connections.faults(), connection.transaction():
        tried = codes.attempt(connection, settings, "lock_code_of_request", {"request_id": request_id}, typed)
        # Once nobody else can change it: the batch waits for the row of the code.
        _, _, stage = _read(connection, request_id)
        if tried.is_right:
            partition = commands.record_command(connection, request_id, "confirm", actor)
            audit.note(connection, actor, "confirm", request_id, None)
    if stage != "awaiting_confirmation":
        raise NotAwaitingConfirmation(f"the request waits for no code: {stage or 'see its status'}")
    if not tried.is_right:
        raise tried.refused()
    return partition


def send_again(connection: Connection, settings: Settings, request_id: UUID, actor: str) -> Asked:
    """
    Have a new code sent for a request that waits for one, in the place of the last one. Raises CodeCooldown,
    CodeLocked, NotAwaitingConfirmation, DatabaseUnavailable; LookupError when there is no such request.
    """
    with connections.faults(), connection.transaction():
        locked = connection.execute(SQL["lock_destination"], {"request_id": request_id}).fetchone()
        _, _, stage = _read(connection, request_id)
        if locked is None or stage != "awaiting_confirmation":
            raise NotAwaitingConfirmation(f"the request waits for no code: {stage or 'see its status'}")
        asked = codes.asking(settings, *locked) | {"request_id": request_id}
        given = connection.execute(codes.SQL["ask_again"], asked).fetchone()
        if given is None:
            raise codes.why_not(connection, asked)
        audit.note(connection, actor, "code_sent_again", request_id, None)
    return Asked(asked["destination"], *given)


def judge(
    connection: Connection,
    request_id: UUID,
    verdict: Verdict,
    *,
    client: str,
    actor: str,
    reason: str | None,
) -> int:
    """
    Record the word of somebody of `client` on a request that waits for it. Of several, the first counts. Returns the
    partition to ring. Raises ApproverIsRequester, NotAwaitingApproval, DatabaseUnavailable; LookupError when there is
    no such request.
    """
    with connections.faults(), connection.transaction():
        owner, _, stage = _read(connection, request_id)
        if owner == client:
            raise ApproverIsRequester("the request is your own client's: somebody of another one must say so")
        if stage != "awaiting_approval":
            raise NotAwaitingApproval(f"the request waits for no approval: {stage or 'see its status'}")
        partition = commands.record_command(connection, request_id, verdict, actor, {"reason": reason})
        audit.note(connection, actor, verdict, request_id, reason)
    return partition


def expire(connection: Connection, partitions: Collection[int]) -> set[int]:
    """
    Put withdrawals of these partitions whose last code ran out into their inboxes. Returns the partitions that have
    work now. Raises DatabaseUnavailable.
    """
    parameters = {"partitions": list(partitions), "limit": EXPIRE_LIMIT}
    with connections.faults():
        return {partition for (partition,) in connection.execute(SQL["expire"], parameters)}


def _read(connection: Connection, request_id: UUID) -> tuple[str, int, str | None]:
    row = connection.execute(SQL["read_waiting"], {"request_id": request_id}).fetchone()
    if row is None:
        raise LookupError(f"no request {request_id}")
    return row
