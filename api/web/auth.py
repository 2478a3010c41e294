"""
Authentication by bearer keys (RFC 6750), which are stored as digests.

A key that was found valid is cached. One thread looks up the keys in use twice a second, all by one query. So no
request of a busy key waits for a look-up, and a revoked key stops working within a second. Limits apply to the
requests of each key and to the failed sign-ins of each address.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from api.web import deadline
from api.web.problems import RateLimited, Unauthorized
from api.web.rate_limits import KEY_WINDOW_SECONDS, RATE_LIMIT_HEADERS, Bucket, FailedSignIns, Limit
from processor.clients import keys
from processor.clients.keys import Caller
from processor.errors import DatabaseUnavailable
from processor.intake.turns import Activity
from processor.storage.connections import Connection, Reconnecting

if TYPE_CHECKING:
    from uuid import UUID

#: The interval at which the keys that were used meanwhile are looked up again.
REFRESH_SECONDS: Final = 0.4
#: The age from which a request does not use a cached key, and looks it up itself.
CACHE_SECONDS_MAX: Final = 0.9
#: The keys that requests look up at the same time. Other reads hold the other connections. Requests with the same key
#: share one look-up.
LOOKUPS_AT_ONCE: Final = 1
#: The age of an authentication at which it is repeated before a request is carried out.
CONFIRM_SECONDS: Final = 1.0
#: Keys in the cache of one process.
CACHED_KEYS_MAX: Final = 10_000
#: The interval at which the used keys are written: a little longer than the shortest that the database accepts.
USE_INTERVAL_SECONDS: Final = keys.USE_PAUSE.total_seconds() + 1

log = structlog.get_logger()


@dataclass(slots=True)
class _CachedKey:
    """A key that was valid when it was last looked up."""

    caller: Caller
    looked_up_at: float
    #: The requests that the key may still make.
    bucket: Bucket
    #: It was used since the keys in use were last looked up.
    is_used: bool = True


class _Lookup:
    """A look-up of one key, and the requests that wait for it."""

    __slots__ = ("ended", "fault", "found")

    def __init__(self) -> None:
        self.ended = threading.Event()
        #: None: the key is not valid, or `fault` says why it is not known.
        self.found: _CachedKey | None = None
        self.fault: DatabaseUnavailable | None = None


class Authenticator:
    """
    Authenticates keys. `lend` returns a connection for the query of one request. `connect` opens one for the thread
    that looks up the keys in use; `start` and `stop` control it. Unless `limits_alone`, the limit of requests applies
    only while several clients are active.

    Failed sign-ins from an address never affect a cached key. A key that is not cached is refused without a query
    when too many sign-ins from its address have failed.
    """

    def __init__(
        self,
        lend: Callable[[], AbstractContextManager[Connection]],
        connect: Callable[[], Connection],
        requests_per_second: int,
        failures_per_minute: int,
        *,
        limits_alone: bool = True,
    ) -> None:
        self._lend = lend
        self._connection = Reconnecting(connect)
        self._cache: dict[bytes, _CachedKey] = {}
        #: Protects the look-ups and the uses.
        self._lock = threading.Lock()
        self._lookups: dict[bytes, _Lookup] = {}
        self._lookup_places = threading.BoundedSemaphore(LOOKUPS_AT_ONCE)
        self._limit = Limit("key", requests_per_second, KEY_WINDOW_SECONDS)
        self._limits_alone = limits_alone
        #: The clients, whom the limit protects from each other. Operators and admins do not count.
        self._activity = Activity()
        self._failures = FailedSignIns(failures_per_minute)
        self._used: set[UUID] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._refresh_keys, name="keys", daemon=True)

    def start(self) -> None:
        """Start looking up the keys in use, and recording their uses."""
        self._thread.start()

    def stop(self) -> None:
        """Record the last uses, and stop."""
        self._stopping.set()
        self._thread.join()

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
        elif time.monotonic() - cached.looked_up_at < CACHE_SECONDS_MAX:
            cached.is_used = True
            return cached
        found = self._share_lookup(digest, environ)
        if found is None:
            self._failures.count(environ.get("REMOTE_ADDR", ""), environ)
            raise Unauthorized("the key is unknown, has expired or was revoked")
        return found

    def _share_lookup(self, digest: bytes, environ: dict[str, Any]) -> _CachedKey | None:
        """
        Look a key up, or wait for the look-up of another request. Returns None if it is not valid.

        Raises RateLimited, DatabaseUnavailable.
        """
        while True:
            with self._lock:
                lookup = self._lookups.get(digest)
                is_own = lookup is None
                if lookup is None:
                    lookup = self._lookups[digest] = _Lookup()
            if is_own:
                return self._look_up(digest, lookup, environ)
            with deadline.remaining() as seconds:
                is_over = lookup.ended.wait(seconds)
            if not is_over:
                raise DatabaseUnavailable("the key was not looked up in time")
            if lookup.fault is not None:
                raise lookup.fault
            found = lookup.found
            if found is None or time.monotonic() - found.looked_up_at < CACHE_SECONDS_MAX:
                return found

    def _look_up(self, digest: bytes, lookup: _Lookup, environ: dict[str, Any]) -> _CachedKey | None:
        """Look a key up for all that wait for it. Returns None if it is not valid. Raises as above."""
        try:
            with self._place():
                if digest not in self._cache:  # others with unknown keys may have had their turn meanwhile
                    self._failures.refuse_if_exhausted(environ.get("REMOTE_ADDR", ""), environ)
                looked_up_at = time.monotonic()
                with self._lend() as connection:
                    caller = keys.authenticate(connection, digest)
            lookup.found = None if caller is None else self._keep(digest, caller, looked_up_at)
            if caller is None:
                self._cache.pop(digest, None)
        except DatabaseUnavailable as fault:
            lookup.fault = fault
            raise
        except RateLimited:
            lookup.fault = DatabaseUnavailable("the key was not looked up")  # try again
            raise
        finally:
            with self._lock:
                del self._lookups[digest]
            lookup.ended.set()
        return lookup.found

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Wait for a place for a look-up, within the deadline of the request. Raises DatabaseUnavailable."""
        with deadline.remaining() as seconds:
            is_free = self._lookup_places.acquire(timeout=seconds)
        if not is_free:
            raise DatabaseUnavailable("too many keys are being looked up")
        try:
            yield
        finally:
            self._lookup_places.release()

    def _keep(self, digest: bytes, caller: Caller, looked_up_at: float) -> _CachedKey:
        """Cache a valid key. Returns it."""
        before = self._cache.get(digest)
        if len(self._cache) >= CACHED_KEYS_MAX:
            self._cache.clear()
        cached = _CachedKey(caller, looked_up_at, self._limit.bucket() if before is None else before.bucket)
        self._cache[digest] = cached
        with self._lock:
            self._used.add(caller.key_id)
        return cached

    # ---------------------------------------------------------------- the thread

    def _refresh_keys(self) -> None:
        """
        Look up the keys in use, and write their uses.

        Without the database, cached keys grow old, and requests look them up themselves. A write of uses that fails
        is not repeated: a key in use is soon recorded again.
        """
        write_at = time.monotonic() + USE_INTERVAL_SECONDS
        is_stopping = False
        while not is_stopping:
            is_stopping = self._stopping.wait(REFRESH_SECONDS)
            try:
                self._refresh()
                if is_stopping or time.monotonic() >= write_at:
                    write_at = time.monotonic() + USE_INTERVAL_SECONDS
                    self._write_uses()
            except DatabaseUnavailable:
                self._connection.close()
            except Exception:
                log.exception("keys_fault")
                self._connection.close()
        self._connection.close()

    def _refresh(self) -> None:
        used = {digest: cached for digest, cached in self._cache.copy().items() if cached.is_used}
        if not used:
            return
        for cached in used.values():
            cached.is_used = False
        connection = self._connection.get()
        looked_up_at = time.monotonic()
        valid = keys.authenticate_all(connection, used)
        for digest in used:
            if digest in valid:
                self._keep(digest, valid[digest], looked_up_at).is_used = False
            else:
                self._cache.pop(digest, None)

    def _write_uses(self) -> None:
        with self._lock:
            used, self._used = self._used, set()
        if used:
            keys.note_uses(self._connection.get(), used)


#: The key of the WSGI environment that has the bucket of the caller's key.
_BUCKET: Final = "teller.bucket"
_NO_KEY: Final = "the header Authorization is not: Bearer <key>"
