"""
Who calls: bearer keys (RFC 6750), recognised by their digest.

Answers of the database are kept for a moment, so that a busy key costs one query every half second and a
revoked one stops working within a second.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from api.problems import Unauthorized
from processor import keys
from processor.database import Connection
from processor.keys import Caller

#: For how long a key that was found valid is believed, in seconds.
FRESH_SECONDS: Final = 0.5
#: While one thread asks again, the others go on with what is known, up to this age in seconds.
STALE_SECONDS: Final = 0.9
#: Keys remembered by one process.
REMEMBERED_KEYS_MAX: Final = 10_000

CLIENTS: Final = frozenset({"client", "admin"})
OPERATORS: Final = frozenset({"operator", "admin"})
ADMINS: Final = frozenset({"admin"})
EVERYBODY: Final = frozenset({"client", "operator", "admin"})


@dataclass(slots=True)
class _Known:
    """A key that was valid when it was last asked for."""

    caller: Caller
    asked_at: float
    being_asked: bool = False


class Authenticator:
    """
    Recognises keys. `lend` gives a connection for one query.
    """

    def __init__(self, lend: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._lend = lend
        self._known: dict[bytes, _Known] = {}
        self._lock = threading.Lock()

    def caller(self, authorization: str | None) -> Caller:
        """
        Who sent this Authorization header. Raises Unauthorized, DatabaseUnavailable.
        """
        if authorization is None:
            raise Unauthorized("the header Authorization is missing")
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not keys.looks_like_key(key):
            raise Unauthorized("the header Authorization is not: Bearer <key>")
        digest = keys.digest_of(key)
        known = self._known.get(digest)
        if known is not None:
            age = time.monotonic() - known.asked_at
            if age < FRESH_SECONDS or (age < STALE_SECONDS and not self._takes_over(known)):
                return known.caller
        return self._ask(digest)

    def _takes_over(self, known: _Known) -> bool:
        """Whether this thread is the one to ask again."""
        with self._lock:
            if known.being_asked:
                return False
            known.being_asked = True
            return True

    def _ask(self, digest: bytes) -> Caller:
        asked_at = time.monotonic()
        with self._lend() as connection:
            caller = keys.authenticate(connection, digest)
        if caller is None:
            self._known.pop(digest, None)
            raise Unauthorized("the key is unknown or was revoked")
        if len(self._known) >= REMEMBERED_KEYS_MAX:
            self._known.clear()
        self._known[digest] = _Known(caller, asked_at)
        return caller
