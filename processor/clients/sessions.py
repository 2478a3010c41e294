"""
Sessions of the console: a sign-in with a key.

A session is a random token in a cookie, and its digest in the database. Each page reads it from the database.
So it ends in every process at once: after LIFETIME, at sign-out, or when its key expires or is revoked.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from processor.clients.keys import Caller
from processor.records import audit
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The longest life of a session; that of its key may be shorter.
LIFETIME: Final = timedelta(hours=12)
#: Random bytes in a token.
TOKEN_BYTES: Final = 32
#: Expired sessions that each sign-in deletes at most. It makes one session, so expired ones do not pile up.
SWEPT_AT_ONCE: Final = 100

SQL = statements.beside(__file__)


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in that is valid."""

    #: The SHA-256 of the token. It names the session in places that must not contain the token.
    digest: bytes
    caller: Caller
    expires_at: datetime


def begin(connection: Connection, caller: Caller, previous: Session | None = None) -> str | None:
    """
    Begin a session, and end the previous one of the same browser.

    Returns the token, or None if the key is no longer valid. Raises DatabaseUnavailable.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    parameters = {"digest": digest_of(token), "key": caller.key_id, "lifetime": LIFETIME}
    with connections.faults():
        connection.execute(SQL["sweep"], {"most": SWEPT_AT_ONCE})
        with connection.transaction():
            if previous is not None:
                end(connection, previous)
            if connection.execute(SQL["begin"], parameters).fetchone() is None:
                return None
            audit.note(connection, caller.actor, "signed_in", None, None, {"key": str(caller.key_id)})
    return token


def find(connection: Connection, token: str) -> Session | None:
    """Return the session of a token, or None if it is over. Raises DatabaseUnavailable."""
    digest = digest_of(token)
    with connections.faults():
        row = connection.execute(SQL["find"], {"digest": digest}).fetchone()
    return None if row is None else Session(digest, Caller(*row[:4]), row[4])


def end(connection: Connection, session: Session) -> None:
    """End a session in every process. Raises DatabaseUnavailable."""
    caller = session.caller
    with connections.faults(), connection.transaction():
        if connection.execute(SQL["end"], {"digest": session.digest}).rowcount:
            audit.note(connection, caller.actor, "signed_out", None, None, {"key": str(caller.key_id)})


def digest_of(token: str) -> bytes:
    """Return the digest of a token, which the database keeps."""
    return hashlib.sha256(token.encode()).digest()
