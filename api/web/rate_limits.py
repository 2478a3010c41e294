"""
Limits on the requests of each key, and on the failed sign-ins from each address.

The buckets are in the memory of one process and refill evenly. Each process counts for itself and starts anew. That
protects the process, and depends on no other one. The headers RateLimit and RateLimit-Policy state the limits
(draft-ietf-httpapi-ratelimit-headers-11).
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from typing import Final

from api.web.problems import RateLimited

#: The key of the WSGI environment that has these headers.
RATE_LIMIT_HEADERS: Final = "teller.rate_limit_headers"
#: The window of a key's limit. The quota of a window may also come at once.
KEY_WINDOW_SECONDS: Final = 1
#: The window of failed sign-ins.
SIGN_IN_WINDOW_SECONDS: Final = 60
#: The addresses with failed sign-ins that one process keeps.
ADDRESSES_MAX: Final = 10_000
#: The network of one IPv6 client, which can use every address in it.
IPV6_PREFIX_BITS: Final = 64

Headers = list[tuple[str, str]]


class Bucket:
    """The rest of a quota, and the time at which it was computed."""

    __slots__ = ("left", "since")

    def __init__(self, left: float, since: float) -> None:
        self.left = left
        self.since = since


class Limit:
    """
    A quota within a window, for each bucket.

    Takes of several threads from one bucket at the same instant may count as one. Exact counts would need a lock,
    which costs more than they are worth.
    """

    def __init__(self, name: str, quota: int, window_seconds: int) -> None:
        self._name = name
        self._quota = float(quota)
        self._per_second = quota / window_seconds
        self._policy = ("RateLimit-Policy", f'"{name}";q={quota};w={window_seconds}')

    def bucket(self) -> Bucket:
        """Return a full bucket."""
        return Bucket(self._quota, time.monotonic())

    def take(self, bucket: Bucket) -> bool:
        """Take one from the quota. Returns whether there was one."""
        self._refill(bucket)
        if bucket.left < 1.0:
            return False
        bucket.left -= 1.0
        return True

    def take_on_credit(self, bucket: Bucket, count: int) -> bool:
        """
        Take a number that may exceed the rest of the quota. Nothing more can be taken until it is refilled.

        Returns False, and takes nothing, if the bucket is refilled for an earlier number.
        """
        self._refill(bucket)
        if bucket.left < 0.0:
            return False
        bucket.left -= count
        return True

    def is_full(self, bucket: Bucket) -> bool:
        """Return whether the bucket is full again, and so need not be kept."""
        return bucket.left + (time.monotonic() - bucket.since) * self._per_second >= self._quota

    def is_empty(self, bucket: Bucket) -> bool:
        """Return whether nothing can be taken now."""
        return bucket.left + (time.monotonic() - bucket.since) * self._per_second < 1.0

    def headers(self, bucket: Bucket) -> Headers:
        """Return the headers with the rest of the quota and the seconds until there is one more."""
        left = max(0, int(bucket.left))
        seconds = self._seconds_until(bucket, left + 1)
        return [self._policy, ("RateLimit", f'"{self._name}";r={left};t={seconds}')]

    def refusal(self, bucket: Bucket, detail: str) -> RateLimited:
        """Return the error with the seconds until there is one more, as in `headers`."""
        return RateLimited(detail, self._seconds_until(bucket, max(0, int(bucket.left)) + 1))

    def _refill(self, bucket: Bucket) -> None:
        now = time.monotonic()
        bucket.left = min(bucket.left + (now - bucket.since) * self._per_second, self._quota)
        bucket.since = now

    def _seconds_until(self, bucket: Bucket, left: int) -> int:
        return max(1, math.ceil((left - bucket.left) / self._per_second))


class FailedSignIns:
    """Failed sign-ins by address: at most `quota` in a minute."""

    def __init__(self, quota: int) -> None:
        self.limit = Limit("sign-in", quota, SIGN_IN_WINDOW_SECONDS)
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()

    def refuse_if_exhausted(self, address: str, environ: dict[str, object]) -> None:
        """Raise RateLimited if the quota of this address is used up."""
        with self._lock:
            bucket = self._buckets.get(network_of(address))
        if bucket is not None and self.limit.is_empty(bucket):
            environ[RATE_LIMIT_HEADERS] = self.limit.headers(bucket)
            raise self.limit.refusal(bucket, _TOO_MANY)

    def count(self, address: str, environ: dict[str, object]) -> None:
        """Count a failed sign-in. Raises RateLimited if the quota was used up already."""
        network = network_of(address)
        with self._lock:
            bucket = self._buckets.get(network)
            if bucket is None:
                if len(self._buckets) >= ADDRESSES_MAX:
                    self._forget()
                bucket = self._buckets[network] = self.limit.bucket()
            taken = self.limit.take(bucket)
        environ[RATE_LIMIT_HEADERS] = self.limit.headers(bucket)
        if not taken:
            raise self.limit.refusal(bucket, _TOO_MANY)

    def remembered(self) -> int:
        """Return the number of networks in memory."""
        return len(self._buckets)

    def _forget(self) -> None:
        """Drop the full buckets, or all of them if none is full: memory is limited, too."""
        kept = {name: bucket for name, bucket in self._buckets.items() if not self.limit.is_full(bucket)}
        self._buckets = kept if len(kept) < ADDRESSES_MAX else {}


_TOO_MANY: Final = "too many sign-ins from this address have failed"


def network_of(address: str) -> str:
    """Return an IPv4 address unchanged, and the network of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, IPV6_PREFIX_BITS), strict=False))
