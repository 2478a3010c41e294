"""
Sends e-mails: through SMTP, or, without TELLER_SMTP_URL, as one file each into the outbox of TELLER_HOME.

Blocking, so on a thread of its own. What is in a mail is in no log.
"""

from __future__ import annotations

import contextlib
import os
import smtplib
import ssl
import tempfile
from email.utils import parseaddr
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import structlog

from processor.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from email.message import EmailMessage

#: How long connecting to the mail server, or one answer of it, may take, in seconds.
TIMEOUT_SECONDS: Final = 10.0
#: Whom mails are from when TELLER_SMTP_URL does not say (`?from=…`).
DEFAULT_SENDER: Final = "teller@localhost"

#: A mail server's "no" for good (RFC 5321, 4.2.1).
_PERMANENT: Final = range(500, 600)

log = structlog.get_logger(__name__)


class MailRefused(Exception):
    """A mail was not taken; `for_good`: it never will be."""

    def __init__(self, reason: str, *, for_good: bool) -> None:
        super().__init__(reason)
        self.for_good = for_good


class Failure(NamedTuple):
    """Why a mail was not sent; `for_good`: it never will be."""

    reason: str
    for_good: bool = False


class Post(Protocol):
    """A way to send mails."""

    sender: str

    def open(self) -> contextlib.AbstractContextManager[Carrier]:
        """For some mails, one after the other. Raises OSError or SMTPException."""


class Carrier(Protocol):
    """Takes mails while it is open."""

    def send(self, mail: EmailMessage) -> None:
        """Raises MailRefused when it is about this mail; OSError or SMTPException when it is about the way."""


class Smtp:
    """A mail server. `smtps://` is TLS from the start; `smtp://` takes STARTTLS where it is offered."""

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
    def open(self) -> Iterator[Carrier]:
        """One connection."""
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
            yield _SmtpCarrier(connection)


class _SmtpCarrier:
    def __init__(self, connection: smtplib.SMTP) -> None:
        self._connection = connection

    def send(self, mail: EmailMessage) -> None:
        try:
            self._connection.send_message(mail)
        except smtplib.SMTPRecipientsRefused as refused:
            [(code, _)] = refused.recipients.values()
            raise MailRefused(
                f"the mail server refused the address ({code})", for_good=code in _PERMANENT
            ) from None
        except (smtplib.SMTPDataError, smtplib.SMTPSenderRefused) as refused:
            code = refused.smtp_code
            raise MailRefused(
                f"the mail server refused the mail ({code})", for_good=code in _PERMANENT
            ) from None


class Outbox:
    """A directory with one `.eml` file for each mail; a mail that is sent again replaces itself."""

    sender = DEFAULT_SENDER

    def __init__(self, home: Path) -> None:
        self._path = home / "outbox"

    @contextlib.contextmanager
    def open(self) -> Iterator[Carrier]:
        """Makes the directory."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield self

    def send(self, mail: EmailMessage) -> None:
        """Whole or not at all."""
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


def send_each(post: Post, writers: Sequence[Callable[[], EmailMessage]]) -> list[Failure | None]:
    """
    Each mail in turn, over one connection: None, or why it was not sent. One that is refused stops no other; when the
    way breaks, what is left failed, too. The words of a server may be those it was sent: only its codes are repeated.
    """
    outcomes: list[Failure | None] = []
    try:
        with post.open() as carrier:
            for write in writers:
                try:
                    carrier.send(write())
                except MailRefused as refused:
                    outcomes.append(Failure(str(refused), refused.for_good))
                except (ValueError, KeyError) as fault:  # an address that no mail can have
                    outcomes.append(Failure(f"it cannot be written: {type(fault).__name__}", for_good=True))
                else:
                    outcomes.append(None)
    except (OSError, smtplib.SMTPException) as fault:
        said = fault.smtp_code if isinstance(fault, smtplib.SMTPResponseException) else fault
        log.warning("mail_server_fault", fault=f"{type(fault).__name__}: {said}".partition("\n")[0])
        outcomes += [Failure("the mail server could not be used")] * (len(writers) - len(outcomes))
    return outcomes


def post_for(smtp_url: str | None, home: Path) -> Post:
    """The way that the settings name. Raises SettingsError."""
    return Outbox(home) if smtp_url is None else Smtp(smtp_url)
