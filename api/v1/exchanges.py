"""
Exchanges: an account takes some of each of several resources, and gives to others, all at once or not at all.
"""

from typing import Any

from pydantic import Field

from api.services import Call
from api.v1.legs import Legs
from api.v1.requests import ACCEPTED
from api.web import submission
from api.web.fields import Account, Metadata, Timestamp, optional
from api.web.routing import Answer, Routes
from api.web.submission import Origin, SubmissionBody
from processor.domain.kinds import KINDS
from processor.intake.intake import Submission

routes = Routes("Exchanges")


class Exchange(SubmissionBody):
    """An account takes and gives, all at once."""

    request_kind = "exchange"

    account: Account
    legs: Legs = Field(
        examples=[[{"resource": "points:u_42", "take": 100}, {"resource": "stock:mug", "take": 1}]]
    )
    apply_before: Timestamp = optional("A request that is decided later is rejected with `deadline_passed`.")
    metadata: Metadata = optional()

    def submission(self, origin: Origin) -> Submission:
        """Return the submission for intake."""
        sent: list[dict[str, Any]] = [leg.of_domain().document() for leg in self.legs]
        return origin.submission(
            self.request_kind,
            self.legs[0].resource,
            account=self.account,
            apply_before=self.apply_before,
            details={"legs": sent},
            metadata=self.metadata,
        )


@routes.add(
    "POST",
    "/v1/exchanges",
    roles=KINDS["exchange"].roles,
    body=Exchange,
    answers=ACCEPTED,
    problems=submission.PROBLEMS,
    request_headers=submission.REQUEST_HEADERS,
)
def exchange(call: Call) -> Answer:
    """
    Exchange resources.

    An account takes some of one or more resources, and gives to others: points for stock, a transfer, a trade. All
    legs are decided together, in the order of each resource. If one is refused, nothing moves, and the request has
    the code of the first such leg.
    """
    return submission.accept(call, "exchange")
