"""
A real SMTP server that keeps what it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from aiosmtpd.smtp import SMTP

from tests.waiting import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

    from aiosmtpd.smtp import Envelope, Session

#: The time for which a recipient hangs, in seconds: longer than any test.
HANG_SECONDS = 300.0


@dataclass
class MailServer:
    """The mails that it was sent, and its replies."""

    url: str = ""
    envelopes: list[Any] = field(default_factory=list)
    #: The reply to each recipient. None: it accepts the recipient.
    reply: str | None = None
    #: The reply to each command of this name.
    script: dict[str, str] = field(default_factory=dict)
    #: A recipient whose mail breaks the connection.
    breaks_at: str | None = None
    hangs: bool = False

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """
        Reply to a sender.
        """
        if "MAIL" in self.script:
            return self.script["MAIL"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """
        Reply to a recipient.
        """
        if self.hangs:
            await asyncio.sleep(HANG_SECONDS)
        if address == self.breaks_at:
            cast("asyncio.Transport", _server.transport).abort()
        if self.reply is not None or "RCPT" in self.script:
            return self.reply or self.script["RCPT"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        """
        Take a mail.
        """
        if "DATA" in self.script:
            return self.script["DATA"]
        self.envelopes.append(envelope)
        return "250 OK"


@contextlib.contextmanager
def receiving(**options: Any) -> Iterator[MailServer]:
    """
    Run a mail server on a free port, on a thread of its own.
    """
    handler, ready, loop, stop = MailServer(), threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        server = await loop.create_server(lambda: SMTP(handler, loop=loop, **options), "127.0.0.1", 0)
        handler.url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await stop.wait()
        server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(TIMEOUT_SECONDS)
    try:
        yield handler
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT_SECONDS)


def parse(content: bytes) -> EmailMessage:
    """
    Return a mail as a mail program reads it.
    """
    return email.message_from_bytes(content, policy=email.policy.default)
