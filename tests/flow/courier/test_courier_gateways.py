"""
Gateways by real HTTP: every row of the table in docs/gateways.md, answers that are none, and how calls are made.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from standardwebhooks.webhooks import Webhook

from processor.gateways.protocol import Answer, Order
from processor.outbox import gateway_calls
from processor.tracing import correlation
from processor.tracing.correlation import Correlation
from tests.flow.courier.outside import CERTIFICATE, Call, Handler, Outside, says, serving
from tests.servers import names_of
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.flow.courier.till import Till

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ca902c7-01"
UNREACHABLE = ["gateway_unreachable"]


def test_a_yes_is_captured_with_the_gateways_reference(till: Till) -> None:
    """
    One call, one payout, completed.
    """
    till.outside.behave = lambda _call, _handler: says(200, reference="T-1")
    asked = till.withdraw()
    till.start()

    assert till.until(asked) == ["completed"]
    assert till.balance() == (99_995, 0)
    assert (
        till.store.one("SELECT reference FROM decisions WHERE current AND request_id = %s", asked[0]) == "T-1"
    )
    assert till.attempts() == [("done", 200)]


def test_a_call_is_signed_and_says_what_is_to_be_done(till: Till) -> None:
    """
    The documented body, the request's id as key, and a signature that the library of the standard verifies.
    """
    [asked] = till.withdraw()
    till.start()
    till.until([asked])

    [call] = till.outside.calls
    assert call.path == "/pay"
    assert call.headers["idempotency-key"] == str(asked)
    assert call.headers["content-type"] == "application/json"
    assert Webhook(till.settings.gateway_secret).verify(call.body, call.headers) == {
        "request": str(asked),
        "kind": "withdrawal",
        "account": "ada",
        "resource": "till-bank",
        "amount": 5,
        "destination": "IBAN 1",
        "metadata": {},
    }


def test_a_call_and_its_line_name_the_call_that_made_the_request(till: Till) -> None:
    """
    `X-Request-Id` and `traceparent`, also of an answer that contradicts the one before, which an operator must see.
    """
    till.outside.behave = lambda _call, _handler: says(422)
    token = correlation.bind(Correlation("order-7", TRACEPARENT))
    [asked] = till.withdraw()
    correlation.reset(token)
    [other] = till.withdraw()
    with structlog.testing.capture_logs() as lines:
        till.start()
        assert till.until([asked, other]) == ["gateway_declined"] * 2

    sent = {call.headers["idempotency-key"]: call.headers for call in till.outside.calls}
    assert (sent[str(asked)]["x-request-id"], sent[str(asked)]["traceparent"]) == ("order-7", TRACEPARENT)
    assert not {"x-request-id", "traceparent"} & set(map(str.lower, sent[str(other)]))
    called = {line["request"]: line for line in lines if line["event"] == "gateway_called"}
    assert called[str(asked)]["request_id"] == "order-7"
    assert called[str(asked)]["trace_id"] == TRACEPARENT.split("-")[1]
    assert not {"request_id", "trace_id"} & set(called[str(other)])


@pytest.mark.parametrize("status", [400, 402, 422])
def test_a_definite_no_gives_back_at_once(till: Till, status: int) -> None:
    """
    Released, refunded, with the gateway's own reason.
    """
    till.outside.behave = lambda _call, _handler: says(status, reason="account closed")
    asked = till.withdraw()
    till.start()

    assert till.until(asked) == ["gateway_declined"]
    assert till.balance() == (100_000, 0)
    assert (
        till.store.one("SELECT reason FROM decisions WHERE current AND request_id = %s", asked[0])
        == "account closed"
    )
    assert till.attempts() == [("declined", status)]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 401, 403, 404, 405, 410])
def test_a_request_that_the_gateway_finds_wrong_fails_at_once(till: Till, status: int) -> None:
    """
    The amount stays held, the gateway is called once, and a redirect is not followed.
    """
    with serving() as elsewhere:
        till.outside.behave = lambda _call, _handler: (status, {"Location": f"{elsewhere.url}/pay"}, b"")
        asked = till.withdraw()
        till.start()

        assert till.until(asked) == ["gateway_misconfigured"]
        assert till.balance() == (99_995, 5)
        assert till.attempts() == [("misconfigured", status)]
        assert elsewhere.calls == []


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_any_other_answer_is_tried_again_with_the_same_key_and_then_fails(till: Till, status: int) -> None:
    """
    All tries have one key. The amount stays held, and is never refunded automatically.
    """
    till.outside.behave = lambda _call, _handler: status
    asked = till.withdraw()
    till.start()

    assert till.until(asked) == UNREACHABLE
    assert till.balance() == (99_995, 5)
    assert till.attempts() == [("unknown", status)] * 3
    assert {call.key for call in till.outside.calls} == {str(asked[0])}


def test_a_gateway_that_was_unavailable_for_a_moment_pays_once(till: Till) -> None:
    """
    After two answers 503 and one 200, the request is completed under one key.
    """
    replies = iter([503, 503, 200])
    till.outside.behave = lambda _call, _handler: next(replies)
    asked = till.withdraw()
    till.start()

    assert till.until(asked) == ["completed"]
    assert till.attempts() == [("unknown", 503), ("unknown", 503), ("done", 200)]


def test_a_gateway_that_is_not_set_up_any_more_is_misconfigured(till: Till) -> None:
    """
    It fails at once. The amount stays held, and no gateway is called.
    """
    asked = till.withdraw(gateway="old")
    till.start()

    assert till.until(asked, "old") == ["gateway_misconfigured"]
    assert till.balance("old") == (99_995, 5)
    assert till.outside.calls == []


# ---------------------------------------------------------------- answers that are none


def never(outside: Outside) -> Callable[[Call, Handler], None]:
    """No answer."""
    return lambda _call, _handler: outside.hang()


def hangs_up(_call: Call, handler: Handler) -> None:
    """
    Hang up, so that the outcome is unknown.
    """
    handler.close_connection = True


def nonsense(_call: Call, handler: Handler) -> None:
    """Not HTTP."""
    handler.wfile.write(b"\x16\x03\x01 hello there\r\n\r\n")
    handler.close_connection = True


@pytest.mark.parametrize("behave", [hangs_up, nonsense])
def test_an_answer_that_is_none_is_unknown(till: Till, behave: Callable[[Call, Handler], None]) -> None:
    """
    It is tried again with the same key, and then fails. The amount stays held.
    """
    till.outside.behave = behave
    asked = till.withdraw()
    till.start()

    assert till.until(asked) == UNREACHABLE
    assert till.balance() == (99_995, 5)
    assert [outcome for outcome, _ in till.attempts()] == ["unknown"] * 3


def test_no_answer_in_time_is_unknown(till: Till) -> None:
    """
    A gateway that never answers, or long after the timeout: each try ends with the timeout.
    """
    till.outside.behave = never(till.outside)
    asked = till.withdraw()
    till.start(gateway_timeout_seconds=0.3, gateway_tries=2)

    assert till.until(asked) == UNREACHABLE
    assert till.attempts() == [("unknown", None)] * 2
    assert till.store.one("SELECT max(ended_at - started_at) < interval '1 second' FROM attempts")
    assert (
        till.store.one("SELECT reason FROM decisions WHERE current AND request_id = %s", asked[0])
        == "no answer within 0.3 s"
    )


def breaks_off(_call: Call, handler: Handler) -> None:
    """A yes that ends in the middle."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"refer')
    handler.close_connection = True


def endless_headers(_call: Call, handler: Handler) -> None:
    """
    Send more headers than a courier reads.
    """
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-More: " + b"x" * 10_000_000 + b"\r\n\r\n")
    handler.close_connection = True


def drips(_call: Call, handler: Handler) -> None:
    """A yes whose body comes byte by byte, and outlasts the timeout."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    with contextlib.suppress(OSError):
        while not handler.server.outside.closing.wait(0.05):
            handler.wfile.write(b" ")


@pytest.mark.parametrize("behave", [breaks_off, endless_headers, drips])
def test_a_yes_whose_rest_does_not_arrive_is_a_yes(
    till: Till, behave: Callable[[Call, Handler], None]
) -> None:
    """
    The status has arrived, so the gateway has paid. It is called once.
    """
    till.outside.behave = behave
    asked = till.withdraw()
    till.start(gateway_timeout_seconds=1.0)

    assert till.until(asked) == ["completed"]
    assert till.balance() == (99_995, 0)
    assert till.attempts() == [("done", 200)]


def test_a_gateway_is_called_at_its_address_as_it_is_written(till: Till) -> None:
    """
    Nothing in path and query is decoded, encoded or resolved.
    """
    asked = till.withdraw()
    till.start(gateways={"bank": f"{till.outside.url}/a/../q?sp=%2Fa%2Fb&c=%3A&t=%7E&l[]=1"})

    assert till.until(asked) == ["completed"]
    assert [call.path for call in till.outside.calls] == ["/a/../q?sp=%2Fa%2Fb&c=%3A&t=%7E&l[]=1"]


def test_nobody_listens(till: Till) -> None:
    """
    No connection is unknown, too: a gateway that paid may be restarting.
    """
    with serving() as gone:
        port = gone.port
    asked = till.withdraw()
    till.start(gateways={"bank": f"http://127.0.0.1:{port}/pay"})

    assert till.until(asked) == UNREACHABLE
    assert (
        till.store.one("SELECT reason FROM decisions WHERE current AND request_id = %s", asked[0])
        == "no connection"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"\xff\xfe\x00",
        b"[" * 60_000,
        b'"T-1"',
        b'{"reference": {"a": 1}}',
        b'{"reference": true}',
        b'{"reference": ""}',
        b"null",
    ],
)
def test_a_yes_with_nonsense_in_it_is_a_yes(till: Till, body: bytes) -> None:
    """
    The status says that it was done; the reference is then not known.
    """
    till.outside.behave = lambda _call, _handler: (200, {}, body)
    asked = till.withdraw()
    till.start()

    assert till.until(asked) == ["completed"]
    assert (
        till.store.one("SELECT reference FROM decisions WHERE current AND request_id = %s", asked[0]) is None
    )


def test_a_reference_may_be_a_number(till: Till) -> None:
    """
    It is kept as text, with the digits that were sent.
    """
    till.outside.behave = lambda _call, _handler: (200, {}, b'{"reference": 12345}')
    asked = till.withdraw()
    till.start()

    assert till.until(asked) == ["completed"]
    assert (
        till.store.one("SELECT reference FROM decisions WHERE current AND request_id = %s", asked[0])
        == "12345"
    )


def test_what_a_gateway_says_is_kept_as_far_as_it_can_be(till: Till) -> None:
    """
    NUL, control characters and lone surrogates do not reach PostgreSQL, and a reference has an end.
    """
    till.outside.behave = lambda _call, _handler: (
        200,
        {},
        b'{"reference": "T\\u0000-\\ud800\\n1' + b"x" * 9_000 + b'"}',
    )
    asked = till.withdraw()
    till.start()

    assert till.until(asked) == ["completed"]
    reference = till.store.one("SELECT reference FROM decisions WHERE current AND request_id = %s", asked[0])
    assert (reference[:4], len(reference)) == ("T-1x", 255)


@pytest.mark.parametrize(("status", "code"), [(200, "completed"), (422, "gateway_declined")])
def test_a_body_of_a_gigabyte_is_not_read(till: Till, status: int, code: str) -> None:
    """
    The status counts, the connection is closed after a little.
    """
    sent = 0

    def pour(_call: Call, handler: Handler) -> None:
        nonlocal sent
        handler.wfile.write(f"HTTP/1.1 {status} X\r\nContent-Length: {1024**3}\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            for _ in range(1024):
                handler.wfile.write(b"x" * 1024**2)
                sent += 1
        handler.close_connection = True

    till.outside.behave = pour
    asked = till.withdraw()
    till.start()

    assert till.until(asked) == [code]
    eventually(lambda: till.outside.under_way == 0)
    assert sent < 64


@pytest.mark.parametrize(("host", "expected"), [("localhost", ["completed"]), ("127.0.0.1", UNREACHABLE)])
def test_a_certificate_must_be_valid_for_the_name(
    till: Till, host: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    For the name it is made for, all is well; for another, nothing is sent.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with serving(tls=True) as bank:
        asked = till.withdraw()
        till.start(gateways={"bank": f"https://{host}:{bank.port}/pay"})

        assert till.until(asked) == expected
        assert len(bank.calls) == (expected == ["completed"])


def test_a_certificate_that_nobody_vouches_for_is_refused(till: Till) -> None:
    """
    Nothing is sent. It is tried again, and then fails.
    """
    with serving(tls=True) as bank:
        asked = till.withdraw()
        till.start(gateways={"bank": f"https://localhost:{bank.port}/pay"})

        assert till.until(asked) == UNREACHABLE
        assert bank.calls == []
        assert "ertificate" in till.store.one("SELECT max(error) FROM attempts")


# ---------------------------------------------------------------- how calls are made


def test_never_more_calls_at_once_than_the_limit_also_with_two_couriers(till: Till) -> None:
    """
    Two couriers share the limit of a gateway, and everything is paid once. One client leaves a call to others.
    """

    def slowly(_call: Call, _handler: Handler) -> int:
        time.sleep(0.02)
        return 200

    till.outside.behave = slowly
    asked = till.withdraw(100)
    till.start(gateway_calls={"": 64, "bank": 8})
    till.start(gateway_calls={"": 64, "bank": 8})

    assert till.until(asked) == ["completed"] * 100
    assert till.outside.most_under_way == 7
    assert len(till.outside.calls) == len({call.key for call in till.outside.calls}) == 100


def test_one_gateway_that_hangs_does_not_hold_up_another(till: Till) -> None:
    """
    The other one pays at once, however many wait for the first.
    """
    with serving() as hanging:
        hanging.behave = never(hanging)
        till.withdraw(200, gateway="slow")
        asked = till.withdraw(5)
        till.start(gateways={**till.settings.gateways, "slow": f"{hanging.url}/pay"})

        assert till.until(asked, within=2.0) == ["completed"] * 5


def test_the_breaker_stops_hammering_and_fails_nothing(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A gateway that is down is left alone but for a probe; when it is back, all is paid, each once.
    """
    open_seconds = 0.3
    monkeypatch.setattr(gateway_calls, "BREAKER_OPENS_AFTER", 10)
    monkeypatch.setattr(gateway_calls, "BREAKER_OPEN_SECONDS", open_seconds)

    def probes_since(began: float) -> int:
        """
        Return the most probes that the open breaker allows, with one at each end.
        """
        return int((time.monotonic() - began) / open_seconds) + 2

    till.outside.behave = lambda _call, _handler: 503
    asked = till.withdraw(60)
    till.start(gateway_tries=50, gateway_backoff_seconds=0.02)

    eventually(lambda: till.store.one("SELECT count(*) FROM gateway_breakers WHERE is_open"))
    began, called = time.monotonic(), len(till.outside.calls)
    time.sleep(1.0)
    assert len(till.outside.calls) - called <= 60 + probes_since(began)  # 60 were under way
    began, settled_down = time.monotonic(), len(till.outside.calls)
    time.sleep(1.0)
    eventually(lambda: len(till.outside.calls) > settled_down)
    assert len(till.outside.calls) - settled_down <= probes_since(began)
    till.drain()
    assert till.store.one("SELECT count(*) FROM decisions WHERE current AND status = 'failed'") == 0

    till.outside.behave = lambda _call, _handler: 200
    assert till.until(asked) == ["completed"] * 60
    assert till.store.one("SELECT count(*) FROM gateway_breakers WHERE failures > 0") == 0
    assert till.store.one("SELECT open_until FROM gateways WHERE name = 'bank'") is None


def test_a_client_whose_calls_all_fail_does_not_delay_another(till: Till) -> None:
    """
    The gateway cannot serve one client's destination. Another client's payout takes as long as before.
    """

    def only_some(call: Call, _handler: Handler) -> int:
        return 503 if call.document["account"] == "unserved" else 200

    till.outside.behave = only_some
    till.start(gateway_tries=50)
    flood = till.withdraw(300, account="unserved", client="flood")
    eventually(lambda: till.store.one("SELECT count(*) FROM gateway_breakers WHERE is_open"))

    for _ in range(3):
        asked = till.withdraw(account="ada")
        assert till.until(asked, within=gateway_calls.BREAKER_OPEN_SECONDS / 2) == ["completed"]
    assert till.store.one("SELECT client_id FROM gateway_breakers WHERE is_open") == "flood"
    assert set(till.store.statuses(flood)) == {"processing"}


def test_a_replay_pays_once_when_the_gateway_is_back(till: Till) -> None:
    """
    Failed, still held; after the replay the same key is called again, and it is completed.
    """
    till.outside.behave = lambda _call, _handler: 503
    asked = till.withdraw()
    till.start()
    assert till.until(asked) == UNREACHABLE
    till.outside.behave = lambda _call, _handler: 200

    till.store.owner.execute(
        "INSERT INTO inbox (partition, request_id, verb) SELECT partition, id, 'replay' FROM requests WHERE id = %s",
        (asked[0],),
    )
    till.drain()

    assert till.until(asked) == ["completed"]
    assert {call.key for call in till.outside.calls} == {str(asked[0])}
    assert [outcome for outcome, _ in till.attempts()] == ["unknown"] * 3 + ["done"]


def test_a_gateway_of_ones_own_plugs_in(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An entry point names it; what it raises is unknown, and it is cancelled after the timeout.
    """
    orders: list[Order] = []

    class Vault:
        async def perform(self, order: Order) -> Answer:
            orders.append(order)
            if len(orders) == 1:
                raise RuntimeError("not now")
            if len(orders) == 2:
                await asyncio.sleep(60)
            return Answer("done", reference="V-1")

        async def close(self) -> None:
            pass

    class Point:
        name, value = "vault", "a package"

        def load(self) -> type[Vault]:
            return Vault

    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [Point()])
    asked = till.withdraw(gateway="vault")
    till.start(gateway_timeout_seconds=0.2)

    assert till.until(asked, "vault") == ["completed"]
    assert [order.request_id for order in orders] == asked * 3
    assert [outcome for outcome, _ in till.attempts()] == ["unknown", "unknown", "done"]


def test_redis_may_be_unavailable(till: Till) -> None:
    """
    The courier reads the due rows by itself every second.
    """
    till.start(redis_url="redis://127.0.0.1:1/0")
    time.sleep(0.3)
    asked = till.withdraw()

    assert till.until(asked, within=2.5) == ["completed"]


def test_a_ring_wakes_a_courier_at_once(till: Till) -> None:
    """
    A notified courier makes the due call at once. Without it, it would sleep for up to a second.
    """
    from workers.doorbell.ring import Doorbell  # noqa: PLC0415 - used here alone

    names = names_of(till.settings.database_url)
    bell = Doorbell(till.settings.redis_url, lambda: names)
    till.start()
    in_time = 0
    for _ in range(5):
        time.sleep(0.25)
        asked = till.withdraw()
        limit = Deadline(0.2)
        bell.notify_couriers()
        eventually(lambda asked=asked: any(call.key == str(asked[0]) for call in till.outside.calls))  # type: ignore[misc]
        in_time += limit.is_met()
    bell.close()

    assert in_time >= 3


def test_no_secret_is_logged(till: Till) -> None:
    """
    One line for each call, with what it was about, and nothing of what signs it or where it goes.
    """
    with structlog.testing.capture_logs() as lines:
        asked = till.withdraw()
        till.start()
        till.until(asked)

    [line] = [line for line in lines if line["event"] == "gateway_called"]
    assert (line["gateway"], line["request"], line["outcome"], line["status"]) == (
        "bank",
        str(asked[0]),
        "done",
        200,
    )
    everything: Any = repr(lines)
    assert till.settings.gateway_secret not in everything
    assert "IBAN 1" not in everything


def test_it_stops_within_seconds_whatever_is_under_way(till: Till) -> None:
    """
    A call that hangs is abandoned; its lease makes it due again.
    """
    till.outside.behave = never(till.outside)
    asked = till.withdraw(3)
    courier = till.start(gateway_timeout_seconds=60.0)
    eventually(lambda: len(till.outside.calls) == 3)

    limit = Deadline(5.0)
    courier.stop()
    limit.check()

    till.outside.behave = lambda _call, _handler: 200
    till.lapse()
    till.start()
    assert till.until(asked) == ["completed"] * 3
