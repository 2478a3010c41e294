"""
What clients get back, as types: only for the OpenAPI document, which is generated from them.

The documents themselves are made by `processor/records/documents.py`; a test holds the two together.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, Field

from processor.domain.model import EntryKind, Outcome, RequestKind, ResourceKind, Stage, Status

Row = TypeVar("Row")


class Error(BaseModel):
    """Why a request was rejected, cancelled, refunded, or could not be finished."""

    code: str = Field(examples=["out_of_stock"])
    reason: str | None = Field(default=None, description="The gateway's own reason.")


class Request(BaseModel):
    """A request: what was asked, and what became of it."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    kind: RequestKind
    status: Status
    stage: Stage | None
    resource: str
    account: str | None
    amount: int | None
    error: Error | None
    result: dict[str, Any] | None
    refunded: int
    version: int
    sequence: int | None = Field(description="The number of its decision within its partition, without gaps.")
    metadata: dict[str, Any]
    created_at: AwareDatetime
    decided_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    apply_before: AwareDatetime | None = None
    refund_of: str | None = None
    position: int | None = Field(
        default=None,
        description="While it is queued: how many of its partition are ahead; exact up to 1,000, and 1,000 beyond.",
    )


class Resource(BaseModel):
    """A limited thing."""

    id: str
    kind: ResourceKind
    unit: str | None
    client: str | None = Field(description="It exists for this client alone; null: for all.")
    partition: int
    available: int
    held: int
    version: int
    overdraft: int
    per_account_limit: int | None
    starts_at: AwareDatetime | None
    ends_at: AwareDatetime | None
    gateway: str | None
    confirm_above: int | None
    approve_above: int | None
    metadata: dict[str, Any]
    created_at: AwareDatetime
    closed_at: AwareDatetime | None


class Entry(BaseModel):
    """One immutable line of a resource's ledger, with the state after it."""

    resource: str
    version: int
    kind: EntryKind
    request: str
    account: str | None
    amount: int
    available: int
    held: int
    created_at: AwareDatetime


class Event(BaseModel):
    """A state that a request came to."""

    at: AwareDatetime
    status: Status
    stage: Stage | None
    actor: str
    detail: str | None
    trace: str | None = Field(
        default=None, description="For operators and admins: what went wrong, word for word."
    )


class Attempt(BaseModel):
    """One call of a gateway."""

    started_at: AwareDatetime
    ended_at: AwareDatetime | None = Field(description="null: it is under way, or nobody knows how it ended.")
    status: int | None = Field(description="The HTTP status of the answer.")
    outcome: Outcome | None
    error: str | None


class InspectedRequest(Request):
    """A request with what went wrong."""

    trace: str | None = Field(description="Of a fault in deciding it: what went wrong, word for word.")
    attempts: list[Attempt]


class Replayed(BaseModel):
    """How many parked requests match, and how many of them were sent back now."""

    matched: int
    replayed: int


class Account(BaseModel):
    """How to reach the person behind an account."""

    account: str
    email: str | None
    updated_at: AwareDatetime


class CodeSent(BaseModel):
    """A one-time code that will be sent."""

    destination: str = Field(description="As it is written to: in small letters.")
    expires_at: AwareDatetime
    resend_after: AwareDatetime = Field(description="When the destination may be given the next one.")


class CodeVerified(BaseModel):
    """A one-time code that was right."""

    verified: Literal[True]


class Webhook(BaseModel):
    """Where a client is told of its requests."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    client: str
    url: str
    events: list[str] | None = Field(description="The types it wants; null: all.")
    created_at: AwareDatetime
    previous_secret_until: AwareDatetime | None = Field(
        description="Until then the secret before the last rotation signs as well."
    )
    disabled_at: AwareDatetime | None
    disabled_reason: str | None


class NewWebhook(Webhook):
    """A webhook with its secret."""

    secret: str = Field(description="`whsec_…`, shown this once.")


class Delivery(BaseModel):
    """What a webhook is told of one state of a request."""

    id: int
    webhook: str = Field(json_schema_extra={"format": "uuid"})
    message: str = Field(description="The `webhook-id` of all its tries.")
    request: str = Field(json_schema_extra={"format": "uuid"})
    type: str
    status: Literal["pending", "delivered", "failed"]
    tries: int
    due_at: AwareDatetime | None = Field(description="When it is tried next; null: not any more.")
    last_status: int | None
    last_error: str | None
    created_at: AwareDatetime
    delivered_at: AwareDatetime | None


class SandboxPayout(BaseModel):
    """The sandbox gateway has paid."""

    reference: str


class SandboxRefusal(BaseModel):
    """The sandbox gateway has not paid."""

    reason: str


class SandboxCall(BaseModel):
    """A call that the sandbox gateway saw, and what it answered."""

    at: AwareDatetime
    status: int


class Partition(BaseModel):
    """A single-consumer lane."""

    id: int
    owner: str | None
    backlog: int
    oldest_seconds: float | None
    paused: bool


class AuditLine(BaseModel):
    """Who did what, when and why."""

    id: int
    at: AwareDatetime
    actor: str
    action: str
    request: str | None
    reason: str | None
    detail: dict[str, Any] | None


class FieldError(BaseModel):
    """One mistake in a body or a query."""

    pointer: str = Field(description="A JSON pointer (RFC 6901); empty: the whole body.")
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="A relative URI that answers with an explanation.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; what programs look at.")
    errors: list[FieldError] | None = None
    attempts_remaining: int | None = Field(
        default=None, description="Of a code: how often it may still be tried."
    )


class BatchResult(BaseModel):
    """What became of one item of a batch: `request`, or `problem`."""

    status: int
    request: Request | None = None
    replayed: Literal[True] | None = Field(
        default=None, description="The key was used before, with the same body."
    )
    problem: Problem | None = None


class BatchResults(BaseModel):
    """One result for each item, in order."""

    results: list[BatchResult]


class ListOf(BaseModel, Generic[Row]):
    """A part of a list, newest first."""

    data: list[Row]
    next_cursor: str | None = Field(description="For the next part; null: this is the last.")


class AllOf(BaseModel, Generic[Row]):
    """A list in one page."""

    data: list[Row]


class RequestList(ListOf[Request]):
    """Requests."""


class ResourceList(ListOf[Resource]):
    """Resources."""


class EntryList(ListOf[Entry]):
    """Ledger lines."""


class AuditList(ListOf[AuditLine]):
    """Lines of the audit."""


class WebhookList(ListOf[Webhook]):
    """Webhooks."""


class DeliveryList(ListOf[Delivery]):
    """Deliveries of a webhook."""


class SandboxPast(AllOf[SandboxCall]):
    """What the sandbox gateway was asked for a request."""

    payouts: int = Field(description="One, or none.")


class EventList(AllOf[Event]):
    """The history of a request."""


class PartitionList(AllOf[Partition]):
    """All partitions."""


class Readiness(BaseModel):
    """What is not as it should be, though requests are accepted."""

    degraded: list[str]


class Unreadiness(BaseModel):
    """What is missing."""

    missing: list[str]
    degraded: list[str]


class Life(BaseModel):
    """Whether the process lives."""

    status: Literal["ok", "dying"]
