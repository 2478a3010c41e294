"""
How often: requests of each key, failed sign-ins of each address; and what is told of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from api import create_app
from api.web import rate_limits
from api.web.problems import RateLimited
from api.web.rate_limits import FailedSignIns, Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.http.teller import Client, Reply, Teller

WRONG = "Bearer teller_" + "a" * 43


class Clock:
    """A clock that goes when it is told to."""

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
    The same people at an API that allows five requests a second, and three failed sign-ins a minute.
    """
    application = create_app(replace(teller.settings, rate_limit=5, sign_in_limit=3))
    yield lambda client: replace(client, application=application)
    application.extensions["teller"].close()


def sign_in(client: Client, authorization: str | None, address: str = "198.51.100.7") -> Reply:
    """A call with this header from this address."""
    return client.call(
        "GET",
        "/v1/requests",
        headers={"Authorization": authorization},
        environ_base={"REMOTE_ADDR": address},
    )


# ---------------------------------------------------------------- buckets


def test_so_many_at_once_and_then_as_fast_as_it_refills(clock: Clock) -> None:
    """
    Three in a window of six seconds: three at once, then one every two seconds, and never more than three again.
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


def test_what_is_left_is_told_as_the_draft_has_it(clock: Clock) -> None:
    """
    Structured fields: the policy's name with its quota and window, and with what is left and when there is more; when
    there is nothing left, the same instant as Retry-After.
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


def test_addresses_without_end_are_not_remembered_without_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Memory has its limit: those whose minute is over go first, and in a flood all of them.
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
    Whoever has an IPv6 address has all of its /64.
    """
    assert rate_limits.network_of(address) == network


# ---------------------------------------------------------------- requests of a key


def test_a_key_that_asks_too_often_is_told_when_to_come_again(
    teller: Teller, limited: Callable[[Client], Client], clock: Clock
) -> None:
    """
    429 with Retry-After, and nothing done; other keys are not concerned, and a second later it goes on.
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


def test_every_answer_to_a_key_says_what_is_left(teller: Teller) -> None:
    """
    Also the refusals; where no key is asked for, there is no limit to tell of.
    """
    for path in ("/v1/requests", "/v1/requests/nothing", "/v1/admin/audit", "/v1/requests?limit=0"):
        answer = teller.client.get(path)
        assert answer.headers["RateLimit-Policy"] == '"key";q=20000;w=1'
        assert answer.headers["RateLimit"].startswith('"key";r=199')
    assert "RateLimit" not in teller.client.get("/healthz").headers


# ---------------------------------------------------------------- failed sign-ins


def test_an_address_that_fails_too_often_is_not_listened_to(
    teller: Teller, limited: Callable[[Client], Client]
) -> None:
    """
    Three wrong keys, whatever is wrong with them, then 429 with Retry-After; other addresses go on.
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


def test_a_key_in_use_is_not_refused_for_what_its_neighbours_do(
    teller: Teller, limited: Callable[[Client], Client]
) -> None:
    """
    Behind one address are many: a key that the process knows goes on. One that it does not know could be a guess,
    and is not looked up there; elsewhere it is.
    """
    client, other = limited(teller.client), limited(teller.other)
    assert sign_in(client, f"Bearer {client.key}").status_code == 200
    while sign_in(client, WRONG).status_code == 401:
        pass

    assert sign_in(client, f"Bearer {client.key}").status_code == 200
    assert sign_in(other, f"Bearer {other.key}").status_code == 429
    assert sign_in(other, f"Bearer {other.key}", "198.51.100.8").status_code == 200


def test_to_bring_no_key_is_no_failed_sign_in(teller: Teller, limited: Callable[[Client], Client]) -> None:
    """
    Who sends none guesses nothing: 401 as often as it likes.
    """
    client = limited(teller.client)

    assert {sign_in(client, None).status_code for _ in range(10)} == {401}
    assert sign_in(client, WRONG).status_code == 401
