"""
Webhooks: public addresses only, one owner each, and a secret that is shown once.
"""

from __future__ import annotations

import base64
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import redis

from api import create_app
from api.v1 import webhooks
from processor.clients.webhooks import WEBHOOKS_MAX
from processor.outbox import deliveries
from processor.outbox.tries import SendResult
from processor.storage import connections
from tests.http.teller import Client
from tests.servers import names_of
from tests.waiting import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.http.teller import Teller

PUBLIC = "8.8.8.8"
URL = f"https://{PUBLIC}/hook?token=hush"


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """
    The name service has only the names of this dictionary. Numeric addresses need no name.
    """
    addresses: dict[str, list[str]] = {"shop.example": [PUBLIC, "2606:4700::1111"]}
    ask = socket.getaddrinfo

    def answer(host: str, port: int, **options: Any) -> Any:
        if host in addresses:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in addresses[host]]
        return ask(host, port, **{**options, "flags": socket.AI_NUMERICHOST})

    monkeypatch.setattr("processor.gateways.addresses.socket.getaddrinfo", answer)
    return addresses


def register(client: Client, url: str = URL, **more: Any) -> Any:
    """Register a webhook."""
    answer = client.post("/v1/webhooks", {"url": url, **more})
    assert answer.status_code == 201, answer.json
    return answer.json


# ---------------------------------------------------------------- register, rotate, delete


def test_a_new_webhook_shows_its_secret_once(teller: Teller) -> None:
    """
    Only the answer to the registration has the secret. Later answers and the audit do not contain it.
    """
    answer = teller.client.post("/v1/webhooks", {"url": URL, "events": ["request.completed"]})

    made = answer.json
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/v1/webhooks/{made['id']}")
    assert made["secret"].startswith("whsec_")
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"), validate=True)) == 32
    assert (made["url"], made["events"], made["client"]) == (URL, ["request.completed"], teller.client.id)
    for path in (f"/v1/webhooks/{made['id']}", "/v1/webhooks"):
        answer = teller.client.get(path)
        assert answer.status_code == 200
        assert b"whsec_" not in answer.data
    secret = made.pop("secret")
    assert teller.client.get(f"/v1/webhooks/{made['id']}").json == made
    line = teller.admin.get("/v1/admin/audit?limit=1")
    assert line.json["data"][0]["action"] == "webhook_registered"
    assert line.json["data"][0]["detail"] == {
        "webhook": made["id"],
        "client": teller.client.id,
        "host": PUBLIC,
    }
    assert secret.encode() not in line.data
    assert b"hush" not in line.data


def test_a_rotation_makes_a_new_secret_and_keeps_the_old_one_for_a_day(teller: Teller) -> None:
    """
    Both secrets sign until the time that the webhook shows.
    """
    made = register(teller.client)
    before = time.time()
    rotated = teller.client.post(f"/v1/webhooks/{made['id']}/rotate")

    assert rotated.status_code == 200
    assert rotated.json["secret"].startswith("whsec_")
    assert rotated.json["secret"] != made["secret"]
    assert made["previous_secret_until"] is None
    with teller.services.connection() as connection:
        [row] = connection.execute(
            "SELECT secret, previous_secret, extract(epoch FROM previous_until)::float8 FROM webhooks"
        ).fetchall()
    assert [base64.b64encode(one).decode() for one in row[:2]] == [
        rotated.json["secret"].removeprefix("whsec_"),
        made["secret"].removeprefix("whsec_"),
    ]
    assert before + 86_399 < row[2] < time.time() + 86_401
    assert rotated.json["previous_secret_until"] is not None
    assert teller.admin.get("/v1/admin/audit?limit=1").json["data"][0]["action"] == "webhook_secret_rotated"


def test_a_deleted_webhook_is_gone(teller: Teller) -> None:
    """
    A deletion returns 204, and every later call 404. The audit has the deletion.
    """
    path = f"/v1/webhooks/{register(teller.client)['id']}"

    answer = teller.client.delete(path)

    assert (answer.status_code, answer.data) == (204, b"")
    assert teller.client.delete(path).status_code == 404
    assert teller.client.get(path).status_code == 404
    assert teller.client.get("/v1/webhooks").json["data"] == []
    assert teller.admin.get("/v1/admin/audit?limit=1").json["data"][0]["action"] == "webhook_deleted"


def test_a_client_sees_and_changes_only_its_own_webhooks(teller: Teller) -> None:
    """
    Another client gets 404 for every call. Operators read, and admins change webhooks.
    """
    made = register(teller.client)
    path = f"/v1/webhooks/{made['id']}"
    other = register(teller.other)

    for method, what in (("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("GET", "/deliveries")):
        answer = teller.other.call(method, path + what)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    assert [one["id"] for one in teller.client.get("/v1/webhooks").json["data"]] == [made["id"]]
    assert [one["id"] for one in teller.operator.get("/v1/webhooks").json["data"]] == [
        other["id"],
        made["id"],
    ]
    assert teller.operator.get(path).status_code == 200
    assert teller.operator.get(f"{path}/deliveries").status_code == 200
    for method, what in (("DELETE", ""), ("POST", "/rotate")):
        assert teller.operator.call(method, path + what).status_code == 403
    assert teller.admin.post(f"{path}/rotate").status_code == 200
    assert teller.admin.delete(path).status_code == 204
    assert teller.other.get(f"/v1/webhooks/{other['id']}").status_code == 200


def test_the_number_of_webhooks_of_a_client_is_limited(teller: Teller) -> None:
    """
    The limit holds for simultaneous registrations. A deletion makes room for one, and each client has its own limit.
    """
    together = threading.Barrier(WEBHOOKS_MAX + 5)

    def one(_: int) -> Any:
        together.wait()
        return teller.client.post("/v1/webhooks", {"url": URL})

    with ThreadPoolExecutor(WEBHOOKS_MAX + 5) as crowd:
        answers = list(crowd.map(one, range(WEBHOOKS_MAX + 5)))

    made = [one.json["id"] for one in answers if one.status_code == 201]
    refused = [(one.status_code, one.json["code"]) for one in answers if one.status_code != 201]
    assert len(made) == WEBHOOKS_MAX
    assert refused == [(409, "too_many_webhooks")] * 5
    register(teller.other)
    teller.client.delete(f"/v1/webhooks/{made[0]}")
    register(teller.client)
    assert teller.client.post("/v1/webhooks", {"url": URL}).status_code == 409


def test_webhooks_are_listed_in_pages(teller: Teller) -> None:
    """
    The list is newest first.
    """
    made = [register(teller.client)["id"] for _ in range(5)]

    found, cursor = [], ""
    while True:
        part = teller.client.get(f"/v1/webhooks?limit=2{cursor}").json
        found += [one["id"] for one in part["data"]]
        if part["next_cursor"] is None:
            break
        cursor = f"&cursor={part['next_cursor']}"

    assert found == made[::-1]


# ---------------------------------------------------------------- refused addresses


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://8.8.8.8/",
            "ftp://8.8.8.8/",
            "https:///hook",
            "https://",
            "//8.8.8.8/",
            "8.8.8.8",
            "javascript:1",
        ),
        *("https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f.1/", "https://0/"),
        *("https://localhost/", "https://LOCALHOST./", "https://a.localhost:8000/", "https://[::1]/"),
        *(
            "https://10.0.0.1/",
            "https://172.31.255.255/",
            "https://192.168.1.1:8443/x",
            "https://100.64.0.1/",
        ),
        *("https://169.254.169.254/latest/meta-data", "https://[fe80::1]/", "https://[fd00:ec2::254]/"),
        *("https://[::ffff:127.0.0.1]/", "https://[::ffff:a9fe:a9fe]/", "https://[64:ff9b::7f00:1]/"),
        *("https://224.0.0.1/", "https://255.255.255.255/", "https://192.0.2.1/", "https://[2001:db8::1]/"),
        *("https://metadata.google.internal/", "https://printer.local/", "https://inside.example/"),
        *(
            "https://both.example/",
            "https://user:password@8.8.8.8/",
            "https://8.8.8.8:0/",
            "https://8.8.8.8:99999/",
        ),
        *("https://8.8.8.8/a b", "https://8.8.8.8\\@127.0.0.1/", "https://8.8.8.8/\u202e"),
    ],
)
@pytest.mark.changes_nothing
def test_an_address_that_is_not_public_is_refused(
    teller: Teller, names: dict[str, list[str]], url: str
) -> None:
    """
    An address must be https and public, and so must all addresses of a name. Otherwise it returns 422.
    """
    names["inside.example"] = ["10.1.2.3"]
    names["both.example"] = [PUBLIC, "127.0.0.1"]
    names["localhost"] = ["127.0.0.1"]

    answer = teller.client.post("/v1/webhooks", {"url": url})

    assert (answer.status_code, answer.json["code"]) == (422, "webhook_address_refused"), answer.json
    assert teller.client.get("/v1/webhooks").json["data"] == []


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/teller",
        "https://8.8.4.4:8443/",
        "https://[2606:4700::1]/",
        "https://8.8.4.4/a/../q?sp=%2Fa%2Fb&c=%3A&t=%7E&l[]=1&",
    ],
)
def test_a_public_address_is_accepted(teller: Teller, url: str) -> None:
    """
    The address may be a name or a number, with any port.
    """
    assert register(teller.client, url)["url"] == url


def test_private_addresses_are_accepted_if_they_are_allowed(teller: Teller) -> None:
    """
    TELLER_ALLOW_PRIVATE_WEBHOOKS=1 allows http and private addresses, but no text that is no address.
    """
    application = create_app(replace(teller.settings, allow_private_webhooks=True))
    try:
        client = Client(application, teller.client.key, teller.client.id)
        assert register(client, "http://127.0.0.1:9000/hook")["url"] == "http://127.0.0.1:9000/hook"
        assert client.post("/v1/webhooks", {"url": "nonsense"}).json["code"] == "webhook_address_refused"
    finally:
        application.extensions["teller"].close()


def test_a_name_service_without_an_answer_delays_no_other_call(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The registration returns 503 with Retry-After. Few calls wait at once, and later registrations work again.
    """
    answers_again = threading.Event()
    asked = threading.Semaphore(0)

    def silent(*_: Any, **__: Any) -> Any:
        asked.release()
        answers_again.wait(TIMEOUT_SECONDS)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, 443))]

    monkeypatch.setattr("processor.gateways.addresses.socket.getaddrinfo", silent)
    monkeypatch.setattr(webhooks, "LOOKUP_SECONDS", 0.2)
    with ThreadPoolExecutor(webhooks.LOOKUPS_OF_ONE_CLIENT + 2) as crowd:
        answers = list(
            crowd.map(
                lambda _: teller.client.post("/v1/webhooks", {"url": URL}),
                range(webhooks.LOOKUPS_OF_ONE_CLIENT + 2),
            )
        )

    for answer in answers:
        assert (answer.status_code, answer.json["code"]) == (503, "name_service_silent")
        assert answer.headers["Retry-After"] == "1"
    assert sum(asked.acquire(blocking=False) for _ in answers) == webhooks.LOOKUPS_OF_ONE_CLIENT
    assert teller.client.get("/v1/webhooks").json["data"] == []
    answers_again.set()
    register(teller.client)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": ""}, "/url"),
        ({"url": 7}, "/url"),
        ({"url": "https://8.8.8.8/" + "x" * 2048}, "/url"),
        ({"url": URL, "secret": "mine"}, "/secret"),
        ({"url": URL, "events": []}, "/events"),
        ({"url": URL, "events": None}, "/events"),
        ({"url": URL, "events": "request.completed"}, "/events"),
        ({"url": URL, "events": ["request.processing"]}, "/events/0"),
        ({"url": URL, "events": ["request.completed", "request.completed"]}, "/events"),
    ],
)
@pytest.mark.changes_nothing
def test_an_invalid_webhook_is_refused(teller: Teller, body: Any, pointer: str) -> None:
    """
    An invalid webhook returns 422 with a pointer.
    """
    answer = teller.client.post("/v1/webhooks", body)

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert [one["pointer"] for one in answer.json["errors"]] == [pointer]
    assert teller.client.get("/v1/webhooks").json["data"] == []


# ---------------------------------------------------------------- deliveries


@pytest.fixture
def send(teller: Teller) -> Iterator[Callable[..., None]]:
    """Send the due deliveries of a webhook as a courier does, with a given result or none yet."""
    with connections.connect(
        teller.settings.courier_database_url, application_name="test courier"
    ) as connection:

        def claim_and_record(webhook: str, **result: Any) -> None:
            claimed = deliveries.claim_webhooks(connection, {uuid.UUID(webhook): 100}, 1.0)
            assert claimed
            if result:
                deliveries.record(connection, [SendResult(one, **result) for one in claimed])

        yield claim_and_record


def redeem(teller: Teller, count: int = 1) -> list[str]:
    """Submit redemptions and decide them. Returns their ids."""
    if teller.client.get("/v1/resources/a").status_code == 404:
        teller.open("a", available=100)
    asked = [
        teller.client.post("/v1/redemptions", {"resource": "a", "account": "u"}).json["id"]
        for _ in range(count)
    ]
    teller.drain()
    with connections.connect(
        teller.settings.courier_database_url, application_name="test courier"
    ) as courier:
        deliveries.expand(courier)
    return asked


def test_a_webhook_gets_only_events_of_its_own_client(teller: Teller) -> None:
    """
    Deliveries are newest first, in pages, for the chosen event types and the requests of the webhook's client.
    """
    all_of_them = register(teller.client)["id"]
    none_of_them = register(teller.client, events=["request.failed"])["id"]
    others = register(teller.other)["id"]
    asked = redeem(teller, 3)

    part = teller.client.get(f"/v1/webhooks/{all_of_them}/deliveries?limit=2").json
    rest = teller.client.get(f"/v1/webhooks/{all_of_them}/deliveries?cursor={part['next_cursor']}").json
    assert [one["request"] for one in part["data"] + rest["data"]] == asked[::-1]
    for one in part["data"]:
        assert (one["webhook"], one["type"], one["status"]) == (all_of_them, "request.completed", "pending")
        assert one["message"] == f"msg_{one['request'].replace('-', '')}_2"
        assert (one["tries"], one["last_status"], one["delivered_at"]) == (0, None, None)
    for client, webhook in ((teller.client, none_of_them), (teller.other, others)):
        assert client.get(f"/v1/webhooks/{webhook}/deliveries").json == {"data": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("status", "result"),
    [
        ("failed", {"is_sent": False, "http_status": 500, "error": "answered 500"}),
        ("delivered", {"is_sent": True, "http_status": 200}),
        (
            "pending",
            {"is_sent": False, "http_status": 500, "error": "answered 500", "pause_seconds": 36_000.0},
        ),
    ],
)
def test_a_delivery_can_be_resent_in_any_status(
    teller: Teller, send: Callable[..., None], status: str, result: dict[str, Any]
) -> None:
    """
    A resend returns 202. The delivery is due now with the same message and all its tries, and couriers are notified.

    The audit has the resend.
    """
    webhook = register(teller.client)["id"]
    [request] = redeem(teller)
    send(webhook, **result)
    [before] = teller.client.get(f"/v1/webhooks/{webhook}/deliveries").json["data"]
    assert (before["status"], before["tries"]) == (status, 1)
    assert before["last_status"] == result["http_status"]

    with redis.Redis.from_url(teller.settings.redis_url) as client, client.pubsub() as listener:
        listener.subscribe(names_of(teller.settings.database_url).channel("couriers"))
        assert listener.get_message(timeout=TIMEOUT_SECONDS) is not None
        answer = teller.client.post(f"/v1/deliveries/{before['id']}/resend")
        assert listener.get_message(ignore_subscribe_messages=True, timeout=TIMEOUT_SECONDS) is not None

    assert (answer.status_code, answer.json["status"], answer.json["tries"]) == (202, "pending", 0)
    assert answer.json["message"] == before["message"]
    [line] = teller.admin.get("/v1/admin/audit?limit=1").json["data"]
    assert (line["action"], line["request"]) == ("delivery_resent", request)
    send(webhook, is_sent=True, http_status=204)
    [after] = teller.client.get(f"/v1/webhooks/{webhook}/deliveries").json["data"]
    assert (after["status"], after["tries"], after["last_status"]) == ("delivered", 1, 204)
    assert after["delivered_at"] is not None


def test_a_delivery_that_is_being_sent_is_not_sent_twice(teller: Teller, send: Callable[..., None]) -> None:
    """
    A resend during a try returns 202 with the delivery unchanged.
    """
    webhook = register(teller.client)["id"]
    redeem(teller)
    send(webhook)
    [before] = teller.client.get(f"/v1/webhooks/{webhook}/deliveries").json["data"]

    answer = teller.client.post(f"/v1/deliveries/{before['id']}/resend")

    assert (answer.status_code, answer.json) == (202, before)


def test_only_its_client_and_admins_resend_a_delivery(teller: Teller, send: Callable[..., None]) -> None:
    """
    Operators get 403. A delivery of another client, a mail, a deleted webhook and an invalid number return 404. An
    admin finds the mail with its request, and sends it again.
    """
    webhook = register(teller.client)["id"]
    teller.client.put("/v1/accounts/u", {"email": "ada@example.com"})
    [request] = redeem(teller)
    send(webhook, is_sent=True, http_status=200)
    [delivery] = teller.client.get(f"/v1/webhooks/{webhook}/deliveries").json["data"]
    path = f"/v1/deliveries/{delivery['id']}/resend"
    with teller.services.connection() as connection:
        [(mail,)] = connection.execute("SELECT id FROM deliveries WHERE email IS NOT NULL").fetchall()

    assert teller.other.post(path).status_code == 404
    assert teller.operator.post(path).status_code == 403
    for number in (mail, 10**17, 10**30, "-1", "1.0", "nonsense", "%D9%A7"):
        assert teller.client.post(f"/v1/deliveries/{number}/resend").status_code == 404
    assert teller.client.get(f"/v1/webhooks/{webhook}/deliveries").json["data"] == [delivery]
    assert teller.admin.post(path).status_code == 202
    with teller.services.connection() as connection:
        connection.execute("UPDATE deliveries SET status = 'failed', due_at = NULL WHERE id = %s", (mail,))
    found = teller.operator.get(f"/v1/admin/requests/{request}").json["notifications"]
    [shown] = [one for one in found if one["email"] == "ada@example.com"]
    assert (shown["id"], shown["status"], shown["webhook"]) == (mail, "failed", None)
    answer = teller.admin.post(f"/v1/deliveries/{mail}/resend")
    assert (answer.status_code, answer.json["status"], answer.json["webhook"]) == (202, "pending", None)
    [line] = teller.admin.get("/v1/admin/audit?limit=1").json["data"]
    assert (line["action"], line["request"], line["detail"]) == (
        "delivery_resent",
        request,
        {"delivery": mail},
    )
    teller.client.delete(f"/v1/webhooks/{webhook}")
    assert teller.client.post(path).status_code == 404


def test_a_disabled_webhook_gets_no_resend(teller: Teller, send: Callable[..., None]) -> None:
    """
    A webhook that answered 410 is disabled with this reason, and a resend returns 409.
    """
    webhook = register(teller.client)["id"]
    redeem(teller)
    send(webhook, is_sent=False, http_status=410, is_gone=True)

    shown = teller.client.get(f"/v1/webhooks/{webhook}").json
    [delivery] = teller.client.get(f"/v1/webhooks/{webhook}/deliveries").json["data"]
    answer = teller.client.post(f"/v1/deliveries/{delivery['id']}/resend")

    assert shown["disabled_at"] is not None
    assert shown["disabled_reason"] == "it answered 410 Gone"
    assert (answer.status_code, answer.json["code"]) == (409, "webhook_disabled")


def test_pending_deliveries_are_counted(teller: Teller) -> None:
    """
    The metrics count pending deliveries and failed requests.
    """
    register(teller.client)
    redeem(teller, 3)
    teller.open("bank", "balance", 100, gateway="sandbox")
    teller.fail_withdrawal("bank")

    lines = teller.client.get("/metrics").data.decode().splitlines()

    assert "teller_deliveries_pending 4.0" in lines
    assert "teller_parked_requests 1.0" in lines
    assert "teller_paid_after_refund_total 0.0" in lines
    assert 'teller_gateway_breaker_open{gateway="sandbox"} 0.0' in lines


@pytest.mark.parametrize(
    "named", ["nonsense", "019aa9c2f1c47d2a8b3e5f60718293a4", "019aa9c2-f1c4-7d2a-8b3e-5f60718293a4"]
)
def test_an_unknown_webhook_is_not_found(teller: Teller, named: str) -> None:
    """
    An unknown id, or text that is no id, returns 404.
    """
    for method, what in (("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("GET", "/deliveries")):
        assert teller.admin.call(method, f"/v1/webhooks/{named}{what}").status_code == 404
