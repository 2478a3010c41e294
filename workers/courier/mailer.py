"""
E-mails: their headers, and their transport over SMTP or, without TELLER_SMTP_URL, as files in TELLER_HOME/outbox.

Sending blocks, so it runs on a thread of its own. The content of a mail is in no log.
"""

from __future__ import annotations

import contextlib
import os
import smtplib
import ssl
import tempfile
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import structlog

from processor.errors import SettingsError
from processor.outbox import tries
from processor.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from processor.outbox.tries import Item, SendResult

#: The longest time to connect to the mail server, or to wait for one of its answers, in seconds.
TIMEOUT_SECONDS: Final = 10.0
#: The sender of mails if TELLER_SMTP_URL names none (`?from=…`).
DEFAULT_SENDER: Final = "teller@localhost"

#: The answers of a mail server that are final (RFC 5321, 4.2.1).
_PERMANENT: Final = range(500, 600)

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


class MailRefused(Exception):
    """The mail server refused a mail. `is_permanent`: it will refuse each further try."""

    def __init__(self, reason: str, *, is_permanent: bool) -> None:
        super().__init__(reason)
        self.is_permanent = is_permanent


class Mailer(Protocol):
    """A transport for mails."""

    sender: str

    def open(self) -> contextlib.AbstractContextManager[MailSession]:
        """Open a session for some mails. Raises OSError or SMTPException."""


class MailSession(Protocol):
    """An open transport."""

    def send(self, mail: EmailMessage) -> None:
        """
        Send a mail.

        Raises MailRefused for a fault of this mail, and OSError or SMTPException for a fault of the transport.
        """


class SmtpMailer:
    """A mail server. `smtps://` uses TLS from the start, and `smtp://` uses STARTTLS if the server offers it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "localhost"
        self._is_tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._is_tls else 25)
        self._user = unquote(parts.username or "")
        self._password = unquote(parts.password or "")
        self.sender = parse_qs(parts.query).get("from", [DEFAULT_SENDER])[0]
        if "@" not in parseaddr(self.sender)[1]:
            raise SettingsError("TELLER_SMTP_URL: from= is not an e-mail address")

    @contextlib.contextmanager
    def open(self) -> Iterator[MailSession]:
        """Connect and sign in."""
        context = ssl.create_default_context()
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
                raise smtplib.SMTPException("the mail server offers no TLS: the password is not sent")
            if self._user:
                connection.login(self._user, self._password)
            yield _SmtpSession(connection)


class _SmtpSession:
    def __init__(self, connection: smtplib.SMTP) -> None:
        self._connection = connection

    def send(self, mail: EmailMessage) -> None:
        try:
            self._connection.send_message(mail)
        except smtplib.SMTPRecipientsRefused as refused:
            [(code, _)] = refused.recipients.values()
            raise MailRefused(
                f"the mail server refused the address ({code})", is_permanent=code in _PERMANENT
            ) from None
        except (smtplib.SMTPDataError, smtplib.SMTPSenderRefused) as refused:
            code = refused.smtp_code
            raise MailRefused(
                f"the mail server refused the mail ({code})", is_permanent=code in _PERMANENT
            ) from None


class FileMailer:
    """A directory with one `.eml` file for each mail. A mail that is sent again replaces its file."""

    sender = DEFAULT_SENDER

    def __init__(self, home: Path) -> None:
        self._path = home / "outbox"

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


def mailer_for(smtp_url: str | None, home: Path) -> Mailer:
    """Return the mailer that the settings name. Raises SettingsError."""
    return FileMailer(home) if smtp_url is None else SmtpMailer(smtp_url)


def send_all(
    mailer: Mailer,
    items: Sequence[Item],
    mail_for: Callable[[Item, str], EmailMessage],
    pauses_seconds: Sequence[float],
) -> list[SendResult[Item]]:
    """
    Send the mail of each row over one connection. Returns the results in the same order.

    A mail that is refused stops no other. After a fault of the transport the remaining mails have failed too. The
    text of a mail server can contain the content of a mail, so errors and logs repeat only its codes.
    """
    results: list[SendResult[Item]] = []
    try:
        with mailer.open() as session:
            for item in items:
                result = _send(session, mail_for, item, mailer.sender, pauses_seconds)
                results.append(result)
    except (OSError, smtplib.SMTPException) as fault:
        detail = fault.smtp_code if isinstance(fault, smtplib.SMTPResponseException) else fault
        log.warning("mail_server_fault", fault=f"{type(fault).__name__}: {detail}".partition("\n")[0])
        results += [
            tries.failed(item, "the mail server could not be used", pauses_seconds)
            for item in items[len(results) :]
        ]
    return results


def _send(
    session: MailSession,
    mail_for: Callable[[Item, str], EmailMessage],
    item: Item,
    sender: str,
    pauses_seconds: Sequence[float],
) -> SendResult[Item]:
    try:
        session.send(mail_for(item, sender))
    except MailRefused as refused:
        if refused.is_permanent:
            return tries.given_up(item, str(refused))
        return tries.failed(item, str(refused), pauses_seconds)
    except (ValueError, KeyError) as fault:  # an address that cannot stand in a header
        return tries.given_up(item, f"it cannot be written: {type(fault).__name__}")
    return tries.sent(item)
