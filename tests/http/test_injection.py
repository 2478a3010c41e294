"""
Hostile input stays text: it never becomes SQL, a header, a log line, a path or markup.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
import structlog

from api.web import access_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http.teller import Teller

#: For an address: NUL, line ends, a terminal escape, quotes, a path out of a directory, a format.
HOSTILE = (
    "%00",
    "a%00b",
    "a%0Ab",
    "a%0D%0ASet-Cookie:%20x=1",
    "%1B%5B31mred",
    "';DROP%20TABLE%20requests;--",
    "%27%20OR%20%271%27=%271",
    "..%2F..%2Fetc%2Fpasswd",
    "%25s%25n%7B0.__class__%7D",
    "%C2%85%E2%80%A8",
    "%FF%FE",
    "a" * 4000,
)
ADDRESSES = (
    ("GET", "/v1/requests/{}"),
    ("GET", "/v1/requests/{}/entries"),
    ("POST", "/v1/requests/{}/cancel"),
    ("GET", "/v1/resources/{}"),
    ("GET", "/v1/resources/{}/entries"),
    ("POST", "/v1/resources/{}/close"),
    ("PATCH", "/v1/resources/{}"),
    ("GET", "/v1/accounts/{}"),
    ("PUT", "/v1/accounts/{}"),
    ("GET", "/v1/webhooks/{}"),
    ("DELETE", "/v1/webhooks/{}"),
    ("POST", "/v1/deliveries/{}/resend"),
    ("GET", "/v1/admin/requests/{}"),
    ("POST", "/v1/admin/partitions/{}/pause"),
    ("GET", "/problems/{}"),
    ("GET", "/v1/{}"),
    ("GET", "/v1/requests?resource={}"),
    ("GET", "/v1/requests?account={}"),
    ("GET", "/v1/requests?status={}"),
    ("GET", "/v1/requests?cursor={}"),
    ("GET", "/v1/requests?limit={}"),
    ("GET", "/v1/requests?{}=1"),
    ("GET", "/v1/resources/a?at={}"),
    ("GET", "/sandbox/gateway/calls?request={}"),
)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """
    The lines that requests logged since the last call.
    """
    written = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.WriteLogger(written),
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
    )
    monkeypatch.setattr(access_log, "log", logger)
    for name in ("LINES_OF_A_CLIENT", "LINES_OF_AN_ADDRESS"):
        monkeypatch.setattr(access_log, name, 1_000)

    def take() -> list[str]:
        text = written.getvalue()
        written.seek(0)
        written.truncate()
        return text.splitlines()

    return take


@pytest.mark.parametrize(("method", "address"), ADDRESSES, ids=lambda value: value)
@pytest.mark.changes_nothing
def test_a_hostile_address_is_an_ordinary_error(
    teller: Teller, method: str, address: str, lines: Callable[[], list[str]]
) -> None:
    """
    A hostile address returns 404 or 422 in JSON, sets no header, and logs one line of JSON. No request is stored.
    """
    bodies = {"PUT": {"email": "ada@example.com"}, "PATCH": {"unit": "x"}}
    for hostile in HOSTILE:
        answer = teller.admin.call(
            method,
            address.format(hostile),
            json=bodies.get(method),
            headers={"Idempotency-Key": "k" if method != "PATCH" else None},
        )
        assert answer.status_code in (404, 422), (hostile, answer.data)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "Set-Cookie" not in answer.headers
        [line] = lines()
        assert json.loads(line)["event"] == "http_request"
        assert "DROP" not in line
        assert "passwd" not in line
    assert teller.admin.get("/v1/requests").json["data"] == []


@pytest.mark.parametrize(
    "request_id", ["a\nevent=paid", "a\r\nSet-Cookie: x=1", "\x1b[31m", "a" * 129, "%s", "ä", "a b", '"', ""]
)
@pytest.mark.changes_nothing
def test_an_invalid_request_id_is_replaced(
    teller: Teller, request_id: str, lines: Callable[[], list[str]]
) -> None:
    """
    A request id appears in the log and in a header, so the server replaces an invalid one.
    """
    answer = teller.client.call("GET", "/v1/requests", environ_base={"HTTP_X_REQUEST_ID": request_id})

    assert answer.headers["X-Request-Id"] != request_id
    assert len(answer.headers["X-Request-Id"]) == 16
    [line] = lines()
    assert json.loads(line)["request_id"] == answer.headers["X-Request-Id"]


def test_text_is_stored_unchanged_and_not_interpreted(teller: Teller) -> None:
    """
    SQL, formats, templates and tags in a body are stored as plain text.
    """
    text = "'; DROP TABLE requests; -- %s %(x)s {0} {{7*7}} $(id) `id` <script>alert(1)</script>"
    sent = {"resource": "a", "account": "u", "amount": 1, "destination": text, "metadata": {text: text}}

    made = teller.client.post("/v1/withdrawals", sent, key=text)
    again = teller.client.post("/v1/withdrawals", sent, key=text)

    assert made.status_code == 202
    assert again.json["id"] == made.json["id"]
    assert again.json["metadata"] == {text: text}


@pytest.mark.parametrize("address", ["//v1/requests", "///v1/requests", "//metrics", "//healthz", "//"])
@pytest.mark.changes_nothing
def test_an_address_has_one_spelling(teller: Teller, address: str) -> None:
    """
    A proxy may filter by path, so repeated slashes are not another spelling of a path.
    """
    answer = teller.admin.call("GET", "/", environ_overrides={"PATH_INFO": address})

    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_every_answer_has_security_headers(teller: Teller) -> None:
    """
    Every page and every JSON answer forbids sniffing, referrers and frames. Private answers are not cached.
    """
    for address in (
        *("/v1/requests", "/v1/nowhere", "/nowhere", "/healthz", "/readyz", "/metrics", "/openapi.json"),
        *("/docs", "/problems/not-found", "/problems/nothing"),
    ):
        headers = teller.client.get(address, Accept="text/html").headers
        assert headers["X-Content-Type-Options"] == "nosniff", address
        assert headers["Referrer-Policy"] == "no-referrer", address
        [policy] = headers.getlist("Content-Security-Policy")
        assert policy.startswith("default-src 'none'"), address
        assert "frame-ancestors 'none'" in policy, address
        assert "script-src" not in policy, address
        assert (headers.get("Cache-Control") == "no-store") == address.startswith("/v1"), address
        assert "Server" not in headers, address
        assert "Set-Cookie" not in headers, address
