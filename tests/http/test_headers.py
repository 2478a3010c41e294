"""
Headers that are sent twice or under another name, as the server passes them on: joined by a comma without a space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from api.web import long_poll

if TYPE_CHECKING:
    from tests.http.teller import Teller

REDEMPTION = {"resource": "sneaker", "account": "u_42"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Idempotency-Key", "a,b"),
        ("Idempotency-Key", '"a","b"'),
        ("Idempotency-Key", '"a",b'),
        ("Idempotency-Key", 'a,"a"'),
        ("Idempotency-Key", "a, b,c"),
        ("Idempotency-Key", "a,"),
        ("Idempotency-Key", "pay 1,pay 2"),
        ("Idempotency-Key", "019aa9c2-f1c4-7d2a-8b3e-5f60718293a4,Zm9v/YmE+cg=="),
        ("Prefer", "wait=1,wait=2"),
        ("Prefer", "respond-async,wait=1,wait=0"),
        ("Authorization", "Bearer {key},Bearer teller_other"),
        ("Authorization", "Bearer {key},Basic dGVsbGVy"),
        ("Host", "teller.example,other.example"),
        ("Host", "localhost,localhost"),
        ("Origin", "https://a.example,https://b.example"),
        ("X-Request-Id", "a,b"),
    ],
)
def test_two_different_values_of_a_header_are_refused(teller: Teller, name: str, value: str) -> None:
    """
    The client or a proxy meant one of them. Nothing is stored.
    """
    headers = {"Idempotency-Key": "k", name: value.format(key=teller.client.key)}

    answer = teller.client.call("POST", "/v1/redemptions", json=REDEMPTION, headers=headers)

    assert (answer.status_code, answer.json["code"]) == (400, "malformed")
    assert name in answer.json["detail"]
    assert teller.client.get("/v1/requests").json["data"] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Idempotency-Key", "k,k"),
        ("Idempotency-Key", '"k","k","k"'),
        ("Prefer", "wait=0,wait=0"),
        ("Prefer", "respond-async,wait=0"),
        ("Prefer", "wait=0, wait=1"),
        ("Authorization", "Bearer {key},Bearer {key}"),
        ("Origin", "https://a.example,https://a.example"),
        ("X-Request-Id", "a,a"),
    ],
)
def test_the_same_value_twice_counts_once(teller: Teller, name: str, value: str) -> None:
    """
    Two equal values say one thing. Preferences are a list, in which the first of a kind counts (RFC 7240).
    """
    first = teller.client.post("/v1/redemptions", REDEMPTION, key="k")
    headers = {"Idempotency-Key": "k", name: value.format(key=teller.client.key)}

    answer = teller.client.call("POST", "/v1/redemptions", json=REDEMPTION, headers=headers)

    assert (answer.status_code, answer.json["id"]) == (202, first.json["id"])


#: All printable characters of ASCII, none of them at an end that HTTP would cut off.
PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))


@pytest.mark.parametrize(
    "key",
    ["a, b", '"a,b"', '"a\\",\\"b"', PRINTABLE, "[1,2]", "{a},{b}", "a,{b}", "5$,6$"],
)
def test_a_key_may_have_commas(teller: Teller, key: str) -> None:
    """
    A bare key has a space behind each comma, or does not look like two keys. A quoted one has any.
    """
    answer = teller.client.post("/v1/redemptions", REDEMPTION, key=key)

    assert answer.status_code == 202
    assert teller.client.post("/v1/redemptions", REDEMPTION, key=key).json["id"] == answer.json["id"]


@pytest.mark.parametrize(("key", "name"), [("HTTP_CONTENT_LENGTH", "Length"), ("HTTP_CONTENT_TYPE", "Type")])
def test_a_name_with_an_underscore_is_refused(teller: Teller, key: str, name: str) -> None:
    """
    `Content_Length` and `Content_Type` have keys of their own in the environment.
    """
    answer = teller.client.call(
        "POST",
        "/v1/redemptions",
        json=REDEMPTION,
        headers={"Idempotency-Key": "k"},
        environ_overrides={key: "1"},
    )

    assert (answer.status_code, answer.json["code"]) == (400, "malformed")
    assert f"Content-{name}" in answer.json["detail"]


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/admin", "/lab", "/sandbox/gateway"])
def test_every_route_refuses_them(teller: Teller, path: str) -> None:
    """
    Console, pages and health have no exception.
    """
    answer = teller.client.get(path, Host="a.example,b.example")

    assert (answer.status_code, answer.json["code"]) == (400, "malformed")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=1000000000", 20),
        ("wait=" + "9" * 60_000, 20),
        ("wait=" + "0" * 60_000, 0),
        ("wait=0000000000005", 5),
        ("wait=99", 20),
        ('wait="1000000000"', 20),
    ],
)
def test_any_number_of_seconds_counts(header: str, seconds: int) -> None:
    """
    More than 20 counts as 20, with any number of digits.
    """
    assert long_poll.read_preference(header) == seconds
