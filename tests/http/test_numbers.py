"""
Numbers in metadata come back as they were sent, at each route, and can be sent again. Others are refused at first.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.http.teller import Client, Reply, Teller

#: A number as it is sent → as it comes back.
ACCEPTED = {
    "0": "0",
    "-0": "0",
    "-0.0": "0.0",
    "1": "1",
    "1.0": "1.0",
    "1.50": "1.5",
    "1e2": "100.0",
    "1E+2": "100.0",
    "100e-2": "1.0",
    "0.1": "0.1",
    "0.10000000000000001": "0.1",
    "0.10000000000000000000000": "0.1",
    "1e-7": "1e-7",
    "1e15": "1000000000000000.0",
    "1e16": "1e+16",
    "1e300": "1e+300",
    "-1.2345678901234567e300": "-1.2345678901234567e+300",
    "1.7976931348623157e308": "1.7976931348623157e+308",
    "5e-324": "5e-324",
    "2.2250738585072014e-308": "2.2250738585072014e-308",
    "0e400": "0.0",
    "9007199254740993": "9007199254740993",
    "18446744073709551616": "18446744073709551616",
    "-" + "1234567890" * 5: "-" + "1234567890" * 5,
    "1" + "0" * 308: "1" + "0" * 308,
}
REFUSED = [
    "1e400",
    "-1E400",
    "1" + "0" * 309,
    "1e-400",
    "-0.0001e-400",
    "0.1000000000000000055511151231257827",
    "12345678901234567890.5",
    "1.00000000000000000001",
]


def send(client: Client, method: str, path: str, numbers: str, **fields: object) -> Reply:
    """Send a body with this text as the numbers of its metadata."""
    text = json.dumps({**fields, "metadata": {}}).replace("{}", f'{{"x": {numbers}}}')
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f"numbers-{len(numbers)}-{path}-{method}",
    }
    return client.call(method, path, data=text, headers=headers)


def text_of(reply: Reply) -> str:
    """Return the numbers of an answer as they stand in it."""
    return reply.data.decode().partition('"metadata":{"x":')[2].partition("}")[0]


def test_numbers_come_back_as_they_were_sent_and_are_accepted_again(teller: Teller) -> None:
    """
    The first answer, a later one, the resource, and its amendment with what came back: one text for all of them.
    """
    sent, came_back = f"[{','.join(ACCEPTED)}]", f"[{','.join(ACCEPTED.values())}]"

    first = send(teller.admin, "POST", "/v1/resources", sent, id="shelf", kind="stock", available=10)
    teller.drain()
    opened = teller.admin.get("/v1/resources/shelf")
    amended = send(teller.admin, "PATCH", "/v1/resources/shelf", text_of(opened))
    teller.drain()
    redeemed = send(teller.client, "POST", "/v1/redemptions", sent, resource="shelf", account="u")
    again = send(teller.client, "POST", "/v1/redemptions", sent, resource="shelf", account="u")

    assert [text_of(reply) for reply in (first, opened, amended, redeemed, again)] == [came_back] * 5
    for request in (first, amended, redeemed):
        assert text_of(teller.admin.get(request.headers["Location"])) == came_back
    assert text_of(teller.admin.get("/v1/resources/shelf")) == came_back
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json["id"] == redeemed.json["id"]


def test_large_numbers_that_came_back_are_not_too_large(teller: Teller) -> None:
    """
    500 times 1e300 is 3 KB when it is sent, and 3 KB when it is sent back.
    """
    send(
        teller.admin,
        "POST",
        "/v1/resources",
        f"[{','.join(['1e300'] * 500)}]",
        id="shelf",
        kind="stock",
        available=10,
    )
    teller.drain()
    numbers = text_of(teller.admin.get("/v1/resources/shelf"))

    assert len(numbers) < 4_096
    assert send(teller.admin, "PATCH", "/v1/resources/shelf", numbers).status_code == 202


@pytest.mark.parametrize("number", REFUSED)
def test_a_number_that_would_not_come_back_is_refused(teller: Teller, number: str) -> None:
    """
    Beyond a double, too close to zero for it, or with more digits than it keeps. The answer says so.
    """
    answer = send(teller.client, "POST", "/v1/redemptions", number, resource="shelf", account="u")

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert "holds a number" in answer.json["errors"][0]["detail"]
