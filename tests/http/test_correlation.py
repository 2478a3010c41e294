"""
`X-Request-Id` and `traceparent`: a request keeps those of the call that made it, and the log names both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import structlog

from processor.errors import DatabaseUnavailable
from processor.gateways.protocol import Answer
from processor.reading import request_lists
from processor.storage import connections
from processor.tracing.correlation import Correlation
from tests.http.visitor import Visitor

if TYPE_CHECKING:
    from tests.http.teller import Client, Reply, Teller

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ca902c7-01"
CALLED = {"X_Request_Id": "order-7", "traceparent": TRACEPARENT}


def kept(teller: Teller) -> list[tuple[str, str | None, str | None]]:
    """Return the kind and the headers of each request, oldest first."""
    with connections.connect(teller.settings.database_url, application_name="test") as owner:
        return owner.execute("SELECT kind, x_request_id, traceparent FROM requests ORDER BY id").fetchall()


def redeem(client: Client, **headers: str) -> Reply:
    """Ask for a redemption."""
    return client.post("/v1/redemptions", {"resource": "sneaker", "account": "u"}, **headers)


def test_a_request_keeps_the_headers_of_its_call(teller: Teller) -> None:
    """Those of the first call, also if it is repeated. Invalid ones refuse nothing, and are not kept."""
    first = teller.client.post("/v1/redemptions", {"resource": "s", "account": "u"}, "one", **CALLED)
    again = teller.client.post("/v1/redemptions", {"resource": "s", "account": "u"}, "one", X_Request_Id="b")
    bad = redeem(teller.client, X_Request_Id="a b", traceparent=TRACEPARENT.upper())

    assert [first.status_code, again.status_code, bad.status_code] == [202, 202, 202]
    assert [one.headers["X-Request-Id"] for one in (first, again)] == ["order-7", "b"]
    assert kept(teller) == [
        ("redemption", "order-7", TRACEPARENT),
        ("redemption", bad.headers["X-Request-Id"], None),
    ]


def test_all_requests_of_a_batch_keep_those_of_the_batch(teller: Teller) -> None:
    """They were made by one call."""
    items = [
        {"kind": "redemption", "idempotency_key": f"k{n}", "resource": f"r{n}", "account": "u"}
        for n in range(3)
    ]

    assert teller.client.post("/v1/batches", {"requests": items}, **CALLED).status_code == 202

    assert kept(teller) == [("redemption", "order-7", TRACEPARENT)] * 3


def test_a_refund_keeps_its_own_and_the_gateway_gets_those_of_the_withdrawal(teller: Teller) -> None:
    """A refund is a request. The call of the gateway is about the withdrawal."""
    teller.open("till", "balance", available=100, gateway="sandbox")
    body = {"resource": "till", "account": "u", "amount": 5}
    paid = teller.client.post("/v1/withdrawals", body, **CALLED).json["id"]
    teller.drain()
    [order] = teller.call_gateway(Answer("done", 200))
    refund = f"/v1/admin/requests/{paid}/refund"
    assert teller.admin.post(refund, {"reason": "a mistake"}, X_Request_Id="refund-1").status_code == 202

    assert order.correlation == Correlation("order-7", TRACEPARENT)
    assert kept(teller)[1:] == [("withdrawal", "order-7", TRACEPARENT), ("refund", "refund-1", None)]


def test_the_console_shows_them_beside_the_idempotency_key(teller: Teller) -> None:
    """An operator searches logs and traces for them. The API does not show them."""
    asked = redeem(teller.client, **CALLED).json

    page = Visitor.signed_in(teller, teller.operator).get(f"/admin/requests/{asked['id']}").text

    assert "<code>order-7</code>" in page
    assert f"<code>{TRACEPARENT}</code>" in page
    assert "order-7" not in str(teller.client.get(f"/v1/requests/{asked['id']}").json)


@pytest.mark.parametrize(
    ("column", "value"), [("x_request_id", "a b"), ("x_request_id", ""), ("traceparent", TRACEPARENT.upper())]
)
def test_the_database_refuses_values_of_another_form(teller: Teller, column: str, value: str) -> None:
    """They would stand in headers of calls to others."""
    redeem(teller.client)
    with (
        connections.connect(teller.settings.database_url, application_name="test") as owner,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        owner.execute(
            "INSERT INTO requests SELECT (jsonb_populate_record(r, jsonb_build_object('id', gen_random_uuid(),"
            " 'idempotency_key', 'another', %s::text, %s::text))).* FROM requests r",
            (column, value),
        )


def test_the_line_of_a_call_names_its_request(teller: Teller) -> None:
    """The call that makes a request, and each that names it. The text of an address is in no log."""
    with structlog.testing.capture_logs() as lines:
        asked = redeem(teller.client).json["id"]
        teller.client.get(f"/v1/requests/{asked}")
        teller.client.post(f"/v1/requests/{asked}/cancel")
        teller.client.get("/v1/requests/not-an-id")

    assert [line.get("request") for line in lines] == [asked, asked, asked, None]
    assert "not-an-id" not in str(lines)


def test_lines_within_a_call_carry_its_ids(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """`request_id` and `trace_id`, and none of them once the call is over."""
    within: list[dict[str, Any]] = []

    def look(*_: Any, **__: Any) -> None:
        within.append(structlog.contextvars.get_contextvars())
        raise RuntimeError("enough")

    monkeypatch.setattr(request_lists, "list_requests", look)
    teller.client.get("/v1/requests", **CALLED)
    teller.client.get("/v1/requests", X_Request_Id="other")

    assert within == [{"request_id": "order-7", "trace_id": TRACE}, {"request_id": "other"}]
    assert structlog.contextvars.get_contextvars() == {}


def test_a_fault_of_the_server_is_one_error(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 has the exception in the line of its call, and 503 the cause. All other lines are at level info."""

    def break_down(*_: Any, **__: Any) -> None:
        raise RuntimeError("the reason")

    with monkeypatch.context() as broken, structlog.testing.capture_logs() as lines:
        redeem(teller.client)
        broken.setattr(request_lists, "list_requests", break_down)
        teller.client.get("/v1/requests")
        broken.setattr(request_lists, "list_requests", _unavailable)
        teller.client.get("/v1/requests")

    assert [(line["event"], line["status"], line["log_level"]) for line in lines] == [
        ("http_request", 202, "info"),
        ("http_request", 500, "error"),
        ("http_request", 503, "error"),
    ]
    assert str(lines[1]["exc_info"]) == "the reason"
    assert lines[2]["problem"] == "database_unavailable: no answer"


def _unavailable(*_: Any, **__: Any) -> None:
    raise DatabaseUnavailable("no answer")
