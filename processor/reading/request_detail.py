"""
One request with all its records, for operators; and the requests that wait for an approval.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.domain.amounts import NO_UNIT, Unit
from processor.domain.rules.settling import PAID_AFTER_REFUND
from processor.reading import attempts as gateway_attempts
from processor.reading import requests as stored_requests
from processor.reading.attempts import Attempt
from processor.reading.requests import Place
from processor.reading.units import read_units
from processor.records import documents
from processor.records.audit import AuditRecord
from processor.records.documents import Document, EntryRecord, RequestRecord, ResourceRecord, timestamp
from processor.records.pages import Page, page, read_cursor
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Entries, deliveries and refunds that are read of one request.
SHOWN_MAX: Final = 50

SQL = {
    name: text.replace("{request_columns}", documents.REQUEST_COLUMNS).replace(
        "{request_tables}", documents.REQUEST_TABLES
    )
    for name, text in statements.beside(__file__).items()
}


class PastState(NamedTuple):
    """A state in the history of a request."""

    version: int
    at: datetime
    status: str
    stage: str | None
    code: str | None
    reason: str | None
    reference: str | None
    refunded: int
    actor: str
    detail: str | None
    #: The traceback of a fault.
    trace: str | None


class PendingRow(NamedTuple):
    """An inbox row of a request that is not decided yet."""

    verb: str
    at: datetime
    actor: str | None


class EffectState(NamedTuple):
    """The effect of a request, and its progress."""

    gateway: str
    due_at: datetime | None
    tries: int
    is_calling: bool
    outcome: str | None
    reference: str | None
    reason: str | None
    voided_at: datetime | None


class Origin(NamedTuple):
    """The idempotency key and the API key of a request, and the headers of the call that made it."""

    idempotency_key: str
    key_id: UUID | None
    key_client: str | None
    key_name: str | None
    key_role: str | None
    x_request_id: str | None
    traceparent: str | None


class Notification(NamedTuple):
    """A notification about a request, pending or sent."""

    id: int
    type: str
    version: int
    webhook_id: UUID | None
    #: None: an e-mail, or the webhook was deleted.
    url: str | None
    is_disabled: bool
    email: str | None
    status: str
    tries: int
    due_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None

    def document(self) -> Document:
        """Return the notification as operators see it."""
        return {
            "id": self.id,
            "type": self.type,
            "webhook": None if self.webhook_id is None else str(self.webhook_id),
            "email": self.email,
            "status": self.status,
            "tries": self.tries,
            "due_at": timestamp(self.due_at),
            "last_status": self.last_status,
            "last_error": self.last_error,
            "created_at": timestamp(self.created_at),
            "delivered_at": timestamp(self.delivered_at),
        }


class Awaiting(NamedTuple):
    """A request that waits for an approval."""

    unit: Unit
    approve_above: int | None
    #: The name of the API key that made the request.
    asked_by: str | None
    #: The verb that was accepted for it and is not decided yet: approve, deny or cancel.
    verdict: str | None
    request: RequestRecord


@dataclass(frozen=True, slots=True)
class Inspection:
    """A request and its records."""

    request: RequestRecord
    #: While it is queued.
    place: Place | None
    origin: Origin
    resource: ResourceRecord | None
    #: The states after its acceptance, oldest first.
    states: list[PastState]
    pending: list[PendingRow]
    effect: EffectState | None
    is_holding: bool
    attempts: list[Attempt]
    entries: list[EntryRecord]
    deliveries: list[Notification]
    refunds: list[RequestRecord]
    audit_lines: list[AuditRecord]
    #: The unit of each resource of its entries and legs.
    units: dict[str, Unit]

    @property
    def unit(self) -> Unit:
        """The unit of its amounts. That of an opening that is not decided yet is the one that it names."""
        if self.resource is not None:
            return self.resource.written_unit
        rules = self.request.details or {}
        return NO_UNIT._replace(name=rules.get("unit"), decimals=rules.get("decimals", 0))

    @property
    def trace(self) -> str | None:
        """The traceback of its last state, if a fault led to that."""
        return self.states[-1].trace if self.states else None

    @property
    def is_paid_after_refund(self) -> bool:
        """Whether the gateway reported a payment after the hold was released."""
        return any(state.detail == PAID_AFTER_REFUND for state in self.states)

    @property
    def pending_verbs(self) -> frozenset[str]:
        """The verbs of its rows in the inbox."""
        return frozenset(row.verb for row in self.pending)


def inspect(connection: Connection, request_id: UUID, audit_lines: list[AuditRecord]) -> Inspection:
    """
    Read a request and its records, which include the given audit lines. Raises RequestNotFound, DatabaseUnavailable.
    """
    with connections.faults():
        request, place = stored_requests.read_request(connection, request_id, None)
        effect = _all(connection, "read_effect", id=request_id)
        entries = stored_requests.list_request_entries(connection, request_id, None, SHOWN_MAX, None).rows[
            ::-1
        ]
        moved = [entry.resource_id for entry in entries] + [leg.resource_id for leg in request.legs]
        return Inspection(
            request,
            place,
            Origin(*_all(connection, "read_origin", id=request_id)[0]),
            stored_requests.read_resource(connection, request.resource_id, None),
            [PastState(*row) for row in _all(connection, "read_states", id=request_id)],
            [PendingRow(*row) for row in _all(connection, "read_pending", id=request_id)],
            EffectState(*effect[0]) if effect else None,
            _all(connection, "is_holding", id=request_id) == [(True,)],
            gateway_attempts.read_attempts(connection, request_id),
            entries,
            _notifications(connection, request_id),
            [RequestRecord(*row) for row in _all(connection, "list_refunds", id=request_id, limit=SHOWN_MAX)],
            audit_lines,
            read_units(connection, moved),
        )


def read_notifications(connection: Connection, request_id: UUID) -> list[Notification]:
    """Read the notifications about a request, oldest first. Raises DatabaseUnavailable."""
    with connections.faults():
        return _notifications(connection, request_id)


def _notifications(connection: Connection, request_id: UUID) -> list[Notification]:
    rows = _all(connection, "list_deliveries", id=request_id, limit=SHOWN_MAX)
    return [Notification(*row) for row in rows]


def list_awaiting(connection: Connection, limit: int, cursor: str | None) -> Page[Awaiting]:
    """List the requests that wait for an approval, oldest first. Raises CursorInvalid, DatabaseUnavailable."""
    [after] = read_cursor(cursor, UUID)
    with connections.faults():
        rows = _all(connection, "list_awaiting", after=after, limit=limit + 1)
    found = [Awaiting(Unit(*row[:2]), row[2], row[3], row[4], RequestRecord(*row[5:])) for row in rows]
    return page(found, limit, lambda one: (str(one.request.id),))


def _all(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return connection.execute(SQL[name], parameters).fetchall()
