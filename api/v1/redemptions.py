"""
Redemptions: an account takes some of a resource.
"""

from api.services import Call
from api.v1.requests import ACCEPTED
from api.web import submission
from api.web.fields import Account, Amount, Id, Metadata, Timestamp, optional
from api.web.routing import Answer, Routes
from api.web.submission import Origin, SubmissionBody
from processor.domain.kinds import KINDS
from processor.intake.intake import Submission

routes = Routes("Redemptions")


class Redemption(SubmissionBody):
    """An account takes some of a resource."""

    request_kind = "redemption"

    resource: Id
    account: Account
    amount: Amount = 1
    apply_before: Timestamp = optional("A request that is decided later is rejected with `deadline_passed`.")
    metadata: Metadata = optional()

    def submission(self, origin: Origin) -> Submission:
        """Return the submission for intake."""
        return origin.submission(
            self.request_kind,
            self.resource,
            account=self.account,
            amount=self.amount,
            apply_before=self.apply_before,
            metadata=self.metadata,
        )


@routes.add(
    "POST",
    "/v1/redemptions",
    roles=KINDS["redemption"].roles,
    body=Redemption,
    answers=ACCEPTED,
    problems=submission.PROBLEMS,
    request_headers=submission.REQUEST_HEADERS,
)
def redeem(call: Call) -> Answer:
    """
    Redeem a resource.

    An account takes an amount of the resource, 1 by default. Examples are a coupon, an item of stock, a seat, points.
    """
    return submission.accept(call, "redemption")
