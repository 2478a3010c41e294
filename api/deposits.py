"""
Deposits: a top-up, a restock.
"""

from api import accepting
from api.accepting import Origin
from api.auth import OPERATORS
from api.bodies import Amount, Body, Id, Metadata, optional
from api.routing import Answer, Call, Routes
from processor.intake import Submission

routes = Routes("Deposits")


class Deposit(Body):
    """A resource gets more."""

    resource: Id
    amount: Amount
    metadata: Metadata = optional()

    def submission(self, origin: Origin) -> Submission:
        """What intake takes in."""
        return origin.submission("deposit", self.resource, amount=self.amount, metadata=self.metadata)


@routes.add(
    "POST",
    "/v1/deposits",
    roles=OPERATORS,
    body=Deposit,
    answers=accepting.ANSWERS,
    problems=accepting.PROBLEMS,
    heeds=accepting.HEEDS,
)
def deposit(call: Call) -> Answer:
    """
    Put more into a resource.

    A top-up of money or points, a restock of items.
    """
    return accepting.accept(call, "deposit")
