"""
Webhooks by real HTTP: what is sent and how it is signed, when it is tried again, and where it never goes.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from processor.gateways import signatures
from processor.gateways.addresses import AddressRefused
from processor.outbox import deliveries
from processor.records import documents
from processor.tracing import correlation
from processor.tracing.correlation import Correlation
from tests.flow.courier.outside import CERTIFICATE, serving
from tests.flow.courier.till import SECRET
from tests.waiting import Deadline, eventually
from workers.courier import webhook_client

if TYPE_CHECKING:
    import uuid

    from tests.flow.courier.outside import Call, Handler
    from tests.flow.courier.till import Till

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ca902c7-01"
NOT_PUBLIC = "the name does not lead to a public address"


def test_a_delivery_is_signed_and_has_the_request_of_its_time(till: Till) -> None:
    """
    The three headers of Standard Webhooks, verified by its library, around the documented payload.
    """
    till.webhook(f"{till.outside.url}/hook")
    [asked] = till.redeem(metadata={"order": "ü 7"})
    till.start()
    eventually(lambda: till.deliveries() == {"delivered": 1})

    [call] = till.outside.calls
    said = Webhook(signatures.written(SECRET)).verify(call.body, call.headers)
    assert call.path == "/hook"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == f"msg_{asked.hex}_2"
    assert said == {
        "type": "request.completed",
        "timestamp": said["data"]["finished_at"],
        "data": document(till, asked),
    }
    assert said["data"]["metadata"] == {"order": "ü 7"}


def test_a_delivery_has_its_own_version_of_the_request(till: Till) -> None:
    """
    A completion and a refund are two events, each with its own state.
    """
    till.webhook(f"{till.outside.url}/hook")
    asked = till.withdraw()
    till.store.owner.execute("DELETE FROM deliveries; DELETE FROM fanouts")
    courier = till.start(gateways={"bank": f"{till.outside.url}/pay"})
    till.until(asked)
    courier.stop()
    till.outside.calls.clear()
    till.store.owner.execute(
        "UPDATE deliveries SET status = 'pending', due_at = now(), tries = 0, token = NULL"
    )
    refund = till.store.asks("refund", "till-bank")
    till.store.accept(refund._replace(refund_of=asked[0]))
    till.drain()
    till.start()
    eventually(lambda: till.deliveries() == {"delivered": 3})

    delivered = {call.headers["webhook-id"]: call.document for call in till.outside.calls}
    mine = {name: said for name, said in delivered.items() if said["data"]["id"] == str(asked[0])}
    assert sorted(mine) == [f"msg_{asked[0].hex}_3", f"msg_{asked[0].hex}_4"]
    assert [mine[name]["type"] for name in sorted(mine)] == ["request.completed", "request.refunded"]
    assert [mine[name]["data"]["status"] for name in sorted(mine)] == ["completed", "refunded"]
    assert [mine[name]["data"]["version"] for name in sorted(mine)] == [3, 4]


def test_a_webhook_is_called_at_its_address_as_it_is_registered(till: Till) -> None:
    """
    Nothing in path and query is decoded, encoded or resolved.
    """
    targets = ["/q?sp=%2Fa%2Fb", "/q?c=%3A", "/q?t=%7E", "/q?l[]=1", "/a/../b", "/q?"]
    for target in targets:
        till.webhook(f"{till.outside.url}{target}")
    till.redeem()
    till.start()
    eventually(lambda: till.deliveries() == {"delivered": len(targets)})

    assert sorted(call.path for call in till.outside.calls) == sorted(targets)


def test_an_answer_with_a_head_that_no_parser_takes_is_an_answer(till: Till) -> None:
    """
    The receiver has the event, as its status says, so it is not sent again.
    """

    def behave(_call: Call, handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"Content-Length: 0\r\n\r\n")

    till.outside.behave = behave
    till.webhook(f"{till.outside.url}/hook")
    till.redeem()
    till.start()

    eventually(lambda: till.deliveries() == {"delivered": 1})
    assert len(till.outside.calls) == 1


def test_only_the_wanted_events_are_delivered(till: Till) -> None:
    """
    A webhook for `request.rejected` gets no other event.
    """
    till.webhook(f"{till.outside.url}/hook", events=["request.rejected"])
    till.redeem()

    assert till.deliveries() == {}


def test_while_a_secret_is_rotated_both_sign(till: Till) -> None:
    """
    Until the old one's time is over; then the new one alone.
    """
    new = b"n" * 32
    hook = till.webhook(f"{till.outside.url}/hook")
    rotate = (
        "UPDATE webhooks SET secret = %s, previous_secret = %s, previous_until = now() + %s * interval '1 second'"
        " WHERE id = %s"
    )
    till.store.owner.execute(rotate, (new, SECRET, 60, hook))
    till.redeem()
    till.start()
    eventually(lambda: till.deliveries() == {"delivered": 1})
    till.store.owner.execute(rotate, (new, SECRET, -1, hook))
    till.redeem()
    eventually(lambda: till.deliveries() == {"delivered": 2})

    during, after = till.outside.calls
    for secret in (new, SECRET):
        Webhook(signatures.written(secret)).verify(during.body, during.headers)
    Webhook(signatures.written(new)).verify(after.body, after.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(signatures.written(SECRET)).verify(after.body, after.headers)


# ---------------------------------------------------------------- tried again


def test_the_schedule_is_the_documented_one_and_every_try_says_the_same(till: Till) -> None:
    """
    5 s, 30 s, 2 min, 10 min, 1 h, 3 h, 10 h, then failed; one id and one body over all tries.
    """
    till.outside.behave = lambda _call, _handler: 500
    till.webhook(f"{till.outside.url}/hook")
    till.redeem()
    till.start()
    pauses = []
    for number in range(1, 9):
        eventually(lambda number=number: tried(till) == (number, None))  # type: ignore[misc]
        if number < 8:
            [(pause, error)] = till.store.owner.execute(
                "SELECT extract(epoch FROM due_at - clock_timestamp())::float8, last_error FROM deliveries"
            ).fetchall()
            pauses.append(pause)
            assert error == "answered 500"
            till.store.owner.execute("UPDATE deliveries SET due_at = now()")

    wanted = (5, 30, 120, 600, 3_600, 10_800, 36_000)
    assert all(want - 3 < pause <= want for pause, want in zip(pauses, wanted, strict=True)), pauses
    assert till.deliveries() == {"failed": 1}
    assert len({call.headers["webhook-id"] for call in till.outside.calls}) == 1
    assert len({call.body for call in till.outside.calls}) == 1
    assert len(till.outside.calls) == 8


def test_what_failed_can_be_resent(till: Till) -> None:
    """
    As the API does it: pending again, from the first try on.
    """
    till.outside.behave = lambda _call, _handler: 500
    till.webhook(f"{till.outside.url}/hook")
    till.redeem()
    till.store.owner.execute("UPDATE deliveries SET tries = 7")
    till.start()
    eventually(lambda: till.deliveries() == {"failed": 1})

    till.outside.behave = lambda _call, _handler: 204
    till.store.owner.execute("UPDATE deliveries SET status = 'pending', due_at = now(), tries = 0")
    eventually(lambda: till.deliveries() == {"delivered": 1})

    assert till.store.one(
        "SELECT delivered_at IS NOT NULL AND last_status = 204 AND last_error IS NULL FROM deliveries"
    )


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(till: Till, status: int) -> None:
    """
    Wherever it leads: it is not a success, and nothing is sent there.
    """
    with serving() as elsewhere:
        till.outside.behave = lambda _call, _handler: (status, {"Location": f"{elsewhere.url}/"}, b"")
        till.webhook(f"{till.outside.url}/hook")
        till.redeem()
        till.start()
        eventually(lambda: tried(till) == (1, None))

        assert till.deliveries() == {"pending": 1}
        assert elsewhere.calls == []


def test_gone_disables_the_endpoint(till: Till) -> None:
    """
    410: never called again, what waits for it fails, and the reason can be seen.
    """
    till.outside.behave = lambda _call, _handler: 410
    hook = till.webhook(f"{till.outside.url}/hook")
    till.redeem()
    till.start()
    eventually(lambda: till.deliveries() == {"failed": 1})
    [(disabled, reason)] = till.store.owner.execute(
        "SELECT disabled_at IS NOT NULL, disabled_reason FROM webhooks WHERE id = %s", (hook,)
    ).fetchall()

    assert (disabled, reason) == (True, "it answered 410 Gone")
    till.store.owner.execute("UPDATE deliveries SET status = 'pending', due_at = now(), tries = 0")
    eventually(lambda: till.deliveries() == {"failed": 1})
    assert till.store.one("SELECT last_error FROM deliveries") == "the webhook is disabled"
    assert len(till.outside.calls) == 1


def test_what_waits_for_a_deleted_webhook_fails(till: Till) -> None:
    """
    No endpoint is called.
    """
    hook = till.webhook(f"{till.outside.url}/hook")
    till.redeem()
    till.store.owner.execute("DELETE FROM webhooks WHERE id = %s", (hook,))
    till.start()

    eventually(lambda: till.deliveries() == {"failed": 1})
    assert till.outside.calls == []


def test_a_killed_couriers_deliveries_are_delivered(till: Till) -> None:
    """
    At least once, under one id.
    """
    till.webhook(f"{till.outside.url}/hook")
    till.redeem(20)
    courier = till.start_process()
    till.outside.behave = lambda _call, _handler: courier.kill()
    eventually(lambda: till.outside.calls)
    eventually(lambda: till.outside.under_way == 0)
    till.outside.behave = lambda _call, _handler: 200
    till.lapse()
    till.start()

    eventually(lambda: till.deliveries() == {"delivered": 20})
    assert len({call.headers["webhook-id"] for call in till.outside.calls}) == 20


# ---------------------------------------------------------------- fair


def test_slow_and_dead_endpoints_do_not_delay_another(till: Till) -> None:
    """
    Sixty endpoints with many deliveries never answer. Another endpoint gets all its deliveries in time.
    """
    with serving() as slow:
        slow.behave = lambda _call, _handler: slow.hang()
        for number in range(60):
            till.webhook(f"{slow.url}/{number}")
        good = till.webhook(f"{till.outside.url}/hook")
        till.redeem(100)
        all_of_it = Deadline(8.0)
        till.start()

        Deadline(5.0).until(lambda: till.deliveries(good) == {"delivered": 100})
        till.redeem(50)
        Deadline(5.0).until(lambda: till.deliveries(good) == {"delivered": 150})
        all_of_it.check()


def test_every_endpoint_has_its_turn_however_many_there_are(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    More endpoints than one look goes through.
    """
    monkeypatch.setattr(deliveries, "ENDPOINTS_PER_LOOK", 4)
    hooks = [till.webhook(f"{till.outside.url}/{number}") for number in range(11)]
    till.redeem(3)
    till.start()

    eventually(lambda: till.deliveries() == {"delivered": 33})
    assert all(till.deliveries(hook) == {"delivered": 3} for hook in hooks)


# ---------------------------------------------------------------- where it never goes


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "rebound.example"])
def test_nothing_is_sent_inside(till: Till, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Directly, or by a name that resolves to an inside address: refused when connecting, whatever it was when it was
    registered.
    """
    really = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **more: Any) -> Any:
        if host == "rebound.example":
            return really("127.0.0.1", *arguments, **more)
        return really(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with serving(tls=True) as inside:
        till.webhook(f"https://{name}:{inside.port}/hook")
        till.redeem()
        till.start(allow_private_webhooks=False)
        eventually(lambda: tried(till) == (1, None))

        is_address = not name.endswith(("host", "example"))
        refusal = "refused: the address is not public" if is_address else NOT_PUBLIC
        assert till.store.one("SELECT last_error FROM deliveries") == refusal
        assert inside.calls == []
    assert till.deliveries() == {"pending": 1}


def test_one_inside_address_of_a_name_is_enough_to_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Not even the public ones of its addresses are connected to.
    """
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (where, 443)) for where in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    with pytest.raises(AddressRefused):
        asyncio.run(webhook_client.Resolver(allow_private=False).resolve("both.example", 443))


def test_plain_http_is_refused_again_when_connecting(till: Till) -> None:
    """
    A webhook that was registered while it was allowed.
    """
    till.webhook(f"{till.outside.url}/hook")
    till.redeem()
    till.start(allow_private_webhooks=False)
    eventually(lambda: tried(till) == (1, None))

    assert "https://" in till.store.one("SELECT last_error FROM deliveries")
    assert till.outside.calls == []


def test_the_name_is_what_tls_and_the_host_header_say(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Connected to the address, called by the name; a proxy of the environment is not asked.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with serving(tls=True) as hook:
        till.webhook(f"https://localhost:{hook.port}/hook")
        till.redeem()
        till.start()
        eventually(lambda: till.deliveries() == {"delivered": 1})

        assert hook.calls[0].headers["host"] == f"localhost:{hook.port}"


def test_a_name_that_does_not_resolve_is_tried_again(till: Till) -> None:
    """
    And says so in the words for a name of our network: its client does not learn which names exist there.
    """
    till.webhook("http://nowhere.invalid/hook")
    till.redeem()
    till.start()
    eventually(lambda: tried(till) == (1, None))

    assert till.store.one("SELECT last_error FROM deliveries") == NOT_PUBLIC


def test_a_webhook_that_fails_has_one_warning_in_a_minute(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each try has a line for files, and a terminal shows one warning in that time, with the failures since the last.
    """
    till.outside.behave = lambda _call, _handler: 500
    till.webhook(f"{till.outside.url}/hook")
    till.redeem()
    warnings: list[int] = []
    with structlog.testing.capture_logs() as lines:
        till.start()
        for number in range(1, 5):
            eventually(lambda number=number: tried(till) == (number, None))  # type: ignore[misc]
            warnings.append(sum(line["event"] == "webhook_failing" for line in lines))
            if number == 3:
                monkeypatch.setattr("workers.courier.deliveries.WARN_SECONDS", 0.0)
            till.store.owner.execute("UPDATE deliveries SET due_at = now() WHERE due_at IS NOT NULL")

    assert warnings == [1, 1, 1, 2]
    shown = [line for line in lines if line["event"] == "webhook_failing"][:2]
    assert [(line["failures"], line["error"], line["log_level"]) for line in shown] == [
        (1, "answered 500", "warning"),
        (3, "answered 500", "warning"),
    ]
    assert sum(line["event"] == "webhook_not_delivered" for line in lines) >= 4


def tried(till: Till) -> tuple[int, uuid.UUID | None]:
    """How often the only delivery was tried, and whether it is being tried now."""
    [(tries, token)] = till.store.owner.execute("SELECT tries, token FROM deliveries").fetchall()
    return tries, token


def document(till: Till, asked: uuid.UUID) -> Any:
    """Return the request as the API shows it."""
    [row] = till.store.owner.execute(
        f"SELECT {documents.REQUEST_COLUMNS} FROM {documents.REQUEST_TABLES} WHERE r.id = %s",  # noqa: S608 - our own columns
        (asked,),
    ).fetchall()
    return documents.RequestRecord(*row).document()


def test_a_delivery_and_its_line_name_the_call_that_made_the_request(till: Till) -> None:
    """
    `X-Request-Id` and `traceparent` of the call, in the delivery, in the mail's line and in that of the delivery.
    """
    till.webhook(f"{till.outside.url}/hook")
    till.email("ada", "ada@example.com")
    token = correlation.bind(Correlation("order-7", TRACEPARENT))
    [asked] = till.redeem()
    correlation.reset(token)
    with structlog.testing.capture_logs() as lines:
        till.start()
        eventually(lambda: till.deliveries() == {"delivered": 2})

    [call] = till.outside.calls
    assert (call.headers["x-request-id"], call.headers["traceparent"]) == ("order-7", TRACEPARENT)
    about = [line for line in lines if line["event"] in ("webhook_delivered", "mail_sent")]
    named = {(line["event"], line["request"], line["request_id"], line["trace_id"]) for line in about}
    trace = TRACEPARENT.split("-")[1]
    assert named == {
        ("webhook_delivered", str(asked), "order-7", trace),
        ("mail_sent", str(asked), "order-7", trace),
    }
