"""
Who calls: bearer keys (RFC 6750), recognised by their digest.

Answers of the database are kept for a moment, so that a busy key costs one query every half second and a
revoked one stops working within a second. Who uses a key too often, or fails to sign in too often, is told so.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from api.web.problems import Unauthorized
from api.web.rate_limits import KEY_WINDOW_SECONDS, RATE_LIMIT_HEADERS, Bucket, FailedSignIns, Limit
from processor.clients import keys
from processor.clients.keys import Caller
from processor.errors import DatabaseUnavailable
from processor.storage.connections import Connection

if TYPE_CHECKING:
    from uuid import UUID

#: For how long a key that was found valid is believed, in seconds.
FRESH_SECONDS: Final = 0.5
#: While one thread asks again, the others go on with what is known, up to this age in seconds.
STALE_SECONDS: Final = 0.9
#: Keys remembered by one process.
REMEMBERED_KEYS_MAX: Final = 10_000
#: Which keys were used is written so often, in seconds: a little less often than it may be.
NOTING_SECONDS: Final = keys.USE_PAUSE.total_seconds() + 1

CLIENTS: Final = frozenset({"client", "admin"})
OPERATORS: Final = frozenset({"operator", "admin"})
ADMINS: Final = frozenset({"admin"})
ALL_ROLES: Final = frozenset({"client", "operator", "admin"})


@dataclass(slots=True)
class _Known:
    """A key that was valid when it was last asked for."""

    caller: Caller
    asked_at: float
    #: How many requests it may still make.
    bucket: Bucket
    being_asked: bool = False


class Authenticator:
    """
    Recognises keys. `lend` gives a connection for one query. `start` lets it note the use of keys, `stop` ends that.

    A key that this process knows is never refused for what others at its address do; one that it does not know is
    not even looked up for an address that has failed too often.
    """

    def __init__(
        self,
        lend: Callable[[], AbstractContextManager[Connection]],
        requests_per_second: int,
        failures_per_minute: int,
    ) -> None:
        self._lend = lend
        self._known: dict[bytes, _Known] = {}
        self._lock = threading.Lock()
        self._limit = Limit("key", requests_per_second, KEY_WINDOW_SECONDS)
        self._failures = FailedSignIns(failures_per_minute)
        self._used: set[UUID] = set()
        self._stopping = threading.Event()
        self._noting = threading.Thread(target=self._note_uses, name="key uses", daemon=True)

    def start(self) -> None:
        """Begin to note which keys are used."""
        self._noting.start()

    def stop(self) -> None:
        """Note the last ones, and end."""
        self._stopping.set()
        self._noting.join()

    def caller(self, environ: dict[str, Any]) -> Caller:
        """
        Who sent this request, by its header Authorization. Raises Unauthorized, RateLimited, DatabaseUnavailable.
        """
        authorization = environ.get("HTTP_AUTHORIZATION")
        if authorization is None:
            raise Unauthorized("the header Authorization is missing")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            self._failures.count(environ.get("REMOTE_ADDR", ""), environ)
            raise Unauthorized(_NO_KEY)
        return self.sign_in(key.strip(), environ)

    def sign_in(self, key: str, environ: dict[str, Any]) -> Caller:
        """
        Whose key this is, which came with this request. Raises Unauthorized, RateLimited, DatabaseUnavailable.
        """
        if not keys.looks_like_key(key):
            self._failures.count(environ.get("REMOTE_ADDR", ""), environ)
            raise Unauthorized(_NO_KEY)
        digest = keys.digest_of(key)
        known = self._known.get(digest)
        if known is None:
            self._failures.refuse_if_spent(environ.get("REMOTE_ADDR", ""), environ)
            known = self._ask(digest, None, environ)
        else:
            age = time.monotonic() - known.asked_at
            if age >= FRESH_SECONDS and (age >= STALE_SECONDS or self._takes_over(known)):
                known = self._ask(digest, known, environ)
        bucket = known.bucket
        allowed = self._limit.take(bucket)
        environ[RATE_LIMIT_HEADERS] = self._limit.headers(bucket)
        if not allowed:
            raise self._limit.refusal(bucket, "this key makes more requests than it may")
        return known.caller

    def note_use(self, caller: Caller) -> None:
        """The key was used without being sent: by a session that it began."""
        with self._lock:
            self._used.add(caller.key_id)

    def _takes_over(self, known: _Known) -> bool:
        """Whether this thread is the one to ask again."""
        with self._lock:
            if known.being_asked:
                return False
            known.being_asked = True
            return True

    def _ask(self, digest: bytes, before: _Known | None, environ: dict[str, Any]) -> _Known:
        asked_at = time.monotonic()
        with self._lend() as connection:
            caller = keys.authenticate(connection, digest)
        if caller is None:
            self._known.pop(digest, None)
            self._failures.count(environ.get("REMOTE_ADDR", ""), environ)
            raise Unauthorized("the key is unknown, has expired or was revoked")
        if len(self._known) >= REMEMBERED_KEYS_MAX:
            self._known.clear()
        known = _Known(caller, asked_at, self._limit.bucket() if before is None else before.bucket)
        self._known[digest] = known
        with self._lock:
            self._used.add(caller.key_id)
        return known

    def _note_uses(self) -> None:
        """Beside the requests; what could not be written is soon written again, for a key that is in use."""
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(NOTING_SECONDS)
            with self._lock:
                used, self._used = self._used, set()
            if used:
                with contextlib.suppress(DatabaseUnavailable), self._lend() as connection:
                    keys.note_uses(connection, used)


_NO_KEY: Final = "the header Authorization is not: Bearer <key>"
