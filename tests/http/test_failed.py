"""
Failed requests in the admin API: list, show, replay, refund.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from processor.clients import webhooks
from processor.domain.kinds import KINDS
from processor.gateways.protocol import Answer
from processor.outbox import deliveries
from processor.storage import connections
from workers.courier.request_mails import mail_for

if TYPE_CHECKING:
    from tests.http.teller import Teller

YES = Answer("done", 200, reference="T-1")
UNKNOWN = Answer("unknown", 503, reason="answered 503")
REASON = {"reason": "the bank is back"}


@pytest.fixture
def bank(teller: Teller) -> Teller:
    """Open a balance of 100 with a gateway."""
    teller.open("bank", "balance", 100, gateway="sandbox")
    return teller


def audit(teller: Teller) -> list[tuple[str, str, str | None, str | None]]:
    """Return actor, action, reason and request of the audit, newest first, without the creation of keys."""
    lines = teller.admin.get("/v1/admin/audit?limit=100").json["data"]
    return [
        (line["actor"], line["action"], line["reason"], line["request"])
        for line in lines
        if line["action"] != "key_created"
    ]


# ---------------------------------------------------------------- list and show


def test_failed_requests_are_listed_by_code_and_resource(teller: Teller) -> None:
    """
    The list has the failed requests of all clients, newest first, in pages, and no other requests.
    """
    teller.open("a", "balance", 100, gateway="sandbox")
    teller.open("b", "balance", 100, gateway="sandbox")
    first = teller.fail_withdrawal("a")
    second = teller.fail_withdrawal("b")
    third = teller.fail_withdrawal("a", outcome="misconfigured")
    teller.withdraw("a")

    def listed(query: str) -> list[str]:
        answer = teller.operator.get(f"/v1/admin/failed{query}")
        assert answer.status_code == 200, answer.json
        assert {one["status"] for one in answer.json["data"]} <= {"failed"}
        return [one["id"] for one in answer.json["data"]]

    assert listed("") == [third, second, first]
    assert listed("?code=gateway_unreachable") == [second, first]
    assert listed("?code=gateway_misconfigured") == [third]
    assert listed("?resource=a") == [third, first]
    assert listed("?code=gateway_unreachable&resource=a") == [first]
    assert listed("?code=processor_error") == listed("?resource=c") == []
    part = teller.operator.get("/v1/admin/failed?limit=2").json
    rest = teller.operator.get(f"/v1/admin/failed?limit=2&cursor={part['next_cursor']}").json
    assert [one["id"] for one in part["data"] + rest["data"]] == [third, second, first]
    assert rest["next_cursor"] is None


def test_the_calls_of_the_gateway_are_shown(bank: Teller) -> None:
    """
    Each call is shown with its times, its answer and its outcome, oldest first.
    """
    asked = bank.withdraw("bank")
    bank.call_gateway(UNKNOWN, Answer("unknown", error="no route to host"))

    shown = bank.operator.get(f"/v1/admin/requests/{asked}").json

    assert (shown["id"], shown["status"], shown["trace"]) == (asked, "failed", None)
    assert shown["error"]["code"] == "gateway_unreachable"
    assert [(one["status"], one["outcome"], one["error"]) for one in shown["attempts"]] == [
        (503, "unknown", None),
        (None, "unknown", "no route to host"),
    ]
    for one in shown["attempts"]:
        assert one["started_at"] <= one["ended_at"]


def test_operators_see_the_traceback_of_a_processor_error(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Operators see the traceback. The client sees only the code.
    """

    def fail(*_: Any) -> NoReturn:
        raise ZeroDivisionError("the poison")

    teller.open("a")
    with monkeypatch.context() as patched:
        patched.setitem(KINDS, "redemption", replace(KINDS["redemption"], rule=fail))
        asked = teller.client.post("/v1/redemptions", {"resource": "a", "account": "u"}).json["id"]
        teller.drain()

    shown = teller.operator.get(f"/v1/admin/requests/{asked}").json
    assert "ZeroDivisionError: the poison" in shown["trace"]
    assert shown["attempts"] == []
    for path in (f"/v1/requests/{asked}", f"/v1/requests/{asked}/events"):
        answer = teller.client.get(path)
        assert answer.status_code == 200
        assert b"poison" not in answer.data
    assert teller.status(asked) == "processor_error"


# ---------------------------------------------------------------- replay


def test_a_replayed_request_is_processed_like_a_new_one(bank: Teller) -> None:
    """
    A replay returns 202. The gateway is called again with the same key and pays once.

    The audit has the operator and the reason.
    """
    asked = bank.fail_withdrawal("bank", 30)
    assert bank.quantities("bank") == (70, 30)

    answer = bank.operator.post(f"/v1/admin/requests/{asked}/replay", REASON)
    assert (answer.status_code, answer.json["id"], answer.json["status"]) == (202, asked, "failed")
    assert answer.headers["Location"] == f"/v1/requests/{asked}"
    bank.drain()
    assert bank.status(asked) == "processing"
    bank.call_gateway(YES)

    assert bank.status(asked) == "completed"
    assert bank.quantities("bank") == (70, 0)
    events = bank.client.get(f"/v1/requests/{asked}/events").json["data"]
    assert [one["status"] for one in events] == [
        *("processing", "processing", "failed", "processing", "completed")
    ]
    [(actor, action, reason, request)] = audit(bank)
    assert (action, reason, request) == ("replay", "the bank is back", asked)
    assert bank.operator.id in actor


def test_simultaneous_replays_are_one_replay(bank: Teller) -> None:
    """
    Twenty simultaneous replays all return 202. One takes effect, and one is in the audit.
    """
    asked = bank.fail_withdrawal("bank")
    together = threading.Barrier(20)

    def replay(_: int) -> int:
        together.wait()
        return bank.admin.post(f"/v1/admin/requests/{asked}/replay", REASON).status_code

    with ThreadPoolExecutor(20) as crowd:
        assert list(crowd.map(replay, range(20))) == [202] * 20
    bank.drain()

    events = bank.admin.get(f"/v1/requests/{asked}/events").json["data"]
    assert [one["status"] for one in events].count("processing") == 3
    assert len(audit(bank)) == 1


@pytest.mark.parametrize("state", ["queued", "held", "completed", "rejected"])
def test_a_request_that_did_not_fail_is_not_replayed(bank: Teller, state: str) -> None:
    """
    A replay of such a request returns 409 and changes nothing.
    """
    body = {"resource": "bank", "account": "u", "amount": 500 if state == "rejected" else 10}
    asked = bank.client.post("/v1/withdrawals", body).json["id"]
    if state != "queued":
        bank.drain()
    if state == "completed":
        bank.call_gateway(YES)
    before = bank.admin.get(f"/v1/requests/{asked}").json

    answer = bank.admin.post(f"/v1/admin/requests/{asked}/replay", REASON)

    assert (answer.status_code, answer.json["code"]) == (409, "not_failed")
    assert bank.admin.get(f"/v1/requests/{asked}").json == before
    assert audit(bank) == []


def test_all_matching_requests_are_replayed_in_order(teller: Teller) -> None:
    """
    A dry run only counts. A second replay of the same requests replays none, and other requests stay as they are.
    """
    teller.open("a", "balance", 100, gateway="sandbox")
    teller.open("b", "balance", 100, gateway="sandbox")
    asked = [teller.fail_withdrawal("a") for _ in range(3)]
    elsewhere = teller.fail_withdrawal("b")
    wrong = teller.fail_withdrawal("a", outcome="misconfigured")
    which = {"code": "gateway_unreachable", "resource": "a", **REASON}

    tried = teller.operator.post("/v1/admin/replay", {**which, "dry_run": True})
    assert (tried.status_code, tried.json) == (200, {"matched": 3, "replayed": 0})
    assert audit(teller) == []
    assert teller.operator.post("/v1/admin/replay", which).json == {"matched": 3, "replayed": 3}
    assert teller.operator.post("/v1/admin/replay", which).json == {"matched": 3, "replayed": 0}
    teller.drain()
    assert teller.operator.post("/v1/admin/replay", which).json == {"matched": 0, "replayed": 0}
    teller.call_gateway(YES)

    assert [teller.status(one) for one in asked] == ["completed"] * 3
    assert teller.status(elsewhere) == "gateway_unreachable"
    assert teller.status(wrong) == "gateway_misconfigured"
    assert sorted(request or "" for *_, request in audit(teller)) == sorted(asked)
    ends = [teller.admin.get(f"/v1/requests/{one}").json["finished_at"] for one in asked]
    assert ends == sorted(ends)
    assert teller.operator.post("/v1/admin/replay", REASON).json == {"matched": 2, "replayed": 2}


# ---------------------------------------------------------------- refund


@pytest.mark.parametrize(
    ("state", "amounts", "outcomes", "status", "back", "left"),
    [
        ("failed", [None], ["completed"], "refunded_by_admin", 30, (100, 0)),
        ("failed", [30], ["completed"], "refunded_by_admin", 30, (100, 0)),
        ("failed", [None, None], ["completed", "nothing_to_refund"], "refunded_by_admin", 30, (100, 0)),
        ("failed", [10], ["outcome_pending"], "gateway_unreachable", 0, (70, 30)),
        ("failed", [31], ["refund_too_large"], "gateway_unreachable", 0, (70, 30)),
        ("held", [None], ["outcome_pending"], "processing", 0, (70, 30)),
        ("completed", [None], ["completed"], "refunded_by_admin", 30, (100, 0)),
        ("completed", [10, 20], ["completed", "completed"], "refunded_by_admin", 30, (100, 0)),
        ("completed", [10, 21], ["completed", "refund_too_large"], "completed", 10, (80, 0)),
        (
            "completed",
            [10, None, 1],
            ["completed", "completed", "nothing_to_refund"],
            "refunded_by_admin",
            30,
            (100, 0),
        ),
        ("declined", [None], ["nothing_to_refund"], "gateway_declined", 30, (100, 0)),
        ("rejected", [None], ["nothing_to_refund"], "insufficient_funds", 0, (100, 0)),
    ],
)
def test_refunds_never_exceed_the_amount_taken(
    bank: Teller,
    state: str,
    amounts: list[int | None],
    outcomes: list[str],
    status: str,
    back: int,
    left: tuple[int, int],
) -> None:
    """
    A refund returns the hold of a failed request, or the debit of a completed one, in whole or in parts.
    """
    asked = bank.withdraw("bank", 500 if state == "rejected" else 30)
    answer = {"failed": UNKNOWN, "completed": YES, "declined": Answer("declined", 422, reason="no")}.get(
        state
    )
    if answer is not None:
        bank.call_gateway(answer)

    refunds = []
    for amount in amounts:
        body = {"reason": "a mistake"} | ({} if amount is None else {"amount": amount})
        made = bank.admin.post(f"/v1/admin/requests/{asked}/refund", body)
        assert (made.status_code, made.json["kind"]) == (202, "refund"), made.json
        assert (made.json["refund_of"], made.json["amount"]) == (asked, amount)
        bank.drain()
        refunds.append(made.json["id"])

    assert [bank.status(one) for one in refunds] == outcomes
    assert bank.status(asked) == status
    assert bank.quantities("bank") == left
    assert bank.client.get(f"/v1/requests/{asked}").json["refunded"] == back


def test_a_refund_of_a_part_is_notified_and_leaves_the_time_of_completion(bank: Teller) -> None:
    """
    Client and account hear of each part with the sum so far. `finished_at` stays, and the credits are entries of the
    request, with the ids of the refunds.
    """
    bank.client.put("/v1/accounts/u", {"email": "ada@example.com"})
    with connections.connect(bank.settings.database_url, application_name="test") as owner:
        hook, _ = webhooks.register(owner, bank.client.id, "https://shop.example/", None, "test")
    asked = bank.withdraw("bank", 30)
    bank.call_gateway(YES)
    path = f"/v1/requests/{asked}"
    before = bank.client.get(path).json
    refunds = []
    for amount in (10, 5, None):
        body = {"reason": "a mistake"} | ({} if amount is None else {"amount": amount})
        refunds.append(bank.admin.post(f"/v1/admin/requests/{asked}/refund", body).json["id"])
        bank.drain()
        if amount is not None:
            seen = bank.client.get(path).json
            assert (seen["status"], seen["finished_at"]) == ("completed", before["finished_at"])
    after = bank.client.get(path).json

    assert (after["status"], after["refunded"]) == ("refunded", 30)
    assert after["finished_at"] > before["finished_at"]
    entries = bank.client.get(f"{path}/entries?limit=3").json
    entries["data"] += bank.client.get(f"{path}/entries?cursor={entries['next_cursor']}").json["data"]
    assert [(one["kind"], one["amount"], one["request"]) for one in reversed(entries["data"])] == [
        ("hold", 30, asked),
        ("capture", 30, asked),
        ("credit", 10, refunds[0]),
        ("credit", 5, refunds[1]),
        ("credit", 15, refunds[2]),
    ]
    expected = [
        ("request.completed", 0),
        ("request.partially_refunded", 10),
        ("request.partially_refunded", 15),
        ("request.refunded", 30),
    ]
    with connections.connect(bank.settings.courier_database_url, application_name="test courier") as courier:
        deliveries.expand(courier)
        bodies = [json.loads(one.body()) for one in deliveries.claim_webhooks(courier, {hook.id: 9}, 1.0)]
        claimed = deliveries.claim_mails(courier, bank.client.id, 9, 1.0, 9)
    assert [(one["type"], one["data"]["refunded"]) for one in bodies] == expected
    assert [one["data"]["finished_at"] for one in bodies[:3]] == [before["finished_at"]] * 3
    assert bodies[1]["timestamp"] > bodies[1]["data"]["finished_at"]
    assert [(one.request.event, one.request.refunded) for one in claimed] == expected
    mails = [mail_for(one, "teller@example.com") for one in claimed]
    assert "was given back in part" in str(mails[1]["Subject"])
    assert "Refunded:  15 in all" in mails[2].get_content()


def test_one_key_refunds_once_and_is_in_the_audit_once(bank: Teller) -> None:
    """
    The same key and body are the same refund. The key is refused for another body or request.
    """
    asked, other = bank.withdraw("bank"), bank.withdraw("bank")
    bank.call_gateway(YES)
    path = f"/v1/admin/requests/{asked}/refund"
    body = {"reason": "a mistake", "amount": 4}
    first = bank.admin.post(path, body, key="k")
    again = bank.admin.post(path, body, key="k")
    bank.drain()
    final = bank.admin.post(path, body, key="k")

    assert [one.status_code for one in (first, again, final)] == [202, 202, 200]
    assert {one.json["id"] for one in (first, again, final)} == {first.json["id"]}
    assert final.headers["Idempotency-Replayed"] == "true"
    for elsewhere, changed in (
        (path, {**body, "amount": 5}),
        (path, {"reason": "a mistake"}),
        (f"/v1/admin/requests/{other}/refund", body),
    ):
        refused = bank.admin.post(elsewhere, changed, key="k")
        assert (refused.status_code, refused.json["code"]) == (422, "idempotency_key_reused")
    [(actor, action, reason, request)] = audit(bank)
    assert (action, reason, request) == ("refund", "a mistake", asked)
    assert bank.admin.id in actor
    assert bank.client.get(f"/v1/requests/{asked}").json["refunded"] == 4


def test_a_payout_after_a_refund_is_an_alert_without_an_entry(bank: Teller) -> None:
    """
    Events, metrics and result report the payout. The ledger does not change.
    """
    asked = bank.withdraw("bank")
    with bank.stopped_courier() as late:
        bank.call_gateway(UNKNOWN)
        bank.admin.post(f"/v1/admin/requests/{asked}/refund", REASON)
        bank.drain()
        entries = bank.admin.get("/v1/resources/bank/entries").json
        late(Answer("done", 200, reference="late"))
    bank.drain()

    assert bank.admin.get("/v1/resources/bank/entries").json == entries
    assert bank.quantities("bank") == (100, 0)
    answer = bank.client.get(f"/v1/requests/{asked}").json
    assert (answer["status"], answer["error"]["code"]) == ("refunded", "refunded_by_admin")
    assert answer["result"] == {"reference": "late"}
    events = bank.client.get(f"/v1/requests/{asked}/events").json["data"]
    assert [one["detail"] for one in events].count("paid_after_refund") == 1
    assert events[-1]["detail"] == "paid_after_refund"
    assert b"teller_paid_after_refund_total 1.0" in bank.admin.get("/metrics").data


def test_an_unknown_request_is_not_found(teller: Teller) -> None:
    """
    An unknown id, or text that is no id, returns 404 and leaves no audit line.
    """
    for named in ("019aa9c2-f1c4-7d2a-8b3e-5f60718293a4", "nonsense"):
        path = f"/v1/admin/requests/{named}"
        assert teller.admin.get(path).status_code == 404
        assert teller.admin.post(f"{path}/replay", REASON).status_code == 404
        assert teller.admin.post(f"{path}/refund", REASON).status_code == 404
    assert audit(teller) == []


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("requests/{id}/replay", {}, "/reason"),
        ("requests/{id}/replay", {"reason": ""}, "/reason"),
        ("requests/{id}/replay", {"reason": 7}, "/reason"),
        ("requests/{id}/replay", {"reason": "x", "why": "y"}, "/why"),
        ("requests/{id}/refund", {"amount": 1}, "/reason"),
        ("requests/{id}/refund", {"reason": "x", "amount": 0}, "/amount"),
        ("requests/{id}/refund", {"reason": "x", "amount": 1.0}, "/amount"),
        ("requests/{id}/refund", {"reason": "x", "amount": None}, "/amount"),
        ("requests/{id}/refund", {"reason": "x", "amount": 2**53}, "/amount"),
        ("replay", {}, "/reason"),
        ("replay", {"reason": "x" * 1025}, "/reason"),
        ("replay", {"reason": "x", "dry_run": "yes"}, "/dry_run"),
        ("replay", {"reason": "x", "dry_run": 1}, "/dry_run"),
        ("replay", {"reason": "x", "code": "No Such"}, "/code"),
        ("replay", {"reason": "x", "code": None}, "/code"),
        ("replay", {"reason": "x", "resource": "a b"}, "/resource"),
    ],
)
def test_an_invalid_body_is_refused_and_changes_nothing(
    bank: Teller, path: str, body: dict[str, Any], pointer: str
) -> None:
    """
    An invalid body returns 422 with a pointer.
    """
    asked = bank.fail_withdrawal("bank")
    before = bank.admin.get(f"/v1/requests/{asked}").json

    answer = bank.admin.post(f"/v1/admin/{path.format(id=asked)}", body)
    bank.drain()

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert [one["pointer"] for one in answer.json["errors"]] == [pointer]
    assert bank.admin.get(f"/v1/requests/{asked}").json == before
    assert audit(bank) == []


@pytest.mark.parametrize(
    "query", ["code=No", "code=", "resource=a%20b", "limit=0", "cursor=!", "status=failed"]
)
@pytest.mark.changes_nothing
def test_an_invalid_query_is_refused(teller: Teller, query: str) -> None:
    """
    An invalid or unknown parameter returns 422.
    """
    answer = teller.operator.get(f"/v1/admin/failed?{query}")

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
