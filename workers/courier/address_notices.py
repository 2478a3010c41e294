"""
Address notices: mails to the address that an account no longer has, about the change.

Without them, an attacker could take over an account without a sign to its owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processor.outbox import address_notices, deliveries
from workers.courier.mailer import compose
from workers.courier.sender import MailKind

if TYPE_CHECKING:
    from email.message import EmailMessage

    from processor.outbox.address_notices import AddressNotice


def mail_for(notice: AddressNotice, sender: str) -> EmailMessage:
    """Build the mail to the old address. Raises ValueError if that address cannot stand in a header."""
    done = "removed" if notice.became is None else "changed"
    lines = [
        f"The e-mail address of your account was {done} on {notice.changed_at:%Y-%m-%d %H:%M} UTC.",
        "This address no longer receives mails about the requests of the account.",
        "For a day, codes that confirm them go to the address that the account had before the last changes.",
        "",
        f"Account:   {notice.account}",
    ]
    if notice.became is not None:
        lines.append(f"Now:       {notice.became}")
    lines += ["", "If you did not make this change, contact the provider of your account at once."]
    subject = f"Your e-mail address was {done}"
    return compose(sender, notice.email, subject, notice.message_id, notice.changed_at, lines)


ADDRESS_NOTICES: Final = MailKind(
    "address_notice",
    address_notices.due,
    address_notices.claim,
    address_notices.record,
    mail_for,
    deliveries.PAUSES_SECONDS,
    lambda notice: {"id": str(notice.id)},
)
