"""
Request mails: they report to an account what has become of its request.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from processor.domain.amounts import NO_UNIT, format_amount
from processor.outbox import deliveries
from processor.records import documents
from workers.courier.mailer import compose
from workers.courier.sender import MailKind

if TYPE_CHECKING:
    from email.message import EmailMessage

    from processor.domain.amounts import Unit
    from processor.outbox.deliveries import MailDelivery
    from processor.records.documents import RequestRecord

#: The news of each event.
_NEWS: Final = {
    "request.completed": "is completed",
    "request.rejected": "was rejected",
    "request.refunded": "was given back",
    "request.partially_refunded": "was given back in part",
    "request.cancelled": "was cancelled",
    "request.failed": "could not be finished yet",
}
_FAILED_NOTE: Final = "Nothing is lost. The amount stays set aside, and an operator will look at the request."


def mail_for(delivery: MailDelivery, sender: str) -> EmailMessage:
    """Build the mail about a request. Raises ValueError if its address cannot stand in a header."""
    request = delivery.request
    return compose(
        sender,
        delivery.email,
        f"Your {request.kind} {_NEWS[request.event]}",
        documents.message_id(request.id, request.version),
        request.at,
        _lines(request, delivery.unit, delivery.units),
    )


def _lines(request: RequestRecord, unit: Unit, units: dict[str, Unit]) -> list[str]:
    amount = "" if request.amount is None else f" of {format_amount(request.amount, unit)}"
    subject = f" of {len(request.legs)} resources" if request.legs else f"{amount} from {request.resource_id}"
    lines = [f"Your {request.kind}{subject} {_NEWS[request.event]}.", ""]
    for leg in request.legs:
        quantity = format_amount(leg.quantity, units.get(leg.resource_id, NO_UNIT))
        lines.append(f"{'Gives' if leg.take is None else 'Takes'}:     {quantity}, {leg.resource_id}")
    lines += [""] if request.legs else []
    if request.status == "failed":
        lines += [_FAILED_NOTE, ""]
    lines += [f"Account:   {request.account}", f"Request:   {request.id}"]
    if 0 < request.refunded < (request.amount or 0):
        lines.append(f"Refunded:  {format_amount(request.refunded, unit)} in all")
    if request.code is not None:
        why = request.reason or request.resource_of_code
        lines.append(f"Reason:    {request.code}" + (f" ({why})" if why else ""))
    if request.reference is not None:
        lines.append(f"Reference: {request.reference}")
    return lines


def _log_fields(delivery: MailDelivery) -> dict[str, Any]:
    return {
        "delivery": delivery.id,
        "request": str(delivery.request.id),
        **delivery.correlation.log_fields(),
    }


def request_mails(mails_per_hour: int) -> MailKind[MailDelivery]:
    """Return the kind of these mails, of which a client sends a limited number to one mailbox in an hour."""
    return MailKind(
        "mail",
        deliveries.due_mails,
        functools.partial(deliveries.claim_mails, mails_per_hour=mails_per_hour),
        deliveries.record,
        mail_for,
        deliveries.PAUSES_SECONDS,
        _log_fields,
    )
