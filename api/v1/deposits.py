"""
Deposits: a resource gets more, as by a top-up or a restock.
"""

from api.services import Call
from api.v1.requests import ACCEPTED
from api.web import submission
from api.web.fields import Amount, Id, Metadata, optional
from api.web.routing import Answer, Routes
from api.web.submission import Origin, SubmissionBody
from processor.domain.kinds import KINDS
from processor.intake.intake import Submission

routes = Routes("Deposits")


class Deposit(SubmissionBody):
    """A resource gets more."""

    request_kind = "deposit"

    resource: Id
    amount: Amount
    metadata: Metadata = optional()

    def submission(self, origin: Origin) -> Submission:
        """Return the submission for intake."""
        return origin.submission(self.request_kind, self.resource, amount=self.amount, metadata=self.metadata)


@routes.add(
    "POST",
    "/v1/deposits",
    roles=KINDS["deposit"].roles,
    body=Deposit,
    answers=ACCEPTED,
    problems=submission.PROBLEMS,
    request_headers=submission.REQUEST_HEADERS,
)
def deposit(call: Call) -> Answer:
    """
    Put more into a resource.

    Examples are a top-up of money or points, and a restock of items.
    """
    return submission.accept(call, "deposit")
