"""
One-time codes on their way to people: by e-mail, or, where the destination is a telephone number, through the gateway
named `sms`.

What is sent is in no log, no error and no record: lines here name a code by its id, from which only TELLER_SECRET
leads to its digits.
"""

from __future__ import annotations

import asyncio
import functools
import math
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

import structlog

from processor.gateways.protocol import Order
from processor.outbox import code_messages
from processor.outbox.code_messages import CodeDelivery, Sent, failed
from workers.courier.database_thread import GATHER_SECONDS, in_thread
from workers.courier.mailer import send_each
from workers.courier.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processor.gateways.protocol import Gateway
    from processor.settings import Settings
    from workers.courier.database_thread import Line
    from workers.courier.mailer import Post

#: Codes sent over one connection to the mail server.
CHUNK: Final = 10
#: How long these may take altogether before others may take them over, in seconds: people wait for them, and a code
#: that is sent twice is still the same one.
LEASE_SECONDS: Final = 15.0
#: The rest when something is due that cannot be claimed: another courier is at it, in seconds.
BLOCKED_SECONDS: Final = 0.05
#: The gateway that sends text messages, where one of that name is set up.
SMS: Final = "sms"

log = structlog.get_logger(__name__)


class Codes:
    """What is to be sent to people who are asked for a code."""

    def __init__(
        self, settings: Settings, post: Post, gateways: Mapping[str, Gateway], claims: Line, records: Line
    ) -> None:
        self._settings = settings
        self._post = post
        self._sms = gateways.get(SMS)
        self._claims = claims
        self._records = records
        #: Set when it is worth looking again.
        self.woken = asyncio.Event()
        self.recorder: Recorder[Sent] = Recorder(self._write, lambda sent: sent.delivery.id, lambda _: None)

    async def look(self) -> float:
        """Send some of what is due. Returns in how many seconds there may be more. Raises DatabaseUnavailable."""
        # First, and most often alone: whatever wakes the courier wakes us, too.
        seconds = await self._claims.run(code_messages.next_due)
        if seconds is None or seconds > 0:
            return math.inf if seconds is None else seconds
        claimed = await self._claims.run(code_messages.claim, self._settings, CHUNK, LEASE_SECONDS)
        if not claimed:
            return BLOCKED_SECONDS
        live = [delivery for delivery in claimed if not delivery.is_expired]
        mails = [delivery for delivery in live if "@" in delivery.destination]
        sent = [
            Sent(one, is_sent=False, error="expired before it was sent") for one in claimed if one.is_expired
        ]
        if mails:
            sent += await in_thread(functools.partial(_mail, self._post, mails))
        sent += await asyncio.gather(*(self._text(one) for one in live if "@" not in one.destination))
        for one in sent:
            _tell(one)
            self.recorder.add(one)
        return GATHER_SECONDS

    async def finished(self) -> None:
        """Wait until all outcomes are recorded."""
        await self.recorder.drained()

    async def _text(self, delivery: CodeDelivery) -> Sent:
        if self._sms is None:
            return failed(delivery, f"there is no gateway named {SMS}")
        order = Order(
            delivery.id,
            "code",
            delivery.confirms.account if delivery.confirms else None,
            delivery.confirms.resource_id if delivery.confirms else "code",
            delivery.confirms.amount if delivery.confirms else None,
            delivery.destination,
            {"code": delivery.digits},
        )
        try:
            async with asyncio.timeout(self._settings.gateway_timeout_seconds):
                answer = await self._sms.perform(order)
        except Exception as fault:  # noqa: BLE001 - the gateway's own; its words may hold what it was sent
            return failed(delivery, f"the gateway {SMS}: {type(fault).__name__}")
        if answer.outcome == "done":
            return Sent(delivery, is_sent=True)
        return failed(delivery, f"the gateway {SMS}: {answer.outcome}", for_good=answer.outcome == "declined")

    async def _write(self, sent: list[Sent]) -> None:
        await self._records.run(code_messages.record, self._settings, sent)


def mail_for(delivery: CodeDelivery, sender: str) -> EmailMessage:
    """
    A code for people. It is not in the subject, which mail servers log; the Message-ID is the same over all tries.
    """
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = delivery.destination
    mail["Subject"] = "Your code"
    mail["Date"] = format_datetime(delivery.created_at)
    mail["Message-ID"] = f"<{delivery.message_id}@{sender.rpartition('@')[2].strip('>')}>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [f"Your code: {delivery.digits}", ""]
    if (confirms := delivery.confirms) is not None:
        lines += [
            f"It confirms your {confirms.kind} of {confirms.amount} from {confirms.resource_id}.",
            "",
            f"Account:   {confirms.account}",
            f"Request:   {confirms.request_id}",
        ]
    lines += [
        f"Valid until {delivery.expires_at:%Y-%m-%d %H:%M} UTC.",
        "If you did not ask for it, give it to nobody.",
    ]
    mail.set_content("\n".join(lines))
    return mail


def _mail(post: Post, deliveries: list[CodeDelivery]) -> list[Sent]:
    outcomes = send_each(post, [functools.partial(mail_for, one, post.sender) for one in deliveries])
    return [
        Sent(delivery, is_sent=True)
        if failure is None
        else failed(delivery, failure.reason, for_good=failure.for_good)
        for delivery, failure in zip(deliveries, outcomes, strict=True)
    ]


def _tell(sent: Sent) -> None:
    log.info(
        "code_sent" if sent.is_sent else "code_not_sent",
        id=str(sent.delivery.id),
        request=None if sent.delivery.confirms is None else str(sent.delivery.confirms.request_id),
        tries=sent.delivery.tries,
        error=sent.error,
        again_in_s=sent.pause_seconds,
    )
