"""
Records of requests, resources and entries, and their JSON documents.

Clients, webhooks and the command line get the same documents.
"""

import functools
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.domain.amounts import Unit
from processor.domain.legs import Leg, legs_of
from processor.domain.model import FINAL_STATUSES, event_of
from processor.storage import statements

SQL = statements.beside(__file__)
#: The select list and the tables of a RequestRecord, for the queries of other modules.
REQUEST_COLUMNS: Final = SQL["request_columns"]
REQUEST_TABLES: Final = SQL["request_tables"]
RESOURCE_COLUMNS: Final = SQL["resource_columns"]
ENTRY_COLUMNS: Final = SQL["entry_columns"]

Document = dict[str, Any]
#: Timestamps whose text is cached. Requests that are accepted or decided together share their time.
MOMENTS_REMEMBERED: Final = 64


def timestamp(moment: datetime | None) -> str | None:
    """Format a time as RFC 3339 in UTC with `Z`, to the microsecond, which is the precision of PostgreSQL."""
    return None if moment is None else _written(moment.astimezone(UTC))


@functools.lru_cache(maxsize=MOMENTS_REMEMBERED)
def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


class RequestRecord(NamedTuple):
    """A request and the state it is in, in the order of REQUEST_COLUMNS."""

    id: UUID
    client_id: str
    kind: str
    resource_id: str
    account: str | None
    amount: int | None
    metadata: dict[str, Any] | None
    details: dict[str, Any] | None
    apply_before: datetime | None
    refund_of: UUID | None
    created_at: datetime
    version: int = 1
    status: str = "processing"
    stage: str | None = "queued"
    code: str | None = None
    reason: str | None = None
    reference: str | None = None
    refunded: int = 0
    sequence: int | None = None
    decided_at: datetime | None = None
    at: datetime | None = None
    #: The time since which it has this status. Refunds of parts, for example, change `at` but not the status.
    status_since: datetime | None = None
    #: The leg that the code is about.
    leg: int | None = None
    captured: int | None = None
    #: While a reservation is held: the time until which it can be captured, and the command that was accepted for it.
    expires_at: datetime | None = None
    command: str | None = None

    @property
    def event(self) -> str:
        """The type of the notification about this state."""
        return event_of(self.status, self.refunded)

    @property
    def is_final(self) -> bool:
        """Whether the request keeps its status until an operator acts."""
        return self.status in FINAL_STATUSES or self.status == "failed"

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The legs of a request with several resources, in place of `resource_id` and `amount`; else none."""
        return legs_of(self.details)

    @property
    def resource_of_code(self) -> str | None:
        """The resource of the leg that the code is about; None without one."""
        return self.legs[self.leg].resource_id if self.leg is not None and self.leg < len(self.legs) else None

    @property
    def takes(self) -> tuple[Leg, ...]:
        """The legs that take or hold. A request with a single resource counts as one leg."""
        legs = self.legs or (Leg(self.resource_id, take=self.amount),)
        return tuple(leg for leg in legs if leg.take is not None)

    @property
    def is_settled(self) -> bool:
        """Whether a wait for the request ends: it is final, or held until its client acts."""
        return self.is_final or (self.stage == "held" and self.command is None)

    def document(self) -> Document:
        """Return the request as the API shows it."""
        error: Document | None = None
        if self.code is not None:
            error = {"code": self.code} | ({"reason": self.reason} if self.reason is not None else {})
            if self.resource_of_code is not None:
                error["resource"] = self.resource_of_code
        result: Document = {"reference": self.reference, "captured": self.captured}
        document: Document = {
            "id": str(self.id),
            "kind": self.kind,
            "status": self.status,
            "stage": self.stage,
            "resource": self.resource_id,
            "account": self.account,
            "amount": self.amount,
            "error": error,
            "result": {name: value for name, value in result.items() if value is not None} or None,
            "refunded": self.refunded,
            "version": self.version,
            "sequence": self.sequence,
            "metadata": self.metadata or {},
            "created_at": timestamp(self.created_at),
            "decided_at": timestamp(self.decided_at),
            "finished_at": timestamp(self.status_since) if self.status in FINAL_STATUSES else None,
        }
        if self.legs:
            document["legs"] = [leg.document() for leg in self.legs]
            del document["resource"], document["amount"]
        if self.apply_before is not None:
            document["apply_before"] = timestamp(self.apply_before)
        if self.expires_at is not None:
            document["expires_at"] = timestamp(self.expires_at)
        if self.refund_of is not None:
            document["refund_of"] = str(self.refund_of)
        return document


class ResourceRecord(NamedTuple):
    """A resource, in the order of RESOURCE_COLUMNS."""

    id: str
    kind: str
    unit: str | None
    decimals: int
    client_id: str | None
    partition: int
    available: int
    held: int
    version: int
    overdraft: int
    per_account_limit: int | None
    starts_at: datetime | None
    ends_at: datetime | None
    gateway: str | None
    confirm_above: int | None
    approve_above: int | None
    metadata: dict[str, Any] | None
    created_at: datetime
    closed_at: datetime | None
    per_account_daily_limit: int | None

    @property
    def written_unit(self) -> Unit:
        """The unit and the decimals of its amounts."""
        return Unit(self.unit, self.decimals)

    def document(self) -> Document:
        """Return the resource as the API shows it."""
        fields: Document = self._asdict()
        fields["client"] = fields.pop("client_id")
        fields["metadata"] = self.metadata or {}
        for name in ("starts_at", "ends_at", "created_at", "closed_at"):
            fields[name] = timestamp(fields[name])
        return fields


class EntryRecord(NamedTuple):
    """One ledger line, in the order of ENTRY_COLUMNS."""

    resource_id: str
    version: int
    kind: str
    #: None, like `account`: the request is another client's, from before the reader had the resource.
    request_id: UUID | None
    account: str | None
    amount: int
    #: None, like `held`: the resource is another client's now.
    available: int | None
    held: int | None
    created_at: datetime

    def document(self) -> Document:
        """Return the entry as the API shows it."""
        return {
            "resource": self.resource_id,
            "version": self.version,
            "kind": self.kind,
            "request": None if self.request_id is None else str(self.request_id),
            "account": self.account,
            "amount": self.amount,
            "available": self.available,
            "held": self.held,
            "created_at": timestamp(self.created_at),
        }


def message_id(request_id: UUID, version: int) -> str:
    """Return the id of the notification about this state of a request."""
    return f"msg_{request_id.hex}_{version}"
