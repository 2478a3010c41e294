"""
Rate limits: requests of each key and failed sign-ins of each address, and the headers that report them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from api import create_app, services
from api.web import rate_limits
from api.web.problems import RateLimited
from api.web.rate_limits import FailedSignIns, Limit
from tests.http.teller import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.http.teller import Reply, Teller

WRONG = "Bearer teller_" + "a" * 43


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(rate_limits, "time", Mock(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """
    The clock of the limits.
    """
    return Clock(monkeypatch)


@pytest.fixture
def limited(teller: Teller) -> Iterator[Callable[[Client], Client]]:
    """
    The same callers at an API that allows five requests a second and three failed sign-ins a minute.
    """
    application = create_app(replace(teller.settings, rate_limit=5, sign_in_limit=3))
    yield lambda client: replace(client, application=application)
    application.extensions["teller"].close()


def sign_in(client: Client, authorization: str | None, address: str = "198.51.100.7") -> Reply:
    """Send a call with this header from this address."""
    return client.call(
        "GET",
        "/v1/requests",
        headers={"Authorization": authorization},
        environ_base={"REMOTE_ADDR": address},
    )


# ---------------------------------------------------------------- buckets


def test_a_bucket_allows_a_burst_and_then_its_rate(clock: Clock) -> None:
    """
    Three in a window of six seconds means three at once, then one every two seconds. It never saves more than three.
    """
    limit = Limit("x", 3, 6)
    bucket = limit.bucket()

    assert [limit.take(bucket) for _ in range(4)] == [True, True, True, False]
    assert limit.refusal(bucket, "too many").retry_after_seconds == 2
    clock.now += 1.9
    assert not limit.take(bucket)
    clock.now += 0.2
    assert limit.take(bucket)
    assert not limit.take(bucket)
    clock.now += 3600
    assert [limit.take(bucket) for _ in range(4)] == [True, True, True, False]


def test_the_headers_follow_the_draft(clock: Clock) -> None:
    """
    The headers give the policy's quota and window, the rest of the quota and the seconds until there is more.

    Without a rest, these seconds agree with Retry-After.
    """
    limit = Limit("x", 3, 6)
    bucket = limit.bucket()
    limit.take(bucket)
    assert limit.headers(bucket) == [("RateLimit-Policy", '"x";q=3;w=6'), ("RateLimit", '"x";r=2;t=2')]

    while limit.take(bucket):
        pass
    assert limit.headers(bucket)[1] == ("RateLimit", '"x";r=0;t=2')
    assert limit.refusal(bucket, "too many").retry_after_seconds == 2
    clock.now += 1.5
    assert not limit.take(bucket)
    assert limit.headers(bucket)[1] == ("RateLimit", '"x";r=0;t=1')


def test_the_memory_for_addresses_is_limited(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Expired addresses are removed first. In a flood, all are removed.
    """
    monkeypatch.setattr(rate_limits, "ADDRESSES_MAX", 10)
    failures = FailedSignIns(3)
    for number in range(100):
        failures.count(f"192.0.2.{number}", {})
        assert failures.remembered() <= 10
    failures = FailedSignIns(3)
    for number in range(9):
        failures.count(f"192.0.2.{number}", {})
    clock.now += 120
    for _ in range(3):
        failures.count("198.51.100.7", {})
    failures.count("198.51.100.8", {})
    with pytest.raises(RateLimited):
        failures.count("198.51.100.7", {})
    assert failures.remembered() == 2


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no:address", "no:address"),
        ("", ""),
    ],
)
def test_an_ipv6_network_counts_as_one(address: str, network: str) -> None:
    """
    All addresses of an IPv6 /64 network count as one, because one client has all of them.
    """
    assert rate_limits.network_of(address) == network


# ---------------------------------------------------------------- requests of a key


def test_a_key_above_its_limit_gets_429_with_a_time_to_retry(
    teller: Teller, limited: Callable[[Client], Client], clock: Clock
) -> None:
    """
    A call above the limit returns 429 and has no effect. Other keys are not affected. It works again a second later.
    """
    client, other = limited(teller.client), limited(teller.other)
    answers = [client.post("/v1/redemptions", {"resource": "a", "account": "u"}) for _ in range(12)]
    refused = [answer for answer in answers if answer.status_code == 429]

    assert len(answers) - len(refused) == 5
    assert {answer.json["code"] for answer in refused} == {"rate_limited"}
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"key";q=5;w=1'}
    assert refused[-1].headers["RateLimit"] == '"key";r=0;t=1'
    assert other.get("/v1/requests").status_code == 200
    clock.now += 1
    assert client.get("/v1/requests").status_code == 200
    assert len(teller.client.get("/v1/requests").json["data"]) == len(answers) - len(refused)


def test_each_item_of_a_batch_counts(
    teller: Teller, limited: Callable[[Client], Client], clock: Clock
) -> None:
    """
    A batch that exceeds the limit is accepted whole. The key then gets 429 until as many seconds are over.
    """
    client = limited(teller.client)
    item = {"kind": "redemption", "resource": "a", "account": "u"}

    def batch(number: int) -> Reply:
        items = [{**item, "idempotency_key": f"{number}-{one}"} for one in range(12)]
        return client.post("/v1/batches", {"requests": items})

    accepted, refused = batch(1), batch(2)
    assert [one["status"] for one in accepted.json["results"]] == [202] * 12
    assert accepted.headers["RateLimit"] == '"key";r=0;t=2'
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert refused.headers["Retry-After"] == "2"
    clock.now += 1
    assert client.get("/v1/requests").status_code == 429
    clock.now += 0.7
    assert batch(3).status_code == 202
    assert len(teller.client.get("/v1/requests?limit=100").json["data"]) == 24


def test_the_default_limits_a_client_beside_others(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A client alone goes on beyond the default, also beside an admin. Once another client is active, it gets 429.
    """
    monkeypatch.setattr(services, "RATE_LIMIT", 5)
    application = create_app(replace(teller.settings, rate_limit=5))
    try:
        client, other, admin = (
            Client(application, one.key, one.id) for one in (teller.client, teller.other, teller.admin)
        )
        for _ in range(8):
            assert admin.get("/v1/requests").status_code == 200
            assert client.get("/v1/requests").status_code == 200
        assert other.get("/v1/requests").status_code == 200
        assert 429 in {client.get("/v1/requests").status_code for _ in range(8)}
        assert other.get("/v1/requests").status_code == 200
    finally:
        application.extensions["teller"].close()


def test_a_batch_on_credit_waits_for_the_one_before(clock: Clock) -> None:
    """
    Two batches that were authenticated together are not both accepted on credit.
    """
    limit = Limit("x", 5, 1)
    bucket = limit.bucket()
    assert [limit.take(bucket), limit.take(bucket)] == [True, True]

    assert [limit.take_on_credit(bucket, 9), limit.take_on_credit(bucket, 9)] == [True, False]
    assert bucket.left == -6
    clock.now += 1.2
    assert limit.take_on_credit(bucket, 9)


def test_every_answer_to_a_key_has_the_rest_of_its_limit(teller: Teller) -> None:
    """
    Refusals have the headers, too. Public routes have no limit.
    """
    for path in ("/v1/requests", "/v1/requests/nothing", "/v1/admin/audit", "/v1/requests?limit=0"):
        answer = teller.client.get(path)
        assert answer.headers["RateLimit-Policy"] == '"key";q=10000;w=1'
        assert answer.headers["RateLimit"].startswith('"key";r=99')
    assert "RateLimit" not in teller.client.get("/healthz").headers


# ---------------------------------------------------------------- failed sign-ins


def test_an_address_with_too_many_failed_sign_ins_gets_429(
    teller: Teller, limited: Callable[[Client], Client]
) -> None:
    """
    After three invalid keys an address gets 429 with Retry-After. Other addresses are not affected.
    """
    client = limited(teller.client)
    attempts = (WRONG, "Bearer nonsense", "Basic dGVsbGVy", WRONG, "Bearer nonsense", "Basic dGVsbGVy")
    answers = [sign_in(client, authorization) for authorization in attempts]

    assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 3
    assert answers[0].headers["RateLimit"] == '"sign-in";r=2;t=20'
    for refused in answers[3:]:
        assert refused.json["code"] == "rate_limited"
        assert refused.headers["RateLimit-Policy"] == '"sign-in";q=3;w=60'
        assert 1 <= int(refused.headers["Retry-After"]) <= 20
        assert refused.headers["RateLimit"] == f'"sign-in";r=0;t={refused.headers["Retry-After"]}'
    assert sign_in(client, WRONG, "198.51.100.8").status_code == 401


def test_a_cached_key_works_despite_failures_of_its_address(
    teller: Teller, limited: Callable[[Client], Client]
) -> None:
    """
    Many clients may share an address. A key in the cache still works there. A key outside the cache could be a guess,
    so it is refused there, but not at another address.
    """
    client, other = limited(teller.client), limited(teller.other)
    assert sign_in(client, f"Bearer {client.key}").status_code == 200
    while sign_in(client, WRONG).status_code == 401:
        pass

    assert sign_in(client, f"Bearer {client.key}").status_code == 200
    assert sign_in(other, f"Bearer {other.key}").status_code == 429
    assert sign_in(other, f"Bearer {other.key}", "198.51.100.8").status_code == 200


def test_a_call_without_a_key_is_no_failed_sign_in(
    teller: Teller, limited: Callable[[Client], Client]
) -> None:
    """
    A call without a key always returns 401 and does not count, because it guesses nothing.
    """
    client = limited(teller.client)

    assert {sign_in(client, None).status_code for _ in range(10)} == {401}
    assert sign_in(client, WRONG).status_code == 401
