"""
Deposits: a resource gets more, as by a top-up or a restock.
"""

from api.services import Call
from api.v1.requests import ACCEPTED
from api.web import submission
from api.web.fields import Amount, Body, Id, Metadata, optional
from api.web.routing import Answer, Routes
from api.web.submission import Origin
from processor.domain.roles import OPERATORS
from processor.intake.intake import Submission

routes = Routes("Deposits")


class Deposit(Body):
    """A resource gets more."""

    resource: Id
    amount: Amount
    metadata: Metadata = optional()

    def submission(self, origin: Origin) -> Submission:
        """Return the submission for intake."""
        return origin.submission("deposit", self.resource, amount=self.amount, metadata=self.metadata)


@routes.add(
    "POST",
    "/v1/deposits",
    roles=OPERATORS,
    body=Deposit,
    answers=ACCEPTED,
    problems=submission.PROBLEMS,
    request_headers=submission.REQUEST_HEADERS,
)
def deposit(call: Call) -> Answer:
    """
    Put more into a resource.

    For example a top-up of money or points, or a restock of items.
    """
    return submission.accept(call, "deposit")
