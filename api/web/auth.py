"""
Authentication by bearer keys (RFC 6750), which are stored as digests.

A key that was found valid is cached. So a busy key costs one query every half second, and a revoked key stops
working within a second. Limits apply to the requests of each key and to the failed sign-ins of each address.
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
from processor.intake.turns import Activity
from processor.storage.connections import Connection

if TYPE_CHECKING:
    from uuid import UUID

#: The age at which one thread looks a cached key up again.
REFRESH_SECONDS: Final = 0.5
#: The age up to which the other threads use the cached key meanwhile.
CACHE_SECONDS_MAX: Final = 0.9
#: The age of an authentication at which it is repeated before a request is carried out.
CONFIRM_SECONDS: Final = 1.0
#: Keys in the cache of one process.
CACHED_KEYS_MAX: Final = 10_000
#: The interval at which the used keys are written: a little longer than the shortest that the database accepts.
USE_INTERVAL_SECONDS: Final = keys.USE_PAUSE.total_seconds() + 1


@dataclass(slots=True)
class _CachedKey:
    """A key that was valid when it was last looked up."""

    caller: Caller
    looked_up_at: float
    #: The requests that the key may still make.
    bucket: Bucket
    is_refreshing: bool = False


class Authenticator:
    """
    Authenticates keys. `lend` returns a connection for one query. `start` and `stop` control the recording of uses.
    Unless `limits_alone`, the limit of requests applies only while several clients are active.

    Failed sign-ins from an address never affect a cached key. A key that is not cached is refused without a query
    when too many sign-ins from its address have failed.
    """

    def __init__(
        self,
        lend: Callable[[], AbstractContextManager[Connection]],
        requests_per_second: int,
        failures_per_minute: int,
        *,
        limits_alone: bool = True,
    ) -> None:
        self._lend = lend
        self._cache: dict[bytes, _CachedKey] = {}
        self._lock = threading.Lock()
        self._limit = Limit("key", requests_per_second, KEY_WINDOW_SECONDS)
        self._limits_alone = limits_alone
        #: The clients, whom the limit protects from each other. Operators and admins do not count.
        self._activity = Activity()
        self._failures = FailedSignIns(failures_per_minute)
        self._used: set[UUID] = set()
        self._stopping = threading.Event()
        self._recording = threading.Thread(target=self._record_uses, name="key uses", daemon=True)

    def start(self) -> None:
        """Start recording which keys are used."""
        self._recording.start()

    def stop(self) -> None:
        """Record the last uses, and stop."""
        self._stopping.set()
        self._recording.join()

    def caller(self, environ: dict[str, Any]) -> Caller:
        """
        Authenticate a request by its header Authorization.

        Raises Unauthorized, RateLimited, DatabaseUnavailable.
        """
        return self.sign_in(self._key_of(environ), environ)

    def confirm(self, environ: dict[str, Any]) -> Caller:
        """
        Authenticate a request again, because its body or its slot took long. This counts as no further request.

        Raises Unauthorized, RateLimited, DatabaseUnavailable.
        """
        return self._find(self._key_of(environ), environ).caller

    def sign_in(self, key: str, environ: dict[str, Any]) -> Caller:
        """
        Authenticate the key that came with a request.

        Raises Unauthorized, RateLimited, DatabaseUnavailable.
        """
        cached = self._find(key, environ)
        environ[_BUCKET] = cached.bucket
        if cached.caller.role == "client":
            self._activity.note(cached.caller.client)
        self._refuse_unless(self._limit.take(cached.bucket), cached.bucket, environ)
        return cached.caller

    def count_items(self, environ: dict[str, Any], items: int) -> None:
        """
        Count each item of a batch as a request. The call itself has counted as one.

        A batch may exceed the limit, and further calls wait until it is made up for. Raises RateLimited if an earlier
        batch is not made up for.
        """
        bucket: Bucket = environ[_BUCKET]
        self._refuse_unless(self._limit.take_on_credit(bucket, items - 1), bucket, environ)

    def note_use(self, caller: Caller) -> None:
        """Record a use of a key by a session that was started with it."""
        with self._lock:
            self._used.add(caller.key_id)

    def _refuse_unless(self, allowed: bool, bucket: Bucket, environ: dict[str, Any]) -> None:
        environ[RATE_LIMIT_HEADERS] = self._limit.headers(bucket)
        if not allowed and (self._limits_alone or self._activity.is_shared()):
            raise self._limit.refusal(bucket, "this key has reached its limit of requests")

    def _key_of(self, environ: dict[str, Any]) -> str:
        """Return the key of the header Authorization. Raises Unauthorized, RateLimited."""
        authorization = environ.get("HTTP_AUTHORIZATION")
        if authorization is None:
            raise Unauthorized("the header Authorization is missing")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            self._failures.count(environ.get("REMOTE_ADDR", ""), environ)
            raise Unauthorized(_NO_KEY)
        return str(key.strip())

    def _find(self, key: str, environ: dict[str, Any]) -> _CachedKey:
        """Return a valid key. Raises Unauthorized, RateLimited, DatabaseUnavailable."""
        if not keys.looks_like_key(key):
            self._failures.count(environ.get("REMOTE_ADDR", ""), environ)
            raise Unauthorized(_NO_KEY)
        digest = keys.digest_of(key)
        cached = self._cache.get(digest)
        if cached is None:
            self._failures.refuse_if_exhausted(environ.get("REMOTE_ADDR", ""), environ)
            return self._look_up(digest, None, environ)
        age = time.monotonic() - cached.looked_up_at
        if age >= REFRESH_SECONDS and (age >= CACHE_SECONDS_MAX or self._begins_refresh(cached)):
            return self._look_up(digest, cached, environ)
        return cached

    def _begins_refresh(self, cached: _CachedKey) -> bool:
        """Return whether this thread is the one that looks the key up again."""
        with self._lock:
            if cached.is_refreshing:
                return False
            cached.is_refreshing = True
            return True

    def _look_up(self, digest: bytes, before: _CachedKey | None, environ: dict[str, Any]) -> _CachedKey:
        looked_up_at = time.monotonic()
        with self._lend() as connection:
            caller = keys.authenticate(connection, digest)
        if caller is None:
            self._cache.pop(digest, None)
            self._failures.count(environ.get("REMOTE_ADDR", ""), environ)
            raise Unauthorized("the key is unknown, has expired or was revoked")
        if len(self._cache) >= CACHED_KEYS_MAX:
            self._cache.clear()
        cached = _CachedKey(caller, looked_up_at, self._limit.bucket() if before is None else before.bucket)
        self._cache[digest] = cached
        with self._lock:
            self._used.add(caller.key_id)
        return cached

    def _record_uses(self) -> None:
        """
        Write the used keys, on a thread of its own.

        A write that fails is not repeated: a key in use is soon recorded again.
        """
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(USE_INTERVAL_SECONDS)
            with self._lock:
                used, self._used = self._used, set()
            if used:
                with contextlib.suppress(DatabaseUnavailable), self._lend() as connection:
                    keys.note_uses(connection, used)


#: The key of the WSGI environment that has the bucket of the caller's key.
_BUCKET: Final = "teller.bucket"
_NO_KEY: Final = "the header Authorization is not: Bearer <key>"
