"""
E-mails: their headers, and their transport over SMTP or, without TELLER_SMTP_URL, as files in TELLER_HOME/outbox.

Sending blocks, so it runs on a thread of its own. The content of a mail is in no log.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import smtplib
import ssl
import tempfile
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote, urlsplit

import structlog

from processor.outbox import tries
from processor.visible import visible
from workers.courier import mail_faults
from workers.courier.mail_faults import InsecureServer, Outage, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from processor.outbox.tries import Item, SendResult
    from processor.settings import Settings

#: The longest time to connect to the mail server, or to wait for one of its answers, in seconds.
TIMEOUT_SECONDS: Final = 10.0
#: The pause of a mail with which a connection broke off during an outage, in seconds: others go first.
POSTPONED_SECONDS: Final = 60.0
#: The reply to a mail whose address needs an extension that the server does not have (RFC 6531).
NOT_SUPPORTED: Final = 553
UNAVAILABLE: Final = "the mail server could not be used"

log = structlog.get_logger(__name__)


# ---------------------------------------------------------------- one mail


def compose(
    sender: str, recipient: str, subject: str, message_id: str, date: datetime | None, lines: Sequence[str]
) -> EmailMessage:
    """
    Build a mail in plain text. Raises ValueError if an address cannot stand in a header.

    Values of clients and gateways cannot begin a line, hide, or change the order of the text around them.

    The Message-ID is the same for each try, so that a reader can drop a second copy.
    """
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = visible(subject)
    if date is not None:
        mail["Date"] = format_datetime(date)
    mail["Message-ID"] = f"<{message_id}@{sender.rpartition('@')[2].strip('>')}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n".join(visible(line) for line in lines))
    return mail


# ---------------------------------------------------------------- the transport


class Mailer(Protocol):
    """A transport for mails."""

    sender: str
    outage: Outage

    def open(self) -> contextlib.AbstractContextManager[MailSession]:
        """Open a session for some mails. Raises OSError or SMTPException."""


class MailSession(Protocol):
    """An open transport."""

    def send(self, mail: EmailMessage) -> None:
        """
        Send a mail.

        Raises Refusal if the server refuses it, and OSError or SMTPException for a fault of the transport.
        """


class SmtpMailer:
    """
    A mail server. `smtps://` uses TLS from the start, and `smtp://` uses STARTTLS if the server offers it.

    The certificate of a relay on this host is not verified if there is no password: no other host is involved.
    """

    def __init__(self, url: str, sender: str, *, verifies: bool = True) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "localhost"
        self._is_tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._is_tls else 25)
        self._user = unquote(parts.username or "")
        self._password = unquote(parts.password or "")
        self._verifies = verifies and (bool(self._password) or not _is_loopback(self._host))
        self.sender = sender
        self.outage = Outage()

    @contextlib.contextmanager
    def open(self) -> Iterator[MailSession]:
        """Connect and sign in."""
        context = ssl.create_default_context()
        if not self._verifies:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        connection = (
            smtplib.SMTP_SSL(self._host, self._port, timeout=TIMEOUT_SECONDS, context=context)
            if self._is_tls
            else smtplib.SMTP(self._host, self._port, timeout=TIMEOUT_SECONDS)
        )
        with connection:
            connection.ehlo_or_helo_if_needed()
            if not self._is_tls and connection.has_extn("starttls"):
                connection.starttls(context=context)
            elif not self._is_tls and self._password:
                raise InsecureServer("the mail server offers no TLS: the password is not sent")
            if self._user:
                connection.login(self._user, self._password)
            yield _SmtpSession(connection)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _SmtpSession:
    def __init__(self, connection: smtplib.SMTP) -> None:
        self._connection = connection

    def send(self, mail: EmailMessage) -> None:
        try:
            self._connection.send_message(mail)
        except smtplib.SMTPRecipientsRefused as refused:
            [(code, reply)] = refused.recipients.values()
            raise Refusal("RCPT", code, reply) from None
        except smtplib.SMTPSenderRefused as refused:
            raise Refusal("MAIL", refused.smtp_code, refused.smtp_error) from None
        except smtplib.SMTPDataError as refused:
            raise Refusal("DATA", refused.smtp_code, refused.smtp_error) from None
        except smtplib.SMTPNotSupportedError as fault:  # the address is not ASCII
            raise Refusal("DATA", NOT_SUPPORTED, str(fault)) from None


class FileMailer:
    """A directory with one `.eml` file for each mail. A mail that is sent again replaces its file."""

    def __init__(self, home: Path, sender: str) -> None:
        self._path = home / "outbox"
        self.sender = sender
        self.outage = Outage()

    @contextlib.contextmanager
    def open(self) -> Iterator[MailSession]:
        """Make the directory."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield self

    def send(self, mail: EmailMessage) -> None:
        """Write the file as a whole or not at all."""
        name = mail["Message-ID"].strip("<>").partition("@")[0]
        descriptor, new = tempfile.mkstemp(dir=self._path, prefix=".", suffix=".new")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(mail.as_bytes())
                file.flush()
                os.fsync(file.fileno())
            Path(new).replace(self._path / f"{name}.eml")
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise


def mailer_for(settings: Settings) -> Mailer:
    """Return the mailer that the settings name."""
    if settings.smtp_url is None:
        return FileMailer(settings.home, settings.mail_from)
    return SmtpMailer(settings.smtp_url, settings.mail_from, verifies=settings.mail_verify)


def send_all(
    mailer: Mailer,
    items: Sequence[Item],
    mail_for: Callable[[Item, str], EmailMessage],
    pauses_seconds: Sequence[float],
) -> list[SendResult[Item]]:
    """
    Send the mail of each row over one connection. Returns the results in the same order.

    A mail that is refused stops no other. During an outage of the server, or while it refuses this installation,
    mails lose no tries. The mail in flight when an outage begins loses one, because it may be the cause.
    """
    outage = mailer.outage
    if outage.seconds_left() > 0:
        return [tries.postponed(item, outage.reason) for item in items]
    was_on = outage.is_on
    results: list[SendResult[Item]] = []
    is_open = False
    try:
        with mailer.open() as session:
            is_open = True
            for item in items:
                results.append(_send(session, mail_for, item, mailer.sender, pauses_seconds))
                outage.end()
    except (OSError, smtplib.SMTPException, Refusal) as fault:
        left = items[len(results) :]
        if left:
            concern, line = mail_faults.of_session(fault)
            log.warning("mail_server_fault", concern=concern, fault=line)
            reason = f"{UNAVAILABLE}: {line}"
            outage.begin(reason)
            if is_open and not isinstance(fault, Refusal):
                in_flight, *left = left
                results.append(
                    tries.postponed(in_flight, reason, concern, POSTPONED_SECONDS)
                    if was_on
                    else tries.failed(in_flight, reason, pauses_seconds)._replace(concern=concern)
                )
            results += [tries.postponed(item, reason, concern) for item in left]
    return results


def _send(
    session: MailSession,
    mail_for: Callable[[Item, str], EmailMessage],
    item: Item,
    sender: str,
    pauses_seconds: Sequence[float],
) -> SendResult[Item]:
    """Send one mail. Raises Refusal if the server is unavailable or refuses all mails."""
    try:
        mail = mail_for(item, sender)
    except (ValueError, KeyError) as fault:  # an address that cannot stand in a header
        return tries.given_up(item, f"it cannot be written: {type(fault).__name__}")
    try:
        session.send(mail)
    except Refusal as refused:
        if refused.is_general:
            raise
        if refused.concern in ("recipient", "mail"):
            result = tries.given_up(item, str(refused))
        else:
            result = tries.failed(item, str(refused), pauses_seconds)
        return result._replace(concern=refused.concern, words=refused.words)
    return tries.sent(item)
