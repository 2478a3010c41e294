"""
E-mails to addresses that an account no longer has: that it was changed, and how to know the new one again. Whoever
took over an account cannot do it in silence.
"""

from __future__ import annotations

import asyncio
import functools
import math
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING

import structlog

from processor.outbox import address_notices
from processor.outbox.address_notices import AddressChange, Told, failed
from workers.courier.database_thread import GATHER_SECONDS, in_thread
from workers.courier.mailer import send_each
from workers.courier.recorder import Recorder
from workers.courier.request_mails import CHUNK, LEASE_SECONDS

if TYPE_CHECKING:
    from workers.courier.database_thread import Line
    from workers.courier.mailer import Post

log = structlog.get_logger(__name__)


class AddressChanges:
    """Who is still to be told that he is told nothing more."""

    def __init__(self, post: Post, claims: Line, records: Line) -> None:
        self._post = post
        self._claims = claims
        self._records = records
        #: Set when it is worth looking again.
        self.woken = asyncio.Event()
        self.recorder: Recorder[Told] = Recorder(self._write, lambda told: told.change.id, lambda _: None)

    async def look(self) -> float:
        """Send some of what is due. Returns in how many seconds there may be more. Raises DatabaseUnavailable."""
        claimed = await self._claims.run(address_notices.claim, CHUNK, LEASE_SECONDS)
        if claimed:
            for told in await in_thread(lambda: _send(self._post, claimed)):
                self.recorder.add(told)
            return GATHER_SECONDS
        seconds = await self._claims.run(address_notices.next_due)
        return math.inf if seconds is None else seconds

    async def finished(self) -> None:
        """Wait until all outcomes are recorded."""
        await self.recorder.drained()

    async def _write(self, tries: list[Told]) -> None:
        await self._records.run(address_notices.record, tries)


def mail_for(change: AddressChange, sender: str) -> EmailMessage:
    """What the old address is told. The Message-ID is the same over all tries."""
    done = "removed" if change.became is None else "changed"
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = change.email
    mail["Subject"] = f"Your e-mail address was {done}"
    mail["Date"] = format_datetime(change.changed_at)
    mail["Message-ID"] = f"<{change.message_id}@{sender.rpartition('@')[2].strip('>')}>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [
        f"The e-mail address of your account was {done} on {change.changed_at:%Y-%m-%d %H:%M} UTC.",
        "What becomes of its requests is no longer told to this one.",
        "",
        f"Account:   {change.account}",
    ]
    if change.became is not None:
        lines.append(f"Now:       {change.became}")
    lines += ["", "If this was not you, tell those who keep your account at once."]
    mail.set_content("\n".join(lines))
    return mail


def _send(post: Post, changes: list[AddressChange]) -> list[Told]:
    outcomes = send_each(post, [functools.partial(mail_for, one, post.sender) for one in changes])
    told = [
        Told(change) if failure is None else failed(change, failure.reason, for_good=failure.for_good)
        for change, failure in zip(changes, outcomes, strict=True)
    ]
    for one in told:
        log.info(
            "address_change_told" if one.error is None else "address_change_not_told",
            id=str(one.change.id),
            tries=one.change.tries,
            error=one.error,
            again_in_s=one.pause_seconds,
        )
    return told
