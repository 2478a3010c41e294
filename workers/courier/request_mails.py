"""
E-mails to the people behind accounts: what became of their requests.

A few at a time over one connection, on a thread of its own: a slow mail server delays mails alone.
"""

from __future__ import annotations

import asyncio
import functools
import math
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

import structlog

from processor.outbox import deliveries as outbox
from processor.outbox.deliveries import MailDelivery, Told, failed
from processor.records import documents
from workers.courier.database_thread import GATHER_SECONDS, in_thread
from workers.courier.mailer import send_each
from workers.courier.recorder import Recorder

if TYPE_CHECKING:
    from processor.records.documents import RequestRecord
    from workers.courier.database_thread import Line
    from workers.courier.mailer import Post

#: Mails sent over one connection.
CHUNK: Final = 10
#: How long these may take altogether before others may take them over, in seconds.
LEASE_SECONDS: Final = 120.0

_SAID: Final = {
    "completed": "is completed",
    "rejected": "was rejected",
    "refunded": "was given back",
    "cancelled": "was cancelled",
    "failed": "could not be finished yet",
}
_FAILED_NOTE: Final = "Nothing is lost: what it holds stays set aside, and somebody will look after it."

log = structlog.get_logger(__name__)


class Mails:
    """What is to be mailed."""

    def __init__(self, post: Post, claims: Line, records: Line) -> None:
        self._post = post
        self._claims = claims
        self._records = records
        #: Set when it is worth looking again.
        self.woken = asyncio.Event()
        self.recorder: Recorder[Told] = Recorder(self._write, lambda told: told.delivery.id, lambda _: None)

    async def look(self) -> float:
        """Send some of what is due. Returns in how many seconds there may be more. Raises DatabaseUnavailable."""
        claimed = await self._claims.run(outbox.claim_mails, CHUNK, LEASE_SECONDS)
        if claimed:
            for told in await in_thread(lambda: _send(self._post, claimed)):
                self.recorder.add(told)
            return GATHER_SECONDS
        seconds = await self._claims.run(outbox.next_mail)
        return math.inf if seconds is None else seconds

    async def finished(self) -> None:
        """Wait until all outcomes are recorded."""
        await self.recorder.drained()

    async def _write(self, tries: list[Told]) -> None:
        await self._records.run(outbox.record, tries)


def mail_for(delivery: MailDelivery, sender: str) -> EmailMessage:
    """
    What an account is told. The Message-ID is the same over all tries.
    """
    request = delivery.request
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = delivery.email
    mail["Subject"] = f"Your {request.kind} {_SAID[request.status]}"
    if request.at is not None:
        mail["Date"] = format_datetime(request.at)
    mail["Message-ID"] = (
        f"<{documents.message_id(request.id, request.version)}@{sender.rpartition('@')[2].strip('>')}>"
    )
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n".join(_lines(request)))
    return mail


def _lines(request: RequestRecord) -> list[str]:
    amount = "" if request.amount is None else f" of {request.amount}"
    lines = [f"Your {request.kind}{amount} from {request.resource_id} {_SAID[request.status]}.", ""]
    if request.status == "failed":
        lines += [_FAILED_NOTE, ""]
    lines += [f"Account:   {request.account}", f"Request:   {request.id}"]
    if request.code is not None:
        lines.append(f"Reason:    {request.code}" + (f" ({request.reason})" if request.reason else ""))
    if request.reference is not None:
        lines.append(f"Reference: {request.reference}")
    return lines


def _send(post: Post, deliveries: list[MailDelivery]) -> list[Told]:
    outcomes = send_each(post, [functools.partial(mail_for, one, post.sender) for one in deliveries])
    told: list[Told] = []
    for delivery, failure in zip(deliveries, outcomes, strict=True):
        if failure is None:
            told.append(Told(delivery, "delivered"))
        elif failure.for_good:
            told.append(Told(delivery, "failed", error=failure.reason))
        else:
            told.append(failed(delivery, failure.reason))
    for one in told:
        log.info(
            "mail_sent" if one.status == "delivered" else "mail_not_sent",
            delivery=one.delivery.id,
            tries=one.delivery.tries,
            error=one.error,
            again_in_s=one.pause_seconds,
        )
    return told
