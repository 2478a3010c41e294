"""
Resources: the limited things. Requests open, amend and close them.
"""

import re
from typing import Annotated, Any, ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from api.services import Call
from api.v1.requests import ACCEPTED, EntryList
from api.web import submission
from api.web.fields import (
    ID_PATTERN,
    Amount,
    Body,
    Id,
    Metadata,
    Nothing,
    Quantity,
    Text,
    Timestamp,
    optional,
)
from api.web.pagination import Page, listed
from api.web.problems import Invalid, NotFound
from api.web.responses import ListOf
from api.web.routing import Answer, AnswerDoc, Routes
from api.web.submission import Origin, SubmissionBody
from processor.domain.amounts import DECIMALS_MAX
from processor.domain.kinds import KINDS
from processor.domain.model import ResourceKind
from processor.domain.rules.amendments import OPENING_RULES
from processor.errors import Archived
from processor.intake.intake import Submission
from processor.reading import requests
from processor.records.documents import ResourceRecord, timestamp

_ID = re.compile(ID_PATTERN)

Decimals = Annotated[int, Field(ge=0, le=DECIMALS_MAX)]

routes = Routes("Resources")


class Resource(BaseModel):
    """A limited thing."""

    id: str
    kind: ResourceKind
    unit: str | None
    decimals: int = Field(
        description="How many digits of an amount stand behind the point where people read it."
        " With 2, the amount 25000 is shown as 250.00."
    )
    client: str | None = Field(
        description="The only client that can use the resource; null: all clients can."
    )
    partition: int
    available: int
    held: int
    version: int
    overdraft: int
    per_account_limit: int | None
    per_account_daily_limit: int | None
    starts_at: AwareDatetime | None
    ends_at: AwareDatetime | None
    gateway: str | None
    confirm_above: int | None
    approve_above: int | None
    metadata: dict[str, Any]
    created_at: AwareDatetime
    closed_at: AwareDatetime | None


class ResourceList(ListOf[Resource]):
    """Resources."""


#: The kinds of requests that wait above a limit, for the texts of the fields.
_WAITING = ", ".join(
    sorted(name for name, kind in KINDS.items() if (kind.takes or kind.requires_legs) and kind.rule)
)


class Rules(Body):
    """The rules of a resource."""

    unit: Text = optional("The unit of amounts, such as EUR, points or pieces.")
    overdraft: Quantity = optional("How far `available` may fall below zero. The default is 0.")
    per_account_limit: Amount = optional("The total that one account may have taken or hold.")
    per_account_daily_limit: Amount = optional(
        "The total that one account may take or hold within one day (UTC). Also counts what is given back later."
    )
    starts_at: Timestamp = optional("Earlier requests are rejected.")
    ends_at: Timestamp = optional("Requests from then on are rejected.")
    gateway: Text = optional("An amount is held first, and taken when this gateway has accepted.")
    confirm_above: Quantity = optional(f"Requests that take more wait for a code: {_WAITING}.")
    approve_above: Quantity = optional(f"Requests that take more wait for an approval: {_WAITING}.")
    client: Id = optional("Only this client can use the resource.")
    metadata: Metadata = optional()

    @model_validator(mode="after")
    def _starts_before_it_ends(self) -> "Rules":
        if {"starts_at", "ends_at"} <= self.model_fields_set and self.starts_at >= self.ends_at:
            raise ValueError("starts_at must be before ends_at")
        return self


class Opening(Rules, SubmissionBody):
    """A new resource."""

    request_kind = "opening"
    kind_in_items = "resource_kind"

    id: Id
    kind: ResourceKind
    available: Quantity
    decimals: Decimals = optional(
        "How many digits of an amount stand behind the point where people read it: 2 for EUR in cents. The default is"
        " 0. It never changes afterwards."
    )

    def submission(self, origin: Origin) -> Submission:
        """Return the submission for intake."""
        return origin.submission(
            self.request_kind,
            self.id,
            amount=self.available,
            details={"kind": self.kind} | _details(self),
            metadata=self.metadata,
        )

    def check(self, gateways: frozenset[str]) -> None:
        """Refuse a gateway that is not configured."""
        _check_gateway(self, gateways)


class Amendment(Body):
    """The rules that change. A null removes a rule that may be absent."""

    model_config: ClassVar[ConfigDict] = ConfigDict(json_schema_extra={"minProperties": 1})

    unit: Text | None = None
    overdraft: Quantity = optional()
    per_account_limit: Amount | None = None
    per_account_daily_limit: Amount | None = None
    starts_at: Timestamp | None = None
    ends_at: Timestamp | None = None
    gateway: Text | None = None
    confirm_above: Quantity | None = None
    approve_above: Quantity | None = None
    client: Id | None = None
    metadata: Metadata = optional()

    @model_validator(mode="after")
    def _changes_something(self) -> "Amendment":
        if not self.model_fields_set:
            raise ValueError("must name at least one rule")
        if self.starts_at is not None and self.ends_at is not None and self.starts_at >= self.ends_at:
            raise ValueError("starts_at must be before ends_at")
        return self


class ResourceQuery(Page):
    """The resources that a client asks for."""

    kind: ResourceKind = optional()


class Moment(Body):
    """The time whose state a client asks for."""

    at: Timestamp = optional("The time of the state. Left out: now.")


@routes.add(
    "POST",
    "/v1/resources",
    roles=KINDS["opening"].roles,
    body=Opening,
    answers=ACCEPTED,
    problems=submission.PROBLEMS,
    request_headers=submission.REQUEST_HEADERS,
)
def open_resource(call: Call) -> Answer:
    """
    Open a resource.

    Makes a request of kind `opening`. If the resource exists already, it is rejected with `resource_exists`.
    """
    call.body.check(call.services.gateways)
    return submission.accept(call, "opening")


@routes.add(
    "PATCH",
    "/v1/resources/<resource>",
    roles=KINDS["amendment"].roles,
    body=Amendment,
    answers=ACCEPTED,
    problems=(*submission.PROBLEMS, NotFound),
    request_headers=("IdempotencyKeyOptional", "Prefer"),
)
def amend_resource(call: Call, resource: str) -> Answer:
    """
    Change the rules of a resource.

    Makes a request of kind `amendment`, which is decided in its turn. The idempotency key may be left out.

    Rejected with `invalid_amendment` if it does not fit the resource as it is then. Examples are an end before the
    start, an overdraft below what is overdrawn, and a `per_account_limit` below what an account has used.

    A `per_account_daily_limit` may be below what an account has taken today. A threshold may be set before an account
    has an address. Both bound the requests that follow.
    """
    _check_id(resource)
    rules: Amendment = call.body
    _check_gateway(rules, call.services.gateways)
    details = _details(rules)
    return submission.accept(
        call,
        "amendment",
        resource=resource,
        make=lambda origin: origin.submission(
            "amendment", resource, details=details, metadata=rules.metadata
        ),
    )


@routes.add(
    "POST",
    "/v1/resources/<resource>/close",
    roles=KINDS["closing"].roles,
    body=Nothing,
    body_optional=True,
    answers=ACCEPTED,
    problems=(*submission.PROBLEMS, NotFound),
    request_headers=submission.REQUEST_HEADERS,
)
def close_resource(call: Call, resource: str) -> Answer:
    """
    Close a resource.

    Requests that were accepted before are still decided. Later ones are rejected with `resource_closed`.
    """
    _check_id(resource)
    return submission.accept(
        call, "closing", resource=resource, make=lambda origin: origin.submission("closing", resource)
    )


@routes.add(
    "GET",
    "/v1/resources",
    query=ResourceQuery,
    answers={200: AnswerDoc("Newest first.", ResourceList)},
)
def list_resources(call: Call) -> Answer:
    """
    List resources.

    A client gets its own resources, and those that all clients can use.
    """
    query: ResourceQuery = call.query
    with call.services.connection() as connection:
        page = requests.list_resources(connection, call.caller.sees, query.kind, query.limit, query.cursor)
    return Answer(listed(page))


@routes.add(
    "GET",
    "/v1/resources/<resource>",
    query=Moment,
    answers={200: AnswerDoc("The resource, now or at that time.", Resource)},
    problems=(NotFound, Archived),
)
def get_resource(call: Call, resource: str) -> Answer:
    """
    Read a resource.

    With `at`, the state at that time: quantities from its ledger, and rules from its amendments. A time whose entries
    are in the archive is answered with 410. While the resource
    belonged to another client, it does not exist for yours.
    """
    _check_id(resource)
    moment: Moment = call.query
    with call.services.connection() as connection:
        if "at" in moment.model_fields_set:
            found = requests.read_resource_at(connection, resource, call.caller.sees, moment.at)
        else:
            found = requests.read_resource(connection, resource, call.caller.sees)
    return Answer(_visible(found).document())


@routes.add(
    "GET",
    "/v1/resources/<resource>/entries",
    query=Page,
    answers={200: AnswerDoc("Newest first.", EntryList)},
    problems=(NotFound,),
)
def list_resource_entries(call: Call, resource: str) -> Answer:
    """
    Read the ledger of a resource.

    If all clients can use the resource, a client gets the entries of its own requests. If the resource is its own, it
    gets all entries. Those of another client, from before, show neither the account nor the request.
    """
    _check_id(resource)
    part: Page = call.query
    with call.services.connection() as connection:
        found = _visible(requests.read_resource(connection, resource, call.caller.sees))
        page = requests.list_resource_entries(connection, found, call.caller.sees, part.limit, part.cursor)
    return Answer(listed(page))


def _details(rules: "Rules | Amendment") -> dict[str, Any]:
    """Return the rules that were sent, as a request stores them."""
    sent = {name: getattr(rules, name) for name in OPENING_RULES if name in rules.model_fields_set}
    times = {name: timestamp(sent[name]) for name in ("starts_at", "ends_at") if name in sent}
    return sent | times


def _visible(found: ResourceRecord | None) -> ResourceRecord:
    if found is None:
        raise NotFound("there is no such resource")
    return found


def _check_id(resource: str) -> None:
    if not _ID.fullmatch(resource):
        raise NotFound("there is no such resource")


def _check_gateway(rules: Opening | Amendment, gateways: frozenset[str]) -> None:
    if rules.gateway is not None and rules.gateway not in gateways:
        raise Invalid.at("/gateway", "is not the name of a configured gateway")
