"""
Replay or refund many failed requests, part by part.

An action begins with the list of the requests that match then. Requests that fail later are not in it.
The progress is in the database, so any process can continue the action.

Each part is one transaction that locks the action's row, so two processes never run the same part.
Replays and their audit lines are written in that transaction. Intake writes the refunds of a part and their audit
lines in one transaction of its own. A part that runs twice does nothing twice: the inbox takes each replay once, and
each refund has its own idempotency key.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from processor.clients.keys import Caller
from processor.domain.model import TELLER
from processor.errors import TellerError
from processor.operations import failed_requests
from processor.operations.failed_requests import Accept, NotFailed, Refunder, Replayed
from processor.reading import failed as failed_queries
from processor.reading.failed import FailedFilter
from processor.records import audit
from processor.records.documents import Document
from processor.records.pages import Page, page, read_cursor, row_number
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Requests in one part.
PART_LIMIT: Final = 1_000
#: The reason of Teller for stopping an action, in the audit and in `stopped_by`.
KEY_IS_INVALID: Final = "its key is no longer valid"

Action = Literal["replay", "refund"]

_RAW = statements.beside(__file__)
SQL = {name: text.replace("{action_columns}", _RAW["action_columns"]) for name, text in _RAW.items()}


class BulkActionNotFound(TellerError):
    """No bulk action has this id."""

    code = "not_found"


class BulkAction(NamedTuple):
    """A bulk action and its progress."""

    id: UUID
    action: Action
    reason: str
    #: The filter, for people to read.
    filter: Document
    actor: str
    client_id: str
    key_id: UUID
    matched: int
    done: int
    sent: int
    started_at: datetime
    finished_at: datetime | None
    stopped_by: str | None

    @property
    def left_alone(self) -> int:
        """The number of requests that were processed and not sent."""
        return self.done - self.sent


class Item(NamedTuple):
    """One request of a bulk action, and its state."""

    place: int
    request_id: UUID
    #: The version in which it was failed when the action began.
    version: int
    #: sent, skipped or refused; None: not processed yet.
    outcome: str | None
    problem: str | None
    refund_id: UUID | None
    resource_id: str
    account: str | None
    amount: int | None
    now_version: int
    status: str
    stage: str | None
    code: str | None
    reason: str | None
    refund_status: str | None
    refund_code: str | None

    @property
    def is_waiting(self) -> bool:
        """Whether it was sent and is not decided yet."""
        if self.refund_id is not None:
            return self.refund_status is None
        return self.outcome == "sent" and self.version == self.now_version


@dataclass(frozen=True, slots=True)
class Results:
    """The states of the requests that were sent."""

    #: Sent and not decided yet.
    waiting: int = 0
    failed_again: int = 0
    #: The others, by their status.
    others: tuple[tuple[str, int], ...] = ()

    @property
    def under_way(self) -> int:
        """The number of requests that are not final yet."""
        return self.waiting + dict(self.others).get("processing", 0)


@dataclass(frozen=True, slots=True)
class Part:
    """A part that ran."""

    #: The partitions to notify.
    partitions: frozenset[int]
    is_last: bool


def read_now(connection: Connection) -> datetime:
    """Return the time of the database's clock, by which requests fail. Raises DatabaseUnavailable."""
    with connections.faults():
        [(now,)] = connection.execute(SQL["read_now"]).fetchall()
    moment: datetime = now
    return moment


def begin(
    connection: Connection,
    action_id: UUID,
    action: Action,
    chosen: FailedFilter,
    description: Document,
    reason: str,
    by: Caller,
) -> None:
    """
    Begin an action on all requests that match. Beginning it again does nothing.

    `description` is the filter, for people to read. Only an admin begins refunds.
    Raises Forbidden, DatabaseUnavailable.
    """
    if action == "refund":
        failed_requests.require_refunder(by.role)
    parameters = {
        "id": action_id,
        "action": action,
        "reason": reason,
        "filter": Jsonb(description),
        "actor": by.actor,
        "client": by.client,
        "key_id": by.key_id,
    }
    with connections.faults(), connection.transaction():
        if connection.execute(SQL["begin"], parameters).fetchone() is None:
            return
        connection.execute(failed_queries.SQL["plan_for_many"])
        statement = SQL["choose_items"].replace("{filters}", chosen.conditions())
        matched = connection.execute(statement, chosen.parameters() | {"id": action_id}).rowcount
        connection.execute(SQL["count_items"], {"id": action_id, "matched": matched})
        detail = {"bulk": str(action_id), "matched": matched} | description
        audit.note(connection, by.actor, f"bulk_{action}", None, reason, detail)


def run_part(connection: Connection, action_id: UUID, accept: Accept) -> Part | None:
    """
    Run the next part of an action.

    Returns None if the action is over, or another process runs a part of it now. An action whose key was revoked or
    has expired is stopped with an audit line, and None is returned. Raises DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        row = connection.execute(SQL["lock_action"], {"id": action_id}).fetchone()
        if row is None:
            return None
        action = BulkAction(*row)
        if connection.execute(SQL["is_key_valid"], {"key_id": action.key_id}).fetchone() == (False,):
            _stop(connection, action_id, f"Teller, because {KEY_IS_INVALID}", TELLER, KEY_IS_INVALID)
            return None
        items = connection.execute(
            SQL["next_items"], {"id": action_id, "done": action.done, "limit": PART_LIMIT}
        ).fetchall()
        if action.action == "replay":
            partitions, outcomes = _replay(connection, action, [asked for _, asked in items])
        else:
            partitions, outcomes = frozenset(), _refund(connection, action, [i for _, i in items], accept)
        columns = {
            "id": action_id,
            "places": [place for place, _ in items],
            "outcomes": [outcome for outcome, _, _ in outcomes],
            "problems": [problem for _, problem, _ in outcomes],
            "refund_ids": [refund for _, _, refund in outcomes],
        }
        connection.execute(SQL["record_items"], columns)
        done = items[-1][0] if items else action.matched
        sent = sum(outcome == "sent" for outcome, _, _ in outcomes)
        [(is_last,)] = connection.execute(
            SQL["record_progress"], {"id": action_id, "done": done, "sent": sent}
        ).fetchall()
    return Part(partitions, is_last)


_Outcome = tuple[str, str | None, UUID | None]


def _replay(
    connection: Connection, action: BulkAction, ids: list[UUID]
) -> tuple[frozenset[int], list[_Outcome]]:
    try:
        replayed = failed_requests.replay_each(connection, ids, action.actor, action.reason)
    except NotFailed:
        replayed = Replayed(0)
    return replayed.partitions, [("sent" if one in replayed.sent else "skipped", None, None) for one in ids]


def _refund(connection: Connection, action: BulkAction, ids: list[UUID], accept: Accept) -> list[_Outcome]:
    refunder = Refunder(action.client_id, action.key_id, action.actor)
    refunds = [
        failed_requests.refund_of(
            original,
            None,
            action.reason,
            refunder,
            f"bulk-{action.id}-{original.id}",
            {"bulk": str(action.id)},
        )
        for original in failed_requests.read_originals(connection, ids)
    ]
    outcomes: list[_Outcome] = []
    for receipt in accept(refunds):
        if receipt.request is None:
            outcomes.append(("refused", str(receipt.problem or "it was not accepted"), None))
        else:
            outcomes.append(("sent", None, receipt.request.id))
    return outcomes


def stop(connection: Connection, action_id: UUID, by: Caller) -> bool:
    """
    Stop an action. The requests that were sent before are decided.

    Only an admin stops refunds. Returns False if the action was over already.
    Raises BulkActionNotFound, Forbidden, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        if read(connection, action_id).action == "refund":
            failed_requests.require_refunder(by.role)
        return _stop(connection, action_id, by.actor, by.actor, None)


def _stop(connection: Connection, action_id: UUID, stopped_by: str, actor: str, reason: str | None) -> bool:
    """Stop an action and write the audit line, in the caller's transaction. Returns False if it was over already."""
    if connection.execute(SQL["stop"], {"id": action_id, "stopped_by": stopped_by}).fetchone() is None:
        return False
    audit.note(connection, actor, "bulk_stopped", None, reason, {"bulk": str(action_id)})
    return True


def read(connection: Connection, action_id: UUID) -> BulkAction:
    """Return an action and its progress. Raises BulkActionNotFound, DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_action"], {"id": action_id}).fetchone()
    if row is None:
        raise BulkActionNotFound("there is no such action")
    return BulkAction(*row)


def list_actions(connection: Connection, limit: int) -> list[BulkAction]:
    """List the last actions, newest first. Raises DatabaseUnavailable."""
    with connections.faults():
        return [BulkAction(*row) for row in connection.execute(SQL["list_actions"], {"limit": limit})]


def list_items(connection: Connection, action_id: UUID, limit: int, cursor: str | None) -> Page[Item]:
    """List the requests of an action, in the order of sending. Raises CursorInvalid, DatabaseUnavailable."""
    [after] = read_cursor(cursor, row_number)
    with connections.faults():
        rows = connection.execute(
            SQL["list_items"], {"id": action_id, "after": after or 0, "limit": limit + 1}
        ).fetchall()
    return page([Item(*row) for row in rows], limit, lambda item: (str(item.place),))


def count_results(connection: Connection, action: BulkAction) -> Results:
    """Count the states of the requests that were sent, or of their refunds. Raises DatabaseUnavailable."""
    of_refunds = action.action == "refund"
    with connections.faults(), connection.transaction():
        connection.execute(failed_queries.SQL["plan_for_many"])
        statement = SQL["count_refunds" if of_refunds else "count_results"]
        rows = connection.execute(statement, {"id": action.id}).fetchall()
    if of_refunds:
        states: dict[str | None, int] = dict(rows)
        waiting = states.pop(None, 0)
        return Results(waiting, 0, tuple((str(status), count) for status, count in states.items()))
    waiting = sum(count for _, is_later, count in rows if not is_later)
    failed = sum(count for status, is_later, count in rows if is_later and status == "failed")
    others = [(status, count) for status, is_later, count in rows if is_later and status != "failed"]
    return Results(waiting, failed, tuple(sorted(others, key=lambda one: -one[1])))
