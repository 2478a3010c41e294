"""
The order of checks: the caller is authenticated before its body is read, or at least before it is parsed.
"""

from __future__ import annotations

import io
import time
import uuid
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from pydantic import BaseModel

from api.app import ROUTES
from api.console.application import ROUTES as PAGES
from api.web import parsing
from api.web.auth import CONFIRM_SECONDS
from api.web.routing import Answer, Call, Routes
from processor.clients import keys
from processor.gateways import addresses, signatures
from processor.storage import connections
from tests.http.visitor import Visitor

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.http.teller import Client, Reply, Teller

WITH_BODY = [route for route in ROUTES if route.body is not None]
SANDBOX = "/sandbox/gateway"


class Slow(io.BytesIO):
    """A body whose last byte comes after something has happened, and more than a second later."""

    def __init__(self, content: bytes, happens: Callable[[], None]) -> None:
        super().__init__(content)
        self._happens = happens

    def read(self, size: int | None = -1, /) -> bytes:
        """Let it happen, and read."""
        self._happens()
        time.sleep(CONFIRM_SECONDS + 0.1)
        return super().read(size)


class Sent(io.BytesIO):
    """A body that records whether it is read."""

    is_read = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and record it."""
        self.is_read = True
        return super().read(size)


def _call(client: Client, method: str, path: str, **headers: str | None) -> tuple[int, bool]:
    """Send a body. Returns the status of the answer, and whether the body was read."""
    body = Sent(b"{}")
    answer = client.call(method, path, input_stream=body, content_type="application/json", headers=headers)
    return answer.status_code, body.is_read


def test_no_body_is_read_for_a_caller_without_a_key_or_role(teller: Teller) -> None:
    """
    A caller without a key gets 401, and one without the role gets 403. Its body stays unread.
    """
    people = {"client": teller.client, "operator": teller.operator, "admin": teller.admin}
    for route in WITH_BODY:
        if not route.roles:
            continue
        method, path = route.method, route.path
        assert _call(teller.client, method, path, Authorization=None) == (401, False), path
        assert _call(teller.client, method, path, Authorization=f"Bearer teller_{'a' * 43}") == (
            401,
            False,
        ), path
        for role, person in people.items():
            status, is_read = _call(person, method, path)
            assert is_read == (role in route.roles), path
            assert is_read or status == 403, path


def test_no_form_is_read_for_a_visitor_without_a_session(teller: Teller) -> None:
    """
    A visitor that is not signed in is sent to the sign-in page, and the form stays unread.
    """
    for page in PAGES:
        if page.method == "POST" and page.roles:
            form = Sent(b"a=b")
            answer = Visitor.new(teller).browser.post(
                page.path,
                input_stream=form,
                content_type="application/x-www-form-urlencoded",
            )
            assert (answer.status_code, form.is_read) == (303, False), page.path


@pytest.mark.parametrize("body", [b"{", b"[" * 1_000, b'{"a":1,"a":2}', b"\xff", b"[]"])
def test_a_gateway_call_is_not_parsed_before_its_signature_is_checked(
    teller: Teller, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """
    Without a signature over the bytes of the body, the answer is 401 whatever the body holds. With one it is parsed.
    """
    parsed: list[bytes] = []

    def parse(raw: bytes, **_limits: Any) -> dict[str, Any]:
        parsed.append(raw)
        return {}

    monkeypatch.setattr(parsing, "parse_json", parse)
    settings, key = teller.settings, str(uuid.uuid4())
    secret = signatures.gateway_key(settings.gateway_secret, settings.secret)
    signed = {"Idempotency-Key": key, **signatures.headers(key, int(time.time()), body, [secret])}

    unsigned = teller.client.call("POST", SANDBOX, data=body, headers={"Idempotency-Key": key})
    tampered = teller.client.call("POST", SANDBOX, data=body + b" ", headers=signed)
    assert [unsigned.status_code, tampered.status_code, parsed] == [401, 401, []]

    assert teller.client.call("POST", SANDBOX, data=body, headers=signed).status_code == 200
    assert parsed == [body]


def test_a_public_route_cannot_be_declared_to_parse_the_body_of_any_caller() -> None:
    """
    A route without roles has no body, or authenticates its caller by the bytes of the body.
    """

    class Anything(BaseModel):
        pass

    def view(_call: Call[Any]) -> Answer:
        return Answer()

    with pytest.raises(ValueError, match="POST /open would parse the body of any caller"):
        Routes("test").add("POST", "/open", roles=frozenset(), body=Anything, answers={})(view)
    assert [route.path for route in WITH_BODY if not route.roles] == [SANDBOX]


def test_a_key_that_is_revoked_while_its_body_is_sent_makes_no_request(teller: Teller) -> None:
    """
    The key is checked again after a body that took longer than a second. Nothing is stored for a revoked one.
    """

    def send(client: Client, happens: Callable[[], None]) -> Reply:
        body = Slow(b'{"resource": "sneaker", "account": "u_42"}', happens)
        headers = {"Idempotency-Key": "slow"}
        return client.call(
            "POST", "/v1/redemptions", input_stream=body, content_type="application/json", headers=headers
        )

    assert send(teller.other, lambda: None).status_code == 202
    answer = send(teller.client, lambda: _revoke(teller, teller.client))

    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
    [only] = teller.operator.get("/v1/requests").json["data"]
    assert teller.other.get(f"/v1/requests/{only['id']}").status_code == 200


def test_a_key_that_is_revoked_during_a_look_up_registers_no_webhook(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A name service that is slow, as one of the caller's own may be, gives a revoked key no time.
    """

    def look_up(*_: Any, **__: Any) -> None:
        _revoke(teller, teller.client)
        time.sleep(CONFIRM_SECONDS + 0.1)

    monkeypatch.setattr(addresses, "check_webhook", look_up)
    answer = teller.client.post("/v1/webhooks", {"url": "https://shop.example/"})

    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
    assert teller.operator.get("/v1/webhooks").json["data"] == []


def test_a_key_that_is_revoked_while_its_batch_waits_makes_no_request(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A batch waits for its turn twice: to be parsed, and to be checked.
    """

    def slow(_call: Call[Any]) -> AbstractContextManager[None]:
        if teller.client.get("/v1/requests").status_code == 200:
            _revoke(teller, teller.client)
        time.sleep(CONFIRM_SECONDS / 2 + 0.1)
        return nullcontext()

    monkeypatch.setattr(Call, "turn", slow)
    item = {"kind": "redemption", "resource": "sneaker", "account": "u_42", "idempotency_key": "k"}
    answer = teller.client.call("POST", "/v1/batches", json={"requests": [item]})

    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
    assert teller.operator.get("/v1/requests").json["data"] == []


def test_a_key_that_is_revoked_while_its_form_is_sent_does_nothing(teller: Teller) -> None:
    """
    A form that took longer than a second needs a session that still holds at its end.
    """
    visitor = Visitor.signed_in(teller, teller.admin)
    form = urlencode({"csrf": visitor.token, "reason": "x"}).encode()

    def send(happens: Callable[[], None]) -> tuple[int, str]:
        answer = visitor.browser.post(
            "/admin/partitions/1/pause",
            input_stream=Slow(form, happens),
            content_type="application/x-www-form-urlencoded",
        )
        return answer.status_code, answer.headers["Location"].partition("?")[0]

    assert send(lambda: _revoke(teller, teller.admin)) == (303, "/admin/sign-in")
    paused = teller.operator.get("/v1/admin/partitions").json["data"]
    assert not any(partition["paused"] for partition in paused)


def _revoke(teller: Teller, client: Client) -> None:
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        [(key_id,)] = connection.execute(
            "SELECT id FROM api_keys WHERE client_id = %s", (client.id,)
        ).fetchall()
        keys.revoke_key(connection, key_id)
