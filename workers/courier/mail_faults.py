"""
The subject of a refusal by a mail server, and outages of the server.

The reply decides, with its enhanced status code (RFC 3463) before its plain one (RFC 5321, 4.2).
"""

from __future__ import annotations

import re
import smtplib
import threading
import time
from typing import TYPE_CHECKING, Final, Literal

from processor.visible import visible

if TYPE_CHECKING:
    from processor.outbox.tries import Concern

#: The command that was refused. `session`: connecting, TLS or authentication.
Stage = Literal["session", "MAIL", "RCPT", "DATA"]

#: The pauses after the first and the later faults of an outage, in seconds. They double.
PAUSE_SECONDS_MIN: Final = 1.0
PAUSE_SECONDS_MAX: Final = 30.0
#: The longest reply that is kept, in characters.
WORDS_MAX: Final = 200

_ENHANCED: Final = re.compile(r"([245])\.(\d{1,3})\.\d{1,3}\b")
#: The server closes the connection.
_CLOSING: Final = 421
#: With 4.7.x, the sender may not relay. Postfix says so by default. Greylisting has other codes with 4.7.x.
_DEFERRED: Final = 454
#: Authentication is missing or wrong.
_AUTHENTICATION: Final = (530, 534, 535, 538)
#: Replies to RCPT about the recipient's mailbox.
_MAILBOX: Final = (550, 551, 552, 553)
_PERMANENT: Final = range(500, 600)


class Refusal(Exception):
    """The mail server refused a mail, or this sender."""

    def __init__(self, stage: Stage, code: int, reply: bytes | str) -> None:
        self.words = words_of(code, reply)
        self.concern = concern_of(stage, code, self.words)
        #: The server refuses or lacks more than this mail.
        self.is_general = self.concern == "server" or (
            self.concern == "sender" and stage in ("session", "MAIL")
        )
        super().__init__(f"the mail server refused {_REFUSED[stage]} ({_codes(code, self.words)})")
        #: A line for logs. The words of later stages may repeat the address or the mail.
        self.line = self.words if stage in ("session", "MAIL") else str(self)


_REFUSED: Final = {
    "session": "the connection",
    "MAIL": "the sender",
    "RCPT": "the address",
    "DATA": "the mail",
}


def words_of(code: int, reply: bytes | str) -> str:
    """Return a reply as one printable line."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return visible(" ".join(f"{code} {text}".split()))[:WORDS_MAX]


def concern_of(stage: Stage, code: int, words: str) -> Concern:
    """
    Return what a refusal is about.

    - `recipient`, `mail`: this address or this mail is refused for good.
    - `busy`: this mail is refused for now.
    - `sender`: this installation is not allowed to send. An operator can change that.
    - `server`: the server is unavailable.
    """
    enhanced = _ENHANCED.search(words.partition(" ")[2][:12])
    subject = int(enhanced[2]) if enhanced else None
    if code == _CLOSING or (code not in _PERMANENT and stage in ("session", "MAIL")):
        return "server"
    if code not in _PERMANENT:
        return "sender" if code == _DEFERRED and subject == 7 else "busy"  # noqa: PLR2004 - as below
    if stage == "session" or code in _AUTHENTICATION or subject == 7:  # noqa: PLR2004 - 5.7.x: security or policy
        return "sender"
    if stage == "MAIL":
        return "mail" if subject == 3 else "sender"  # noqa: PLR2004 - 5.3.x: the mail is too large
    if stage == "DATA":
        return "mail"
    is_mailbox = subject in (1, 2) if subject is not None else code in _MAILBOX
    return "recipient" if is_mailbox or code in _MAILBOX else "sender"


def _codes(code: int, words: str) -> str:
    enhanced = _ENHANCED.search(words.partition(" ")[2][:12])
    return f"{code} {enhanced[0]}" if enhanced else str(code)


def of_session(fault: Exception) -> tuple[Concern, str]:
    """Return what a fault of the connection is about, and one line that may be logged."""
    if isinstance(fault, Refusal):
        return fault.concern, fault.line
    if isinstance(fault, smtplib.SMTPResponseException):
        refusal = Refusal("session", fault.smtp_code, fault.smtp_error)
        return refusal.concern, refusal.words
    line = f"{type(fault).__name__}: {fault}".partition("\n")[0]
    is_ours = "certificate" in line.lower() or isinstance(
        fault, smtplib.SMTPNotSupportedError | InsecureServer
    )
    return "sender" if is_ours else "server", visible(line)[:WORDS_MAX]


class InsecureServer(smtplib.SMTPException):
    """The mail server offers no TLS, so the password is not sent."""


class Outage:
    """
    Whether the mail server is unavailable. All senders of a courier share it.

    During an outage the senders try one connection after each pause, and mails lose no tries.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._pause_seconds = 0.0
        #: The reason of the last outage, in one line.
        self.reason = ""

    @property
    def is_on(self) -> bool:
        """Whether the last connection failed."""
        return self._pause_seconds > 0

    def seconds_left(self) -> float:
        """Return the seconds until the next connection may be tried. 0: now."""
        return max(0.0, self._until - time.monotonic())

    def begin(self, reason: str) -> None:
        """Note that a connection failed, and why."""
        with self._lock:
            self.reason = reason
            if self.seconds_left() == 0:  # several connections that fail at once count as one
                self._pause_seconds = min(max(2 * self._pause_seconds, PAUSE_SECONDS_MIN), PAUSE_SECONDS_MAX)
                self._until = time.monotonic() + self._pause_seconds

    def end(self) -> None:
        """Note that a connection worked."""
        with self._lock:
            self._pause_seconds = self._until = 0.0
