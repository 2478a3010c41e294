"""
Reservations: an account has some of a resource set aside, and its client captures or releases it later.
"""

from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, model_validator

from api.services import Call
from api.v1.legs import Takes
from api.v1.requests import ACCEPTED, RECORDED
from api.web import problems, submission
from api.web.fields import Account, Amount, Body, Id, Metadata, Text, optional
from api.web.parsing import read_id
from api.web.problems import Invalid, NotFound
from api.web.routing import Answer, Routes
from api.web.submission import Origin, SubmissionBody
from processor.domain.kinds import KINDS
from processor.errors import Archived
from processor.intake.intake import Submission
from processor.operations import reservations
from processor.operations.cancel import ReasonRefused
from processor.operations.reservations import LegsAreCapturedWhole, MoreThanHeld, NotHeld

#: The longest time for which a reservation is held: 30 days.
TTL_SECONDS_MAX: Final = 30 * 24 * 3_600
TTL_SECONDS_DEFAULT: Final = 600

routes = Routes("Reservations")

problems.declare(
    NotHeld.code,
    status=409,
    title="The request is not held",
    explanation="Only a reservation in the stage held is captured or released, once, and before its expires_at.",
    remedy="Read the request: its status and stage show whether it was captured, released or has expired.",
)


class Reservation(SubmissionBody):
    """An account has some of a resource set aside, or of each of several."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["resource"]}, {"required": ["legs"]}]}
    )
    request_kind = "reservation"

    resource: Id = optional()
    account: Account
    amount: Amount = 1
    legs: Takes = optional(
        "In place of `resource` and `amount`: all are held or none, and they end together."
    )
    ttl_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=TTL_SECONDS_MAX,
            description="The time for which the amount is held, from its decision on. Then all of it is given back.",
        ),
    ] = TTL_SECONDS_DEFAULT
    metadata: Metadata = optional()

    @model_validator(mode="after")
    def _has_one_form(self) -> "Reservation":
        sent = self.model_fields_set
        if ("resource" in sent) == ("legs" in sent):
            raise ValueError("must have either resource or legs")
        if {"legs", "amount"} <= sent:
            raise ValueError("must have no amount beside legs: each leg has its own")
        return self

    def submission(self, origin: Origin) -> Submission:
        """Return the submission for intake."""
        details: dict[str, Any] = {"ttl_seconds": self.ttl_seconds}
        if "legs" in self.model_fields_set:
            details["legs"] = [leg.of_domain().document() for leg in self.legs]
        return origin.submission(
            self.request_kind,
            details["legs"][0]["resource"] if "legs" in details else self.resource,
            account=self.account,
            amount=None if "legs" in details else self.amount,
            details=details,
            metadata=self.metadata,
        )


class Capture(Body):
    """The part of a hold that is captured."""

    amount: Amount = optional(
        "The quantity to capture. The rest is given back. Left out: all that is held. Not with legs, which are "
        "captured whole."
    )


class Release(Body):
    """The reason for a release."""

    reason: Text = optional("From operators and admins only, who may leave it out. The audit keeps it.")


@routes.add(
    "POST",
    "/v1/reservations",
    roles=KINDS["reservation"].roles,
    body=Reservation,
    answers=ACCEPTED,
    problems=submission.PROBLEMS,
    request_headers=submission.REQUEST_HEADERS,
)
def reserve(call: Call) -> Answer:
    """
    Reserve some of a resource, or of several.

    With `legs`, all are held in one step, or none. The request then has the code of the first leg that is refused, in
    the order sent, and `error.resource` names it. Captures, releases and the expiry act on all legs together. The
    amount is held until it is captured or released, or until `ttl_seconds` are over. With `Prefer: wait`, the
    answer waits until it is held.
    """
    return submission.accept(call, "reservation")


@routes.add(
    "POST",
    "/v1/requests/<request>/capture",
    roles=KINDS["reservation"].roles,
    body=Capture,
    body_optional=True,
    answers=RECORDED,
    problems=(NotFound, Archived, NotHeld),
)
def capture(call: Call, request: str) -> Answer:
    """
    Capture a reservation.

    The held amount is taken for good, or `amount` of it, and the rest is given back. If the resource has a gateway,
    it is called first. A capture that was accepted counts, also if the hold expires before it is decided.
    """
    request_id = read_id(request, "request")
    body: Capture = call.body
    try:
        with call.services.connection() as connection:
            record, command = reservations.capture(connection, request_id, call.caller, body.amount)
    except (MoreThanHeld, LegsAreCapturedWhole) as refused:
        raise Invalid.at("/amount", str(refused)) from None
    call.services.doorbell.notify(command.partition)
    return submission.recorded(record)


@routes.add(
    "POST",
    "/v1/requests/<request>/release",
    body=Release,
    body_optional=True,
    answers=RECORDED,
    problems=(NotFound, Archived, NotHeld),
)
def release(call: Call, request: str) -> Answer:
    """
    Release a reservation.

    All that is held is given back, and the request is `cancelled` with `released`.
    """
    request_id = read_id(request, "request")
    body: Release = call.body
    try:
        with call.services.connection() as connection:
            record, command = reservations.release(connection, request_id, call.caller, body.reason)
    except ReasonRefused as refused:
        raise Invalid.at("/reason", str(refused)) from None
    call.services.doorbell.notify(command.partition)
    return submission.recorded(record)
