"""
Withdrawals: money leaves a balance, for a destination outside.
"""

from api.services import Call
from api.v1.requests import ACCEPTED
from api.web import submission
from api.web.fields import Account, Amount, Id, Metadata, Text, Timestamp, optional
from api.web.routing import Answer, Routes
from api.web.submission import Origin, SubmissionBody
from processor.domain.kinds import KINDS
from processor.intake.intake import Submission

routes = Routes("Withdrawals")


class Withdrawal(SubmissionBody):
    """Money leaves a balance."""

    request_kind = "withdrawal"

    resource: Id
    account: Account
    amount: Amount
    destination: Text = optional("The recipient, in the form that the gateway of the resource expects.")
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
            details={"destination": self.destination} if "destination" in self.model_fields_set else None,
            metadata=self.metadata,
        )


@routes.add(
    "POST",
    "/v1/withdrawals",
    roles=KINDS["withdrawal"].roles,
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
