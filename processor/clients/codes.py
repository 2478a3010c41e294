"""
One-time codes: requests for a code, and tries of one.

Writes `codes`, `code_turns` and `code_guesses`. The courier sends the codes (`outbox/code_messages.py`).
The six digits are an HMAC over the code's random id, with TELLER_SECRET as its key. They are stored nowhere.

A destination is an e-mail address in small letters, or a telephone number in the form of E.164.
Addresses with tags (`ada+shop@…`) are separate destinations.
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
#: Wrong tries after which a code is invalid.
WRONG_TRIES_MAX: Final = 5
#: Wrong tries in a day (UTC) after which a client's destination is locked for the rest of it.
WRONG_TRIES_OF_A_DAY_MAX: Final = 20
#: Wrong tries of all codes of a request after which none confirms it. It is cancelled when its last code expires.
WRONG_TRIES_OF_A_REQUEST_MAX: Final = 20
#: Codes and turns are kept for two days, longer than any lifetime or cooldown that the settings accept.
KEPT_SECONDS: Final = 2 * 86_400.0
#: Rows of each table that one run of `tidy` deletes.
TIDY_LIMIT: Final = 1_000

#: Separates this use of TELLER_SECRET from its other uses.
_CONTEXT: Final = b"teller one-time code\0"

SQL = statements.beside(__file__)


class CodeCooldown(TellerError):
    """A client requested a code for this destination less than a cooldown ago."""

    code = "code_cooldown"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"this destination was given a code already: try again in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class CodeLocked(TellerError):
    """Too many wrong tries at this destination today, or of the codes of one request."""

    code = "code_locked"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(
            "too many wrong tries: no code is sent or accepted here for the rest of the day (UTC)"
        )
        self.retry_after_seconds = retry_after_seconds


class CodeInvalid(TellerError):
    """The code is wrong, or there is no valid code."""

    code = "code_invalid"

    def __init__(self, attempts_remaining: int) -> None:
        super().__init__("the code is wrong, or it was used, has expired, or was replaced by a newer one")
        self.attempts_remaining = attempts_remaining


class CodeRequested(NamedTuple):
    """A code that will be sent."""

    destination: str
    expires_at: datetime
    #: The time from which the destination may get the next code.
    resend_after: datetime

    def document(self) -> Document:
        """Return the code as the API shows it, without its digits."""
        return {
            "destination": self.destination,
            "expires_at": timestamp(self.expires_at),
            "resend_after": timestamp(self.resend_after),
        }


class Tried(NamedTuple):
    """The result of a try. The caller commits it, right or wrong."""

    is_right: bool
    attempts_remaining: int
    #: The number of seconds for which the destination is locked, if it is.
    locked_seconds: int | None = None

    def refused(self) -> TellerError:
        """Return the error for a wrong try, to raise after the commit."""
        if self.locked_seconds is not None:
            return CodeLocked(self.locked_seconds)
        return CodeInvalid(self.attempts_remaining)


def digits_of(secret: str, code_id: UUID) -> str:
    """Compute the six digits of a code."""
    digest = hmac.digest(secret.encode(), _CONTEXT + code_id.bytes, hashlib.sha256)
    return f"{int.from_bytes(digest) % 10**DIGITS:0{DIGITS}}"


def normalised(destination: str) -> str:
    """Return the form of a destination that is stored and compared."""
    return destination.lower()


def request_code(
    connection: Connection, settings: Settings, client: str, destination: str, purpose: str
) -> CodeRequested:
    """
    Make a code to send. It replaces the last code of this client, destination and purpose.

    Raises CodeCooldown, CodeLocked, DatabaseUnavailable.
    """
    parameters = parameters_of(settings, client, normalised(destination)) | {"purpose": purpose}
    with connections.faults():
        row = connection.execute(SQL["make_code"], parameters).fetchone()
    if row is None:
        raise refusal(connection, parameters)
    return CodeRequested(parameters["destination"], *row)


def parameters_of(settings: Settings, client: str, destination: str) -> dict[str, Any]:
    """Return the parameters of the queries that make a code."""
    return {
        "client": client,
        "destination": destination,
        "cooldown_seconds": settings.code_cooldown_seconds,
        "ttl_seconds": settings.code_ttl_seconds,
        "wrong_limit": WRONG_TRIES_OF_A_DAY_MAX,
    }


def refusal(connection: Connection, parameters: dict[str, Any]) -> TellerError:
    """Return the error for a code that was not made. Raises DatabaseUnavailable."""
    with connections.faults():
        [(cooldown, is_locked, day)] = connection.execute(SQL["read_refusal"], parameters).fetchall()
    if is_locked:
        return CodeLocked(_whole(day))
    return CodeCooldown(_whole(cooldown))


def verify(
    connection: Connection, settings: Settings, client: str, destination: str, purpose: str, typed: str
) -> None:
    """
    Use the code, if `typed` is right. Concurrent calls use it once. A wrong try is always counted.

    Raises CodeInvalid, CodeLocked, DatabaseUnavailable.
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
    Try a code in the caller's transaction. The caller must commit it, and answers its client only afterwards.

    The try is counted before it is compared, and tries of one code run one after the other. So no client gets the
    result of a try that is not counted. A code that is used or has expired is neither compared nor counted.
    """
    row = connection.execute(SQL[lock], where).fetchone()
    if row is None:
        return _locked(connection, where) or Tried(is_right=False, attempts_remaining=0)
    code_id, client, destination, wrong, is_used, is_live, request_wrong = row
    whose = {"client": client, "destination": destination}
    if is_used or not is_live:
        return _locked(connection, whose) or Tried(is_right=False, attempts_remaining=0)
    counted = connection.execute(
        SQL["count_guess"], whose | {"wrong_limit": WRONG_TRIES_OF_A_DAY_MAX}
    ).fetchone()
    if counted is None:
        return _locked(connection, whose) or Tried(is_right=False, attempts_remaining=0)
    if request_wrong >= WRONG_TRIES_OF_A_REQUEST_MAX:
        return Tried(is_right=False, attempts_remaining=0, locked_seconds=seconds_of_the_day(connection))
    if wrong >= WRONG_TRIES_MAX:
        return Tried(is_right=False, attempts_remaining=0)
    connection.execute(SQL["count_wrong"], {"id": code_id})
    if not hmac.compare_digest(digits_of(settings.secret, code_id).encode(), typed.encode()):
        return Tried(is_right=False, attempts_remaining=WRONG_TRIES_MAX - wrong - 1)
    connection.execute(SQL["burn"], whose | {"id": code_id, "day": counted[0]})
    return Tried(is_right=True, attempts_remaining=0)


def tidy(connection: Connection) -> None:
    """Delete some of the codes, turns and guesses that expired long ago. Raises DatabaseUnavailable."""
    with connections.faults():
        connection.execute(SQL["tidy"], {"kept_seconds": KEPT_SECONDS, "limit": TIDY_LIMIT})


def seconds_of_the_day(connection: Connection) -> int:
    """Return the seconds until the end of the day (UTC), at least 1."""
    [(seconds,)] = connection.execute(SQL["read_day"]).fetchall()
    return _whole(seconds)


def _locked(connection: Connection, whose: dict[str, Any]) -> Tried | None:
    parameters = whose | {"wrong_limit": WRONG_TRIES_OF_A_DAY_MAX, "cooldown_seconds": 0}
    if "destination" not in whose:
        return None
    [(_, is_locked, day)] = connection.execute(SQL["read_refusal"], parameters).fetchall()
    return Tried(is_right=False, attempts_remaining=0, locked_seconds=_whole(day)) if is_locked else None


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))
