"""
One-time codes: who may have one sent, and whether what was typed in is it.

Writes `codes`, `code_turns` and `code_guesses`; the courier sends (`code_deliveries`). The six digits are an HMAC of
TELLER_SECRET over the code's random id: whoever has the secret computes them, and they are stored nowhere.
A destination is an e-mail address, in small letters as a whole (nobody tells two people's mailboxes apart by their
case), or a telephone number as E.164 has it. Tags (`ada+shop@…`) are addresses of their own.
"""

import hashlib
import hmac
import math
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.errors import TellerError
from processor.records.documents import Document, timestamp
from processor.settings import Settings
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Digits of a code.
DIGITS: Final = 6
#: Wrong tries after which a code is dead.
WRONG_TRIES_MAX: Final = 5
#: Wrong tries in a day (UTC) after which a client's destination is locked for the rest of it.
WRONG_TRIES_OF_A_DAY_MAX: Final = 20
#: How long codes and turns are kept, in seconds: longer than the longest lifetime and cooldown that can be set.
KEPT_SECONDS: Final = 2 * 86_400.0
#: Rows of each table that one tidying forgets.
TIDY_LIMIT: Final = 1_000

#: What the key is for: the same secret guards other things, too.
_CONTEXT: Final = b"teller one-time code\0"

SQL = statements.beside(__file__)


class CodeCooldown(TellerError):
    """The destination was given a code a moment ago, whoever asked."""

    code = "code_cooldown"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"this destination was given a code already; again in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class CodeLocked(TellerError):
    """Too many wrong tries at this destination today."""

    code = "code_locked"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("too many wrong tries: this destination is locked for the rest of the day (UTC)")
        self.retry_after_seconds = retry_after_seconds


class CodeInvalid(TellerError):
    """The code is wrong, or there is none to be right: used, expired, replaced, dead, never sent."""

    code = "code_invalid"

    def __init__(self, attempts_remaining: int) -> None:
        super().__init__("the code is wrong, or it was used, has expired, or was replaced by a newer one")
        self.attempts_remaining = attempts_remaining


class Asked(NamedTuple):
    """A code that will be sent."""

    destination: str
    expires_at: datetime
    #: When the destination may be given the next one.
    resend_after: datetime

    def document(self) -> Document:
        """As the contract shows it."""
        return {
            "destination": self.destination,
            "expires_at": timestamp(self.expires_at),
            "resend_after": timestamp(self.resend_after),
        }


class Tried(NamedTuple):
    """What came of a try; committed with the transaction that it was made in."""

    is_right: bool
    attempts_remaining: int
    #: The destination is locked for so many seconds.
    locked_seconds: int | None = None

    def refused(self) -> TellerError:
        """Of one that was not right: why, to be raised once the try is committed."""
        if self.locked_seconds is not None:
            return CodeLocked(self.locked_seconds)
        return CodeInvalid(self.attempts_remaining)


def digits_of(secret: str, code_id: UUID) -> str:
    """The six digits of a code."""
    digest = hmac.digest(secret.encode(), _CONTEXT + code_id.bytes, hashlib.sha256)
    return f"{int.from_bytes(digest) % 10**DIGITS:0{DIGITS}}"


def normalised(destination: str) -> str:
    """The one way to write a destination, of those that reach the same people."""
    return destination.lower()


def ask(connection: Connection, settings: Settings, client: str, destination: str, purpose: str) -> Asked:
    """
    Have a code sent, in the place of the last one of this client, destination and purpose. Raises CodeCooldown,
    CodeLocked, DatabaseUnavailable.
    """
    parameters = asking(settings, client, normalised(destination)) | {"purpose": purpose}
    with connections.faults():
        row = connection.execute(SQL["ask"], parameters).fetchone()
    if row is None:
        raise why_not(connection, parameters)
    return Asked(parameters["destination"], *row)


def asking(settings: Settings, client: str, destination: str) -> dict[str, Any]:
    """What the queries that give a code need to know."""
    return {
        "client": client,
        "destination": destination,
        "cooldown_seconds": settings.code_cooldown_seconds,
        "ttl_seconds": settings.code_ttl_seconds,
        "wrong_limit": WRONG_TRIES_OF_A_DAY_MAX,
    }


def why_not(connection: Connection, asked: dict[str, Any]) -> TellerError:
    """Why no code was given, and for how long. Raises DatabaseUnavailable."""
    with connections.faults():
        [(cooldown, is_locked, day)] = connection.execute(SQL["why_not"], asked).fetchall()
    if is_locked:
        return CodeLocked(_whole(day))
    return CodeCooldown(_whole(cooldown))


def verify(
    connection: Connection, settings: Settings, client: str, destination: str, purpose: str, typed: str
) -> None:
    """
    Use up the code, if this is it: once, however many try at the same time. A wrong try is counted, whatever
    becomes of the answer. Raises CodeInvalid, CodeLocked, DatabaseUnavailable.
    """
    where = {"client": client, "destination": normalised(destination), "purpose": purpose}
    with connections.faults(), connection.transaction():
        tried = attempt(connection, settings, "lock_code", where, typed)
    if not tried.is_right:
        raise tried.refused()


def attempt(
    connection: Connection, settings: Settings, lock: str, where: dict[str, Any], typed: str
) -> Tried:
    """
    One try, in the caller's transaction, which must commit whatever it was: nobody is told before, so a try that was
    not counted is one of which nobody learned anything. It is counted before it is compared; tries of one code come
    one after the other. Of a code that is used or has expired nothing is compared, and nothing counted.
    """
    row = connection.execute(SQL[lock], where).fetchone()
    if row is None:
        return _locked(connection, where) or Tried(is_right=False, attempts_remaining=0)
    code_id, client, destination, wrong, is_used, is_live = row
    whose = {"client": client, "destination": destination}
    if is_used or not is_live:
        return _locked(connection, whose) or Tried(is_right=False, attempts_remaining=0)
    counted = connection.execute(
        SQL["count_guess"], whose | {"wrong_limit": WRONG_TRIES_OF_A_DAY_MAX}
    ).fetchone()
    if counted is None:
        return _locked(connection, whose) or Tried(is_right=False, attempts_remaining=0)
    if wrong >= WRONG_TRIES_MAX:
        return Tried(is_right=False, attempts_remaining=0)
    connection.execute(SQL["count_wrong"], {"id": code_id})
    if not hmac.compare_digest(digits_of(settings.secret, code_id).encode(), typed.encode()):
        return Tried(is_right=False, attempts_remaining=WRONG_TRIES_MAX - wrong - 1)
    connection.execute(SQL["burn"], whose | {"id": code_id, "day": counted[0]})
    return Tried(is_right=True, attempts_remaining=0)


def tidy(connection: Connection) -> None:
    """Forget some of what is long over. Raises DatabaseUnavailable."""
    with connections.faults():
        connection.execute(SQL["tidy"], {"kept_seconds": KEPT_SECONDS, "limit": TIDY_LIMIT})


def _locked(connection: Connection, whose: dict[str, Any]) -> Tried | None:
    parameters = whose | {"wrong_limit": WRONG_TRIES_OF_A_DAY_MAX, "cooldown_seconds": 0}
    if "destination" not in whose:
        return None
    [(_, is_locked, day)] = connection.execute(SQL["why_not"], parameters).fetchall()
    return Tried(is_right=False, attempts_remaining=0, locked_seconds=_whole(day)) if is_locked else None


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))
