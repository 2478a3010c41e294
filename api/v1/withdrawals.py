"""
Withdrawals: money leaves a balance, for a destination outside.
"""

from api.services import Call
from api.v1.requests import ACCEPTED
from api.web import submission
from api.web.fields import Account, Amount, Body, Id, Metadata, Text, Timestamp, optional
from api.web.routing import Answer, Routes
from api.web.submission import Origin
from processor.domain.roles import CLIENTS
from processor.intake.intake import Submission

routes = Routes("Withdrawals")


class Withdrawal(Body):
    """Money leaves a balance."""

    resource: Id
    account: Account
    amount: Amount
    destination: Text = optional("The recipient, in the form that the gateway of the resource expects.")
    apply_before: Timestamp = optional("A request that is decided later is rejected with `deadline_passed`.")
    metadata: Metadata = optional()

    def submission(self, origin: Origin) -> Submission:
        """Return the submission for intake."""
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

    A resource without a gateway is debited at once. With a gateway, the amount is held until the gateway answers.
    """
    return submission.accept(call, "withdrawal")
