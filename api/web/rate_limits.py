"""
How often: requests of each key, and sign-ins that fail from each address.

Buckets in the memory of one process, refilled evenly: each process of several counts for itself, and what is
counted is gone with it. That guards the process, and needs nobody else. What is left is told as RateLimit and
RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11).
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from typing import Final

from api.web.problems import RateLimited

#: The key of the WSGI environment under which the headers are left that tell how much is left.
RATE_LIMIT_HEADERS: Final = "teller.standing"
#: The window of a key's limit, in seconds: so much can also come at once.
KEY_WINDOW_SECONDS: Final = 1
#: The window of failed sign-ins, in seconds.
SIGN_IN_WINDOW_SECONDS: Final = 60
#: Addresses remembered by one process for their failed sign-ins.
ADDRESSES_MAX: Final = 10_000
#: Who has an IPv6 address has so many bits of network to choose others from.
IPV6_PREFIX_BITS: Final = 64

Headers = list[tuple[str, str]]


class Bucket:
    """What is left of a limit, and since when."""

    __slots__ = ("left", "since")

    def __init__(self, left: float, since: float) -> None:
        self.left = left
        self.since = since


class Limit:
    """
    So many within a window, for whoever has a bucket of it. Threads that take from one bucket at the same instant
    may be counted as one: a limit is no ledger, and a lock would cost more than it counts.
    """

    def __init__(self, name: str, quota: int, window_seconds: int) -> None:
        self._name = name
        self._quota = float(quota)
        self._per_second = quota / window_seconds
        self._policy = ("RateLimit-Policy", f'"{name}";q={quota};w={window_seconds}')

    def bucket(self) -> Bucket:
        """A full one."""
        return Bucket(self._quota, time.monotonic())

    def take(self, bucket: Bucket) -> bool:
        """One of it, if there is one left."""
        now = time.monotonic()
        left = min(bucket.left + (now - bucket.since) * self._per_second, self._quota)
        bucket.since = now
        if left < 1.0:
            bucket.left = left
            return False
        bucket.left = left - 1.0
        return True

    def is_full(self, bucket: Bucket) -> bool:
        """Whether all of it is there again: then it need not be remembered."""
        return bucket.left + (time.monotonic() - bucket.since) * self._per_second >= self._quota

    def is_empty(self, bucket: Bucket) -> bool:
        """Whether nothing could be taken now."""
        return bucket.left + (time.monotonic() - bucket.since) * self._per_second < 1.0

    def headers(self, bucket: Bucket) -> Headers:
        """What is left, and in how many seconds there is one more."""
        left = f"r={int(bucket.left)};t={self._seconds_to_one_more(bucket)}"
        return [self._policy, ("RateLimit", f'"{self._name}";{left}')]

    def refusal(self, bucket: Bucket, detail: str) -> RateLimited:
        """Too many: says after how many seconds there is one again, as `headers` does."""
        return RateLimited(detail, self._seconds_to_one_more(bucket))

    def _seconds_to_one_more(self, bucket: Bucket) -> int:
        return max(1, math.ceil((int(bucket.left) + 1 - bucket.left) / self._per_second))


class FailedSignIns:
    """Sign-ins that failed, by the address that they came from: no more than `quota` in a minute."""

    def __init__(self, quota: int) -> None:
        self.limit = Limit("sign-in", quota, SIGN_IN_WINDOW_SECONDS)
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()

    def refuse_if_spent(self, address: str, standing: dict[str, object]) -> None:
        """Raises RateLimited when this address has failed too often."""
        with self._lock:
            bucket = self._buckets.get(network_of(address))
        if bucket is not None and self.limit.is_empty(bucket):
            standing[RATE_LIMIT_HEADERS] = self.limit.headers(bucket)
            raise self.limit.refusal(bucket, _TOO_MANY)

    def count(self, address: str, standing: dict[str, object]) -> None:
        """One more has failed. Raises RateLimited when it was one too many."""
        network = network_of(address)
        with self._lock:
            bucket = self._buckets.get(network)
            if bucket is None:
                if len(self._buckets) >= ADDRESSES_MAX:
                    self._forget()
                bucket = self._buckets[network] = self.limit.bucket()
            taken = self.limit.take(bucket)
        standing[RATE_LIMIT_HEADERS] = self.limit.headers(bucket)
        if not taken:
            raise self.limit.refusal(bucket, _TOO_MANY)

    def _forget(self) -> None:
        """Those who have done nothing for a while; or, when there are none, everybody: memory has its limit, too."""
        kept = {name: bucket for name, bucket in self._buckets.items() if not self.limit.is_full(bucket)}
        self._buckets = kept if len(kept) < ADDRESSES_MAX else {}


_TOO_MANY: Final = "too many sign-ins from this address have failed"


def network_of(address: str) -> str:
    """An IPv4 address itself, of an IPv6 address its network: its owner has all of that."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, IPV6_PREFIX_BITS), strict=False))
