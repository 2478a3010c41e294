"""
Invalid input: one clear problem, and nothing is stored.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from processor.domain.model import MAX_QUANTITY

if TYPE_CHECKING:
    from tests.http.teller import Reply, Teller

REDEMPTION = {"resource": "sneaker", "account": "u_42"}
DEEP = "[" * 40 + "]" * 40


def refuse(teller: Teller, answer: Reply, status: int, code: str) -> dict[str, Any]:
    """Check that the answer is this problem in full, and that nothing was stored. Returns the problem."""
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.json
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code"} <= set(answer.json)
    assert answer.json["status"] == status
    assert "\n" not in answer.json["detail"]
    assert teller.admin.get("/v1/requests").json["data"] == []
    problem: dict[str, Any] = answer.json
    return problem


def send_raw(teller: Teller, raw: bytes, content_type: str | None = "application/json") -> Reply:
    """Send bytes without encoding them."""
    headers = {"Idempotency-Key": "k"}
    return teller.client.call("POST", "/v1/redemptions", data=raw, content_type=content_type, headers=headers)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"resource": NaN}',
        b'{"resource": Infinity}',
        b"{'resource': 1}",
        b'{"resource": "\xff"}',
        b'\xef\xbb\xbf{"resource": "a", "account": "b"}',
        b'{"resource": "a\x00b", "account": "c"}',
        b'{"resource": "a", "account": "b"} trailing',
    ],
)
@pytest.mark.changes_nothing
def test_a_body_that_is_not_json_is_malformed(teller: Teller, raw: bytes) -> None:
    """
    A body that is not JSON returns 400.
    """
    refuse(teller, send_raw(teller, raw), 400, "malformed")


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        (b"[]", ""),
        (b'"text"', ""),
        (b"null", ""),
        (b"{}", "/resource"),
        (b'{"resource": "a", "account": "b", "resource": "c"}', ""),
        (b'{"resource": "a", "account": "b", "metadata": {"x": "\\ud800"}}', "/metadata/x"),
        (
            b'{"resource": "a", "account": "b", "metadata": {"\\u0000": 1}}',
            "/metadata/\N{REPLACEMENT CHARACTER}",
        ),
        (b'{"resource": "a", "account": "b", "metadata": {"x": 1e999}}', ""),
        (b'{"resource": "a", "account": "b", "metadata": {"x": -1' + b"0" * 309 + b"}}", ""),
        (b'{"resource": "a", "account": "b", "amount": ' + b"9" * 5000 + b"}", ""),
        (b'{"resource": "a", "account": "b", "metadata": {"x": ' + DEEP.encode() + b"}}", None),
        (
            b'{"resource": "a", "account": "b", "metadata": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
            None,
        ),
    ],
)
@pytest.mark.changes_nothing
def test_json_that_cannot_be_stored_unchanged_is_invalid(
    teller: Teller, raw: bytes, pointer: str | None
) -> None:
    """
    Repeated names, lone surrogates, NUL, numbers beyond a double and deep nesting return 422 with a pointer.
    """
    problem = refuse(teller, send_raw(teller, raw), 422, "invalid")

    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"amount": "5"}, "/amount"),
        ({"amount": 1.0}, "/amount"),
        ({"amount": True}, "/amount"),
        ({"amount": None}, "/amount"),
        ({"amount": 0}, "/amount"),
        ({"amount": -1}, "/amount"),
        ({"amount": MAX_QUANTITY + 1}, "/amount"),
        ({"resource": ""}, "/resource"),
        ({"resource": "a" * 129}, "/resource"),
        ({"resource": "a b"}, "/resource"),
        ({"resource": "a\n"}, "/resource"),
        ({"resource": "ümlaut"}, "/resource"),
        ({"resource": 5}, "/resource"),
        ({"account": None}, "/account"),
        ({"apply_before": "tomorrow"}, "/apply_before"),
        ({"apply_before": "2026-11-21"}, "/apply_before"),
        ({"apply_before": "2026-11-21T23:15:00"}, "/apply_before"),
        ({"apply_before": "2026-13-21T23:15:00Z"}, "/apply_before"),
        ({"apply_before": "0001-01-01T00:00:00+14:00"}, "/apply_before"),
        ({"apply_before": 1764000000}, "/apply_before"),
        ({"metadata": []}, "/metadata"),
        ({"metadata": None}, "/metadata"),
        ({"metadata": {"x": "a" * 4089}}, "/metadata"),
        ({"nonsense": 1}, "/nonsense"),
        ({"a/b~c": 1}, "/a~1b~0c"),
    ],
)
@pytest.mark.changes_nothing
def test_values_are_taken_strictly(teller: Teller, change: dict[str, Any], pointer: str) -> None:
    """
    Wrong types, values out of range and unknown fields return 422 with a pointer.
    """
    answer = teller.client.post("/v1/redemptions", {**REDEMPTION, **change})

    problem = refuse(teller, answer, 422, "invalid")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


def test_the_largest_values_are_accepted(teller: Teller) -> None:
    """
    The ends of each range are valid.
    """
    body = {
        "resource": "A-z0.9_:~@" + "a" * 118,
        "account": "b",
        "amount": MAX_QUANTITY,
        "metadata": {"x": "a" * 4088},
    }
    answer = teller.client.post("/v1/redemptions", body)

    assert answer.status_code == 202
    assert answer.json["metadata"] == body["metadata"]


@pytest.mark.changes_nothing
def test_every_mistake_is_named(teller: Teller) -> None:
    """
    All mistakes of a body are returned together.
    """
    answer = teller.client.post("/v1/withdrawals", {"resource": "", "amount": 0, "extra": 1})

    assert sorted(error["pointer"] for error in answer.json["errors"]) == [
        "/account",
        "/amount",
        "/extra",
        "/resource",
    ]


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        (None, True),
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
    ],
)
def test_a_body_is_json_or_has_no_content_type(teller: Teller, content_type: str | None, taken: bool) -> None:
    """
    A body without a content type is read as JSON. Any type that is not JSON returns 415.
    """
    answer = send_raw(teller, json.dumps(REDEMPTION).encode(), content_type)

    if taken:
        assert answer.status_code == 202
    else:
        refuse(teller, answer, 415, "unsupported_media_type")


def test_a_body_has_at_most_a_mebibyte(teller: Teller) -> None:
    """
    A mebibyte is accepted, also if spaces fill it. One byte more returns 413.
    """
    body = json.dumps(REDEMPTION).encode()

    assert send_raw(teller, body.ljust(1024 * 1024)).status_code == 202
    assert send_raw(teller, body.ljust(1024 * 1024 + 1)).json["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/v1/requests?limit=0", "/limit"),
        ("/v1/requests?limit=101", "/limit"),
        ("/v1/requests?limit=5.0", "/limit"),
        ("/v1/requests?limit=", "/limit"),
        ("/v1/requests?limit=%20" + "5", "/limit"),
        ("/v1/requests?limit=1&limit=2", "/limit"),
        ("/v1/requests?status=done", "/status"),
        ("/v1/requests?kind=", "/kind"),
        ("/v1/requests?account=a%00", "/account"),
        ("/v1/requests?resource=%FF", "/resource"),
        ("/v1/requests?nonsense=1", "/nonsense"),
        ("/v1/requests?cursor=nonsense", "/cursor"),
        ("/v1/requests?cursor=WyJcdTAwMDAiXQ", "/cursor"),
        ("/v1/resources?cursor=WyIxIl0", "/cursor"),
        ("/v1/admin/audit?cursor=WyIyMDI2LTExLTIxVDIzOjE1OjAwKzAwOjAwIiwxZTk5OV0", "/cursor"),
        ("/v1/admin/audit?cursor=WyIyMDI2LTExLTIxVDIzOjE1OjAwKzAwOjAwIixbIjEiXV0", "/cursor"),
        ("/v1/admin/audit?cursor=" + "W1tb" * 128, "/cursor"),
        ("/v1/resources?kind=car", "/kind"),
        ("/v1/resources/a?at=now", "/at"),
        ("/v1/resources/a?since=now", "/since"),
        ("/v1/admin/audit?cursor=WyI5OTk5OTk5OTk5OTk5OTk5OTk5OTkiXQ", "/cursor"),
        ("/v1/admin/partitions?limit=5", "/limit"),
    ],
)
@pytest.mark.changes_nothing
def test_query_parameters_are_taken_strictly(teller: Teller, path: str, pointer: str) -> None:
    """
    Unknown, repeated and invalid parameters return 422 with the parameter's name.
    """
    problem = refuse(teller, teller.admin.get(path), 422, "invalid")

    [error] = problem["errors"]
    assert error["pointer"] == pointer
    assert f"query parameter {pointer[1:]}" in error["detail"]


RESOURCE = {"id": "a", "kind": "balance", "available": 0}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"kind": "car"}, "/kind"),
        ({"available": -1}, "/available"),
        ({"overdraft": -1}, "/overdraft"),
        ({"per_account_limit": 0}, "/per_account_limit"),
        ({"per_account_daily_limit": 0}, "/per_account_daily_limit"),
        ({"decimals": -1}, "/decimals"),
        ({"decimals": 10}, "/decimals"),
        ({"decimals": 2.0}, "/decimals"),
        ({"decimals": None}, "/decimals"),
        ({"gateway": "nobody"}, "/gateway"),
        ({"starts_at": "2026-01-02T00:00:00Z", "ends_at": "2026-01-02T01:00:00+01:00"}, ""),
        ({"client": "no such/client"}, "/client"),
        ({"ends_at": None}, "/ends_at"),
    ],
)
@pytest.mark.changes_nothing
def test_a_resource_is_checked_when_it_is_opened(
    teller: Teller, change: dict[str, Any], pointer: str
) -> None:
    """
    Invalid rules are refused by the API, before the request is queued.
    """
    problem = refuse(teller, teller.admin.post("/v1/resources", {**RESOURCE, **change}), 422, "invalid")

    assert [error["pointer"] for error in problem["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({}, ""),
        ({"id": "b"}, "/id"),
        ({"decimals": 2}, "/decimals"),
        ({"kind": "stock"}, "/kind"),
        ({"available": 5}, "/available"),
        ({"overdraft": None}, "/overdraft"),
        ({"gateway": "nobody"}, "/gateway"),
    ],
)
@pytest.mark.changes_nothing
def test_only_rules_of_a_resource_can_be_amended(
    teller: Teller, change: dict[str, Any], pointer: str
) -> None:
    """
    The id, kind and quantity cannot be amended. An amendment must change something.
    """
    problem = refuse(teller, teller.admin.patch("/v1/resources/a", change), 422, "invalid")

    assert [error["pointer"] for error in problem["errors"]] == [pointer]
