"""
What people do to many parked requests at once: replays and refunds, part by part, with progress that survives
whoever does it.

An action begins with the list of its requests: what matched then, and nothing that fails later. Each part is one
transaction that holds the action's row, so that two processes never do the same part; and if they did, the inbox
takes each replay once, and the idempotency key of each refund makes it one. What was sent cannot be taken back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from processor.clients.keys import Caller
from processor.intake.intake import Receipt, Submission, fingerprint
from processor.operations import failed_requests
from processor.reading import failed as failed_queries
from processor.reading.failed import FailedFilter
from processor.records import audit
from processor.records.documents import Document
from processor.records.pages import Page, page, read_cursor, row_number
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Requests in one part.
PART_LIMIT: Final = 1_000
#: Who stops an action whose beginner may do nothing any more.
KEY_IS_NO_MORE: Final = "the end of the key that began it"

Action = Literal["replay", "refund"]
#: Hands refunds to intake; for each, in order, what it says.
Accept = Callable[[Sequence[Submission]], list[Receipt]]

_RAW = statements.beside(__file__)
SQL = {name: text.replace("{action_columns}", _RAW["action_columns"]) for name, text in _RAW.items()}


class BulkAction(NamedTuple):
    """A bulk action, and how far it is."""

    id: UUID
    action: Action
    reason: str
    #: What was asked for, for people to read.
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
        """Those that were looked at and not sent."""
        return self.done - self.sent


class Item(NamedTuple):
    """One request of a bulk action, and what became of it."""

    place: int
    request_id: UUID
    #: The version in which it was failed when the action began.
    version: int
    #: sent, skipped, refused; None: not looked at yet.
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
        """It was sent, and nothing came of it yet."""
        if self.refund_id is not None:
            return self.refund_status is None
        return self.outcome == "sent" and self.version == self.now_version


@dataclass(frozen=True, slots=True)
class Results:
    """What became of those that were sent."""

    #: Sent, and not decided yet.
    waiting: int = 0
    failed_again: int = 0
    #: The others, by their status.
    others: tuple[tuple[str, int], ...] = ()

    @property
    def under_way(self) -> int:
        """How many are not at their end yet."""
        return self.waiting + dict(self.others).get("processing", 0)


@dataclass(frozen=True, slots=True)
class Part:
    """A part that was done: the partitions to ring, and whether it was the last."""

    partitions: frozenset[int]
    is_last: bool


def read_now(connection: Connection) -> datetime:
    """The clock by which requests fail. Raises DatabaseUnavailable."""
    with connections.faults():
        [(now,)] = connection.execute(SQL["read_now"]).fetchall()
    moment: datetime = now
    return moment


def begin(
    connection: Connection,
    action_id: UUID,
    action: Action,
    wanted: FailedFilter,
    said: Document,
    reason: str,
    caller: Caller,
) -> None:
    """
    Begin an action on all that match; `said`: the filter for people. Beginning it again does nothing. Raises
    DatabaseUnavailable.
    """
    parameters = {
        "id": action_id,
        "action": action,
        "reason": reason,
        "filter": Jsonb(said),
        "actor": caller.actor,
        "client": caller.client,
        "key_id": caller.key_id,
    }
    with connections.faults(), connection.transaction():
        if connection.execute(SQL["begin"], parameters).fetchone() is None:
            return
        connection.execute(failed_queries.SQL["plan_for_many"])
        statement = SQL["choose_items"].replace("{filters}", wanted.conditions())
        matched = connection.execute(statement, wanted.parameters() | {"id": action_id}).rowcount
        connection.execute(SQL["count_items"], {"id": action_id, "matched": matched})
        detail = {"bulk": str(action_id), "matched": matched} | said
        audit.note(connection, caller.actor, f"bulk_{action}", None, reason, detail)


def go_on(connection: Connection, action_id: UUID, accept: Accept) -> Part | None:
    """
    Do the next part. None: there is none, or somebody else is at it; or the key of whoever began it was revoked
    or has expired, which stops it. Raises DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        row = connection.execute(SQL["lock_action"], {"id": action_id}).fetchone()
        if row is None:
            return None
        action = BulkAction(*row)
        if connection.execute(SQL["is_key_valid"], {"key_id": action.key_id}).fetchone() == (False,):
            connection.execute(SQL["stop"], {"id": action_id, "actor": KEY_IS_NO_MORE})
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
    done = failed_requests.replay(connection, ids, action.actor, action.reason)
    return done.partitions, [("sent" if one in done.sent else "skipped", None, None) for one in ids]


def _refund(connection: Connection, action: BulkAction, ids: list[UUID], accept: Accept) -> list[_Outcome]:
    originals = {
        asked: (resource, account)
        for asked, resource, account in connection.execute(SQL["read_originals"], {"ids": ids})
    }
    submissions = [_submission(action, asked, *originals[asked]) for asked in ids]
    outcomes: list[_Outcome] = []
    for receipt in accept(submissions):
        if receipt.request is None:
            outcomes.append(("refused", str(receipt.problem or "it was not accepted"), None))
        else:
            outcomes.append(("sent", None, receipt.request.id))
    made = [
        (asked, refund) for asked, (_, _, refund) in zip(ids, outcomes, strict=True) if refund is not None
    ]
    parameters = {
        "id": action.id,
        "actor": action.actor,
        "reason": action.reason,
        "request_ids": [asked for asked, _ in made],
        "refund_ids": [refund for _, refund in made],
    }
    connection.execute(SQL["note_refunds"], parameters)
    return outcomes


def _submission(action: BulkAction, asked: UUID, resource: str, account: str | None) -> Submission:
    body = {"refund_of": str(asked), "reason": action.reason}
    return Submission(
        action.client_id,
        action.key_id,
        f"bulk-{action.id}-{asked}",
        fingerprint("refund", body),
        "refund",
        resource,
        account,
        None,
        refund_of=asked,
        details={"reason": action.reason},
    )


def stop(connection: Connection, action_id: UUID, actor: str) -> bool:
    """
    Send no more; what was sent takes its way. False: it was over already. Raises DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        if connection.execute(SQL["stop"], {"id": action_id, "actor": actor}).fetchone() is None:
            return False
        audit.note(connection, actor, "bulk_stopped", None, None, {"bulk": str(action_id)})
    return True


def read(connection: Connection, action_id: UUID) -> BulkAction | None:
    """How far it is. Raises DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_action"], {"id": action_id}).fetchone()
    return None if row is None else BulkAction(*row)


def list_actions(connection: Connection, limit: int) -> list[BulkAction]:
    """The last ones, newest first. Raises DatabaseUnavailable."""
    with connections.faults():
        return [BulkAction(*row) for row in connection.execute(SQL["list_actions"], {"limit": limit})]


def list_items(connection: Connection, action_id: UUID, limit: int, cursor: str | None) -> Page[Item]:
    """Its requests, in the order in which they are sent. Raises CursorInvalid, DatabaseUnavailable."""
    [after] = read_cursor(cursor, row_number)
    with connections.faults():
        rows = connection.execute(
            SQL["list_items"], {"id": action_id, "after": after or 0, "limit": limit + 1}
        ).fetchall()
    return page([Item(*row) for row in rows], limit, lambda item: (str(item.place),))


def count_results(connection: Connection, action: BulkAction) -> Results:
    """What became of all that were sent; of refunds, their own states. Raises DatabaseUnavailable."""
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
