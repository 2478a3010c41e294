"""
Withdrawals: money leaves a balance, for a destination outside.
"""

from api.services import Call
from api.v1.requests import ACCEPTED
from api.web import submission
from api.web.auth import CLIENTS
from api.web.fields import Account, Amount, Body, Id, Metadata, Text, Timestamp, optional
from api.web.routing import Answer, Routes
from api.web.submission import Origin
from processor.intake.intake import Submission

routes = Routes("Withdrawals")


class Withdrawal(Body):
    """Money leaves a balance."""

    resource: Id
    account: Account
    amount: Amount
    destination: Text = optional("Where it goes, as the gateway of the resource understands it.")
    apply_before: Timestamp = optional("Not decided by then: rejected, `deadline_passed`.")
    metadata: Metadata = optional()

    def submission(self, origin: Origin) -> Submission:
        """What intake takes in."""
        return origin.submission(
            "withdrawal",
            self.resource,
            account=self.account,
            amount=self.amount,
            apply_before=self.apply_before,
            details={"destination": self.destination} if "destination" in self.model_fields_set else None,
            metadata=self.metadata,
        )


@routes.add(
    "POST",
    "/v1/withdrawals",
    roles=CLIENTS,
    body=Withdrawal,
    answers=ACCEPTED,
    problems=submission.PROBLEMS,
    request_headers=submission.REQUEST_HEADERS,
)
def withdraw(call: Call) -> Answer:
    """
    Withdraw money.

    From a resource without a gateway it is taken at once.
    """
    return submission.accept(call, "withdrawal")
