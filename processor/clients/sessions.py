"""
Sessions of the console: who signed in with which key, until when.

A session is a random token in a cookie and its digest in the database, so it ends in every process at once: when
its key is revoked or expires, after LIFETIME, or on sign-out. It is looked up anew for each page.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from processor.clients.keys import Caller
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: A session is over after this, whatever its key.
LIFETIME: Final = timedelta(hours=12)
#: Bytes of chance in a token.
TOKEN_BYTES: Final = 32
#: Sessions that are over, deleted at each sign-in: more than a sign-in makes.
SWEPT_AT_ONCE: Final = 100

SQL = statements.beside(__file__)


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in."""

    #: Names the session where its token must not be: the SHA-256 of it.
    digest: bytes
    caller: Caller
    expires_at: datetime


def begin(connection: Connection, caller: Caller) -> str | None:
    """The token of a new session; None when the key is no longer valid. Raises DatabaseUnavailable."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    parameters = {"digest": digest_of(token), "key": caller.key_id, "lifetime": LIFETIME}
    with connections.faults():
        connection.execute(SQL["sweep"], {"most": SWEPT_AT_ONCE})
        row = connection.execute(SQL["begin"], parameters).fetchone()
    return None if row is None else token


def find(connection: Connection, token: str) -> Session | None:
    """Whose session this is; None: nobody's, or one that is over. Raises DatabaseUnavailable."""
    digest = digest_of(token)
    with connections.faults():
        row = connection.execute(SQL["find"], {"digest": digest}).fetchone()
    return None if row is None else Session(digest, Caller(*row[:4]), row[4])


def end(connection: Connection, digest: bytes) -> None:
    """It is nobody's from now on. Raises DatabaseUnavailable."""
    with connections.faults():
        connection.execute(SQL["end"], {"digest": digest})


def digest_of(token: str) -> bytes:
    """What the database keeps of a token."""
    return hashlib.sha256(token.encode()).digest()
