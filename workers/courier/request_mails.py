"""
Request mails: they report to an account what has become of its request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processor.outbox import deliveries
from processor.records import documents
from workers.courier.mailer import compose
from workers.courier.sender import MailKind

if TYPE_CHECKING:
    from email.message import EmailMessage

    from processor.outbox.deliveries import MailDelivery
    from processor.records.documents import RequestRecord

_NEWS: Final = {
    "completed": "is completed",
    "rejected": "was rejected",
    "refunded": "was given back",
    "cancelled": "was cancelled",
    "failed": "could not be finished yet",
}
_FAILED_NOTE: Final = "Nothing is lost. The amount stays set aside, and an operator will look at the request."


def mail_for(delivery: MailDelivery, sender: str) -> EmailMessage:
    """Build the mail about a request. Raises ValueError if its address cannot stand in a header."""
    request = delivery.request
    return compose(
        sender,
        delivery.email,
        f"Your {request.kind} {_NEWS[request.status]}",
        documents.message_id(request.id, request.version),
        request.at,
        _lines(request),
    )


def _lines(request: RequestRecord) -> list[str]:
    amount = "" if request.amount is None else f" of {request.amount}"
    lines = [f"Your {request.kind}{amount} from {request.resource_id} {_NEWS[request.status]}.", ""]
    if request.status == "failed":
        lines += [_FAILED_NOTE, ""]
    lines += [f"Account:   {request.account}", f"Request:   {request.id}"]
    if request.code is not None:
        lines.append(f"Reason:    {request.code}" + (f" ({request.reason})" if request.reason else ""))
    if request.reference is not None:
        lines.append(f"Reference: {request.reference}")
    return lines


REQUEST_MAILS: Final = MailKind(
    "mail",
    deliveries.claim_mails,
    deliveries.next_mail,
    deliveries.record,
    mail_for,
    deliveries.PAUSES_SECONDS,
    lambda delivery: {"delivery": delivery.id},
)
