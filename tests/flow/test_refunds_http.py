"""
Payouts over HTTP: scenarios 12 to 16 and 30. API, worker and courier run as processes, with the sandbox and a bank
whose behaviour the test sets.
"""

from __future__ import annotations

import email
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.flow.courier.outside import Call, Handler, says, serving
from tests.flow.payments import GATEWAY_TRIES, Payments
from tests.stack import TELLER, Client, at_once
from tests.waiting import TIMEOUT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.settings import Settings
    from tests.servers import Clones


class Bank:
    """A gateway that pays once for each key, and remembers it."""

    def __init__(self) -> None:
        self.payouts: list[str] = []
        self._lock = threading.Lock()

    def pay(self, call: Call) -> Any:
        """As a good gateway does."""
        with self._lock:
            if call.key not in self.payouts:
                self.payouts.append(call.key)
        return says(200, reference=f"T-{call.key[:8]}")

    def calls_for(self, stack: Payments, request: str) -> int:
        """How often it was asked."""
        return sum(call.headers.get("idempotency-key") == request for call in stack.outside.calls)


@pytest.fixture(scope="module")
def stack(
    servers: Settings, clones: Callable[[str], Clones], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Payments]:
    """
    One for all tests of this module. At the end the ledger must be right.
    """
    with (
        clones("embedded").clone() as database,
        serving() as outside,
        Payments(servers, database, outside, tmp_path_factory.mktemp("payments")) as running,
    ):
        running.begin()
        yield running
        running.stop()
        running.check_ledger()


@pytest.fixture
def bank(stack: Payments) -> Bank:
    """
    A bank that pays, until the test says otherwise.
    """
    made = Bank()
    stack.outside.behave = lambda call, _handler: made.pay(call)
    return made


# ---------------------------------------------------------------- the sandbox


def test_a_payout_is_made_once_and_has_its_reference(stack: Payments) -> None:
    """
    Held, called, captured, completed with the gateway's reference.
    """
    resource = stack.open("sandbox")
    asked = stack.withdraw(resource)

    document = stack.until(asked, "completed")

    assert document["result"] == {"reference": f"sandbox-{asked}"}
    assert stack.quantities(resource) == (70, 0)
    assert stack.entries(asked) == [("hold", 30), ("capture", 30)]
    assert stack.sandbox(asked) == ([200], 1)


def test_a_flaky_gateway_is_asked_again_and_pays_once(stack: Payments) -> None:
    """
    503, 503, 200, with the same key.
    """
    asked = stack.withdraw(stack.open("sandbox"), "flaky")

    assert stack.until(asked, "completed")["error"] is None
    assert stack.sandbox(asked) == ([503, 503, 200], 1)
    attempts = stack.admin.get(f"/v1/admin/requests/{asked}")["attempts"]
    assert [(one["status"], one["outcome"]) for one in attempts] == [
        (503, "unknown"),
        (503, "unknown"),
        (200, "done"),
    ]


def test_12_a_declined_withdrawal_is_refunded_and_notified_as_one_event(stack: Payments) -> None:
    """
    Refunded with the gateway's reason, the balance as before; one webhook delivery that verifies, and one mail, both
    of the same event.
    """
    resource = stack.open("sandbox")
    stack.client.put("/v1/accounts/grace", {"email": "grace@example.com"})
    with serving() as shop:
        registered = stack.client.post("/v1/webhooks", {"url": f"{shop.url}/hook"}, 201)
        asked = stack.withdraw(resource, "decline", account="grace")
        document = stack.until(asked, "refunded")
        eventually(lambda: shop.calls and mails(stack, "grace@example.com"))
        path = f"/v1/webhooks/{registered['id']}"
        eventually(lambda: stack.client.get(f"{path}/deliveries")["data"][0]["status"] == "delivered")
        assert stack.client.http.delete(path).status_code == 204

    assert (document["error"]["code"], document["refunded"]) == ("gateway_declined", 30)
    assert document["error"]["reason"]
    assert stack.quantities(resource) == (100, 0)
    assert stack.entries(asked) == [("hold", 30), ("release", 30)]
    assert stack.sandbox(asked) == ([422], 0)
    [call] = shop.calls
    [mail] = mails(stack, "grace@example.com")
    event = Webhook(registered["secret"]).verify(call.body, call.headers)
    assert (event["type"], event["data"]) == ("request.refunded", document)
    assert mail["Message-ID"].strip("<>").partition("@")[0] == call.headers["webhook-id"]


def test_13_a_gateway_that_paid_too_late_is_not_refunded_and_not_paid_twice(stack: Payments) -> None:
    """
    `slow` pays, and the courier gives up before the answer. There is one payout, and the request fails, still held.
    """
    resource = stack.open("sandbox")
    asked = stack.withdraw(resource, "slow")

    assert stack.until(asked, "failed")["error"]["code"] == "gateway_unreachable"
    assert stack.sandbox(asked) == ([200] * GATEWAY_TRIES, 1)
    assert stack.quantities(resource) == (70, 30)


# ---------------------------------------------------------------- the bank


def test_13_a_lost_answer_is_one_payout(stack: Payments, bank: Bank) -> None:
    """
    The bank pays and hangs up before its answer. A second call with the same key completes it, with one payout.
    """

    def pays_and_hangs_up_once(call: Call, handler: Handler) -> Any:
        is_first = call.key not in bank.payouts
        answer = bank.pay(call)
        if not is_first:
            return answer
        handler.close_connection = True
        handler.connection.close()
        return None

    stack.outside.behave = pays_and_hangs_up_once
    resource = stack.open("bank")
    asked = stack.withdraw(resource)

    document = stack.until(asked, "completed")

    assert document["result"] == {"reference": f"T-{asked[:8]}"}
    assert bank.payouts == [asked]
    assert bank.calls_for(stack, asked) == 2
    assert stack.entries(asked) == [("hold", 30), ("capture", 30)]
    assert stack.quantities(resource) == (70, 0)


def test_14_who_never_answers_is_asked_again_when_an_admin_says_so(stack: Payments, bank: Bank) -> None:
    """
    It fails, still held, and is listed with its attempts. A dry run counts it, and a replay pays it later.
    """
    over = threading.Event()
    stack.outside.behave = lambda _call, _handler: over.wait(TIMEOUT_SECONDS) and None
    resource = stack.open("bank")
    asked = stack.withdraw(resource)
    document = stack.until(asked, "failed")
    over.set()
    assert (document["error"]["code"], document["finished_at"]) == ("gateway_unreachable", None)
    assert stack.quantities(resource) == (70, 30)
    assert [one["id"] for one in stack.admin.get(f"/v1/admin/failed?resource={resource}")["data"]] == [asked]
    shown = stack.admin.get(f"/v1/admin/requests/{asked}")
    assert [one["outcome"] for one in shown["attempts"]] == ["unknown"] * GATEWAY_TRIES
    assert b"teller_parked_requests" in stack.admin.http.get("/metrics").content

    stack.outside.behave = lambda call, _handler: bank.pay(call)
    which = {"resource": resource, "code": "gateway_unreachable", "reason": "the bank is back"}
    assert stack.admin.post("/v1/admin/replay", {**which, "dry_run": True}, 200) == {
        "matched": 1,
        "replayed": 0,
    }
    assert stack.admin.post("/v1/admin/replay", which, 200) == {"matched": 1, "replayed": 1}

    assert stack.until(asked, "completed")["id"] == asked
    assert bank.payouts == [asked]
    assert stack.entries(asked) == [("hold", 30), ("capture", 30)]
    assert stack.quantities(resource) == (70, 0)
    lines = stack.admin.get("/v1/admin/audit")["data"]
    assert [(one["action"], one["reason"]) for one in lines if one["request"] == asked] == [
        ("replay", "the bank is back")
    ]


@pytest.mark.parametrize("replayed", [False, True], ids=["first", "replayed"])
def test_15_nothing_is_refunded_while_a_call_is_in_flight(
    stack: Payments, bank: Bank, replayed: bool
) -> None:
    """
    Neither while it is tried at first nor during a replay; the answer decides.
    """
    answers = threading.Event()

    def thinks(call: Call, _handler: Handler) -> Any:
        return bank.pay(call) if answers.wait(TIMEOUT_SECONDS) else 503

    resource = stack.open("bank")
    asked = ""
    if replayed:
        stack.outside.behave = lambda _call, _handler: 503
        asked = stack.withdraw(resource)
        stack.until(asked, "failed")
    with stack.slow_courier():
        stack.outside.behave = thinks
        before = bank.calls_for(stack, asked)
        if replayed:
            stack.admin.post(f"/v1/admin/requests/{asked}/replay", {"reason": "it may be back"}, 202)
        else:
            asked = stack.withdraw(resource)
        eventually(lambda: bank.calls_for(stack, asked) > before)

        refund = stack.refund(asked)

        assert (refund["status"], refund["error"]["code"]) == ("rejected", "outcome_pending")
        assert stack.client.get(f"/v1/requests/{asked}")["status"] == "processing"
        assert stack.quantities(resource) == (70, 30)
        answers.set()
        assert stack.until(asked, "completed")["refunded"] == 0
    assert bank.payouts == [asked]
    assert stack.entries(asked) == [("hold", 30), ("capture", 30)]


def test_15_a_late_yes_after_the_release_is_an_alert_and_never_an_entry(stack: Payments, bank: Bank) -> None:
    """
    One courier is suspended while the bank pays. Another one gets 503 until it gives up, and an admin refunds. Then
    the first one reads the success. It is in the history, the metrics and the worker's log, and not in the ledger.
    """
    resource = stack.open("bank")
    with stack.slow_courier() as slow:

        def pays_while_nobody_listens(call: Call, _handler: Handler) -> Any:
            slow.suspend()
            return bank.pay(call)

        stack.outside.behave = pays_while_nobody_listens
        asked = stack.withdraw(resource)
        eventually(lambda: asked in bank.payouts and stack.outside.under_way == 0)
        stack.outside.behave = lambda _call, _handler: 503
        stack.expire_lease(asked)
        stack.courier.resume()
        stack.until(asked, "failed")
        assert stack.refund(asked, "the customer waits")["status"] == "completed"
        assert stack.until(asked, "refunded")["error"]["code"] == "refunded_by_admin"
        entries = stack.admin.get(f"/v1/resources/{resource}/entries")

        slow.resume()
        eventually(lambda: details(stack, asked)[-1] == "paid_after_refund")

    assert details(stack, asked).count("paid_after_refund") == 1
    assert stack.admin.get(f"/v1/resources/{resource}/entries") == entries
    assert [one["kind"] for one in entries["data"]] == ["release", "hold", "credit"]
    assert stack.quantities(resource) == (100, 0)
    assert stack.client.get(f"/v1/requests/{asked}")["result"] == {"reference": f"T-{asked[:8]}"}
    [alert] = stack.worker.events("paid_after_refund")
    [accepted] = [line for line in stack.api.events("http_request") if line.get("request") == asked][:1]
    assert (alert["request"], alert["request_id"]) == (asked, accepted["request_id"])
    eventually(lambda: b"teller_paid_after_refund_total 1.0" in stack.admin.http.get("/metrics").content)


@pytest.mark.parametrize("failed", [False, True], ids=["completed", "failed"])
def test_16_two_admins_refund_the_same_request_twenty_times_each(
    stack: Payments, bank: Bank, failed: bool
) -> None:
    """
    All at the same instant, each with a key of its own. One refund completes, and each call gets its own result.
    """
    if failed:
        stack.outside.behave = lambda _call, _handler: 503
    resource = stack.open("bank")
    asked = stack.withdraw(resource)
    stack.until(asked, "failed" if failed else "completed")

    def refund(admin: Client, _: int) -> Any:
        return admin.post(f"/v1/admin/requests/{asked}/refund", {"reason": "twice"}, 200, wait=20)

    refunds = at_once(40, refund, [stack.admin, stack.colleague])

    outcomes = [one["error"]["code"] if one["error"] else one["status"] for one in refunds]
    assert sorted(outcomes) == ["completed"] + ["nothing_to_refund"] * 39
    assert len({one["id"] for one in refunds}) == 40
    assert stack.quantities(resource) == (100, 0)
    document = stack.until(asked, "refunded")
    assert (document["refunded"], document["error"]["code"]) == (30, "refunded_by_admin")
    kinds = [one["kind"] for one in stack.admin.get(f"/v1/resources/{resource}/entries")["data"]]
    assert kinds == [*(["release"] if failed else ["credit", "capture"]), "hold", "credit"]
    audited = [one for one in stack.admin.get("/v1/admin/audit?limit=100")["data"] if one["request"] == asked]
    assert len(audited) == 40
    assert {one["actor"].partition(" ")[0] for one in audited} == {
        stack.admin.key.client,
        stack.colleague.key.client,
    }


def test_16_one_key_is_one_refund(stack: Payments, bank: Bank) -> None:
    """
    Forty times the same at the same instant: one request, and all get the same answer.
    """
    resource = stack.open("bank")
    asked = stack.withdraw(resource)
    stack.until(asked, "completed")
    body = {"reason": "half of it", "amount": 15}

    def refund(admin: Client, _: int) -> Any:
        path = f"/v1/admin/requests/{asked}/refund"
        return admin.post(path, body, 200, key=f"half-{asked}", wait=20)

    refunds = at_once(40, refund, [stack.admin])

    assert all(one == refunds[0] for one in refunds)
    assert (refunds[0]["status"], refunds[0]["refund_of"]) == ("completed", asked)
    assert stack.quantities(resource) == (85, 0)
    document = stack.until(asked, "completed")
    assert document["refunded"] == 15


def test_27_another_client_sees_neither_request_nor_webhook(stack: Payments) -> None:
    """
    Each of them is 404 for it.
    """
    asked = stack.withdraw(stack.open("sandbox"))
    webhook = stack.client.post(
        "/v1/webhooks", {"url": f"{stack.outside.url}/x", "events": ["request.failed"]}, 201
    )

    for path in (
        f"/v1/requests/{asked}",
        f"/v1/requests/{asked}/events",
        f"/v1/requests/{asked}/entries",
        f"/v1/webhooks/{webhook['id']}",
        f"/v1/webhooks/{webhook['id']}/deliveries",
    ):
        assert stack.other.get(path, 404)["code"] == "not_found"
    assert stack.other.get("/v1/webhooks")["data"] == []
    assert stack.client.http.delete(f"/v1/webhooks/{webhook['id']}").status_code == 204


def test_30_a_webhook_to_an_inside_address_is_refused(stack: Payments) -> None:
    """
    By an API that does not allow them: directly, by a name that leads inside, and anything but https.
    """
    strict = stack.start_api(TELLER_ALLOW_PRIVATE_WEBHOOKS="")
    try:
        client = stack.new_client("client", url=f"http://127.0.0.1:{stack.ports.pop()}")
        for url in (
            stack.outside.url,
            f"https://127.0.0.1:{stack.outside.port}/",
            f"https://localhost:{stack.outside.port}/",
            "https://[::1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://10.0.0.1/",
            "http://8.8.8.8/",
        ):
            assert client.post("/v1/webhooks", {"url": url}, 422)["code"] == "webhook_address_refused"
        assert client.get("/v1/webhooks")["data"] == []
    finally:
        strict.stop()


def details(stack: Payments, request: str) -> list[str]:
    """
    Return the details of the history of a request, oldest first.
    """
    return [one["detail"] for one in stack.client.get(f"/v1/requests/{request}/events")["data"]]


def mails(stack: Payments, address: str) -> list[Any]:
    """
    Return the mails to an address.
    """
    found = [email.message_from_bytes(path.read_bytes()) for path in (stack.home / "outbox").glob("*.eml")]
    return [one for one in found if one["To"] == address]


# ---------------------------------------------------------------- a race against Teller


def test_a_race_at_a_url_follows_tellers_202_to_its_decisions(stack: Payments) -> None:
    """
    Twenty users want one piece, and each answer is 202. One of them is completed, and the others are sold out.
    """
    stack.admin.post("/v1/resources", {"id": "raced", "kind": "stock", "available": 1}, 200, wait=20)
    key = stack.new_client("client").key.key
    words = [
        *("race", "--json", "--users", "20", "--url", f"{stack.url}/v1/redemptions"),
        *("--header", f"Authorization: Bearer {key}", "--header", "Idempotency-Key: {uuid}"),
        *("--body", '{"resource": "raced", "account": "u{n}"}', "--expect", "1"),
    ]

    ran = subprocess.run(
        [sys.executable, *TELLER, *words], check=False, capture_output=True, text=True, env=stack.environment
    )

    document = json.loads(ran.stdout)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert document["verdict"] == "no race: 1 of 20 succeeded, 1 was expected at the most"
    assert [(one["status"], one["followed_status"]) for one in document["results"]] == [(202, 200)] * 20
    [won] = [
        json.loads(one["body"].partition(",")[0] + "}") for one in document["results"] if one["succeeded"]
    ]
    assert stack.admin.get(f"/v1/requests/{won['id']}")["status"] == "completed"
