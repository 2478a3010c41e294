"""
One request at the console: its timeline, and the actions for each role.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import pytest

from api.console import requests as console_requests
from processor.clients import webhooks
from processor.domain.kinds import KINDS
from processor.gateways.protocol import Answer
from processor.storage import connections
from tests.http.visitor import Visitor, audited, fields, words
from tests.waiting import TIMEOUT_SECONDS, eventually

if TYPE_CHECKING:
    from tests.http.teller import Teller

YES = Answer("done", 200, reference="T-1")
UNKNOWN = Answer("unknown", 503, error="answered 503")
ACTIONS = ("replay", "refund", "cancel", "release", "approve", "deny")


@pytest.fixture
def bank(teller: Teller) -> Teller:
    """Open a balance with a gateway, and one with a threshold for approvals."""
    teller.open("bank", "balance", 1_000, gateway="sandbox", unit="EUR")
    teller.open("vault", "balance", 1_000, approve_above=5)
    return teller


def offered(visitor: Visitor, request: str) -> list[str]:
    """Return the actions that the page offers."""
    page = visitor.get(f"/admin/requests/{request}")
    assert page.status == 200, page.text
    return [action for action in ACTIONS if f"/admin/requests/{request}/{action}" in page.text]


def timeline(visitor: Visitor, request: str) -> list[str]:
    """Return the titles of the timeline."""
    page = visitor.get(f"/admin/requests/{request}").text
    [line] = re.findall(r'<ol class="timeline">(.*?)</ol>', page, re.DOTALL)
    return re.findall(r"<strong>(.*?)</strong>", line)


def test_the_timeline_of_a_request_is_in_order(bank: Teller) -> None:
    """
    The timeline has each state, each call of the gateway, and the replay with its operator and reason.
    """
    asked = bank.withdraw("bank", 10)
    bank.call_gateway(UNKNOWN, UNKNOWN)
    visitor = Visitor.signed_in(bank, bank.operator)
    page = visitor.get(f"/admin/requests/{asked}").text
    assert "Problem: gateway unreachable" in page
    assert "hx-trigger" not in page

    visitor.send(f"/admin/requests/{asked}/replay", {"reason": "the bank is back"})
    assert timeline(visitor, asked)[-1] == "Waiting in the queue again"
    assert 'hx-trigger="every 2s"' in visitor.get(f"/admin/requests/{asked}").text
    bank.drain()
    bank.call_gateway(YES)

    assert timeline(visitor, asked) == [
        "Accepted",
        "Held, waiting for the gateway",
        "Gateway call 1: no conclusive answer",
        "Gateway call 2: no conclusive answer",
        "Failed",
        "Replay requested",
        "Still held, waiting for the gateway again",
        "Gateway call 3: done",
        "Completed",
    ]
    page = visitor.get(f"/admin/requests/{asked}").text
    assert "the bank is back" in page
    assert "reference of the gateway: T-1" in page
    assert re.findall(r'data-label="Entry">(\w+)', page) == ["hold", "capture"]


def test_only_possible_actions_are_offered(bank: Teller) -> None:
    """
    State, role and client decide. Any other action is refused or has no effect.
    """
    operator, admin = Visitor.signed_in(bank, bank.operator), Visitor.signed_in(bank, bank.admin)
    failed = bank.fail_withdrawal("bank", 10)
    awaiting = bank.withdraw("vault", 10)
    settling = bank.withdraw("bank", 10)
    done = bank.withdraw("vault", 5)
    queued = bank.client.post("/v1/withdrawals", {"resource": "vault", "account": "u", "amount": 1}).json[
        "id"
    ]
    assert {name: offered(operator, name) for name in (failed, awaiting, settling, done, queued)} == {
        failed: ["replay"],
        awaiting: ["cancel", "approve", "deny"],
        settling: [],
        done: [],
        queued: ["cancel"],
    }
    assert {name: offered(admin, name) for name in (failed, settling, done)} == {
        failed: ["replay", "refund"],
        settling: [],
        done: ["refund"],
    }
    assert operator.send(f"/admin/requests/{failed}/refund", {"reason": "x", "key": "0" * 36}).status == 403
    assert operator.send(f"/admin/requests/{done}/replay", {"reason": "x"}).status == 409
    assert operator.send(f"/admin/requests/{done}/cancel", {"reason": "x"}).status == 409
    for nothing in ({}, {"reason": "  "}):
        assert operator.send(f"/admin/requests/{failed}/replay", nothing).status == 422
    # The second of two clicks comes after the request left the state `failed`.
    again = operator.send(f"/admin/requests/{settling}/replay", {"reason": "x"})
    assert (again.status, again.location) == (303, f"/admin/requests/{settling}")
    assert operator.send(f"/admin/requests/{'0' * 8}/replay", {"reason": "x"}).status == 404


def test_after_an_act_the_page_shows_what_came_of_it(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The answer to a form waits for the decision: of an approval, and of the refund that another form makes.
    """
    monkeypatch.setattr(console_requests, "DECISION_SECONDS", TIMEOUT_SECONDS)
    asked = bank.withdraw("vault", 7)
    visitor = Visitor.signed_in(bank, bank.admin)
    page = f"/admin/requests/{asked}"

    def decide_one_row() -> None:
        eventually(lambda: len(bank.drain()) > 0)

    for act, status in (("approve", "Completed"), ("refund", "Refunded")):
        form = fields(visitor.get(page).text, f"{page}/{act}") | {"reason": "seen"}
        with ThreadPoolExecutor(1) as pool:
            deciding = pool.submit(decide_one_row)
            answer = visitor.send(f"{page}/{act}", form)
            shown = timeline(visitor, asked)[-1]
            deciding.result()
        assert (answer.status, shown) == (303, status)
    assert offered(visitor, asked) == []


def test_a_refund_above_what_is_left_is_refused_in_the_form(bank: Teller) -> None:
    """
    It makes no request, and the page says how much is left. The same form again is no refusal after its refund.
    """
    asked = bank.withdraw("vault", 5)
    visitor = Visitor.signed_in(bank, bank.admin)
    page = f"/admin/requests/{asked}"
    form = fields(visitor.get(page).text, f"{page}/refund") | {"reason": "a mistake"}

    assert visitor.send(f"{page}/refund", form | {"amount": "6"}).status == 303
    assert "6 is more than the 5 that is left. Nothing was done." in visitor.get(page).text
    assert audited(bank, "refund") == []
    for _ in range(2):
        assert visitor.send(f"{page}/refund", form | {"amount": "3"}).status == 303
        bank.drain()
        assert "Nothing was done" not in visitor.get(page).text
    assert len(audited(bank, "refund")) == 1


def test_a_release_waits_for_its_decision(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The answer to the form comes with the decision, so the page shows the cancelled request.
    """
    monkeypatch.setattr(console_requests, "DECISION_SECONDS", TIMEOUT_SECONDS)
    bank.open("gate", available=3)
    held = bank.client.post("/v1/reservations", {"resource": "gate", "account": "u"}).json["id"]
    bank.drain()
    visitor = Visitor.signed_in(bank, bank.admin)
    page = f"/admin/requests/{held}"
    form = fields(visitor.get(page).text, f"{page}/release") | {"reason": "seen"}

    with ThreadPoolExecutor(1) as pool:
        deciding = pool.submit(lambda: eventually(lambda: len(bank.drain()) > 0))
        assert visitor.send(f"{page}/release", form).status == 303
        shown = timeline(visitor, held)[-1]
        deciding.result()
    assert shown == "Cancelled"


def test_a_refund_form_that_is_sent_twice_makes_one_refund(bank: Teller) -> None:
    """
    The form has an idempotency key, so four simultaneous copies make one refund and one line in the audit.
    """
    asked = bank.withdraw("vault", 5)
    visitor = Visitor.signed_in(bank, bank.admin)
    page = visitor.get(f"/admin/requests/{asked}").text
    form = fields(page, f"/admin/requests/{asked}/refund") | {"reason": "a mistake", "amount": "2"}

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: visitor.send(f"/admin/requests/{asked}/refund", form), range(4)))
    bank.drain()

    assert {answer.status for answer in answers} == {303}
    assert bank.quantities("vault") == (997, 0)
    assert audited(bank, "refund") == [(f"{bank.admin.id} (admin admin)", "a mistake", asked)]
    page = visitor.get(f"/admin/requests/{asked}").text
    [refund] = set(re.findall(r'<div><a href="/admin/requests/([0-9a-f-]{36})">2</a>', page))
    assert (
        f'<a href="/admin/requests/{asked}">withdrawal of 5</a>'
        in visitor.get(f"/admin/requests/{refund}").text
    )
    assert "all of 3" in page


def test_every_page_shows_money_as_people_write_it(teller: Teller) -> None:
    """
    A resource in cents, with 2 decimals: lists, entries, limits, approvals, refunds and the audit have the point.
    """
    rules = {"unit": "EUR", "decimals": 2, "overdraft": 150_000, "approve_above": 100_000}
    teller.open("cash", "balance", 123_456_789, **rules)
    teller.open("bank", "balance", 50_000, gateway="sandbox", unit="EUR", decimals=2)
    asked = teller.withdraw("cash", 25_000)
    teller.withdraw("cash", 200_000)
    failed = teller.fail_withdrawal("bank", 999)
    partition = teller.admin.get("/v1/resources/cash").json["partition"]
    visitor = Visitor.signed_in(teller, teller.admin)
    own = f"/admin/requests/{asked}"
    form = fields(visitor.get(own).text, f"{own}/refund") | {"reason": "a mistake"}

    for wrong in ("0", "1.005", "-1", "1e2", "9" * 22):
        answer = visitor.send(f"{own}/refund", form | {"amount": wrong})
        assert (answer.status, "such as 1,234.00" in words(answer.text)) == (422, True)
    assert visitor.send(f"{own}/refund", form | {"amount": " 1,2.5 "}).status == 303

    def has(address: str, *texts: str) -> None:
        shown = words(visitor.get(address).text)
        assert [text for text in texts if text not in shown] == [], shown

    has(f"/admin/partitions/{partition}", "refund cash u 12.50 EUR")
    teller.drain()
    has("/admin/resources", "1,234,330.39 EUR", "490.01 EUR 9.99 EUR")
    has("/admin/resources/cash", "Available 1,234,330.39 EUR", "debit", "250.00 EUR", "with 2 decimals")
    has("/admin/resources/cash", "Overdraft 1,500.00 EUR", "Approval above 1,000.00 EUR")
    has("/admin/approvals", "2,000.00 EUR from cash", "1,000.00 EUR without approval")
    has(own, "Withdrawal of 250.00 EUR from cash", "all of 237.50 EUR", "12.50 EUR given back by refund")
    has("/admin/audit", "amount 12.50 EUR")
    has("/admin/failed", "1 request matches: 9.99 EUR")
    has("/admin/failed/preview?action=replay", "Sum 9.99 EUR")
    has(f"/admin/requests/{failed}", "Still held: 9.99 EUR")
    has("/admin/search?q=u", "250.00 EUR", "2,000.00 EUR", "9.99 EUR")


def test_a_failed_request_is_refunded_once(bank: Teller) -> None:
    """
    The hold is released. While the refund is queued, the page offers no second one.
    """
    asked = bank.fail_withdrawal("bank", 10)
    visitor = Visitor.signed_in(bank, bank.admin)
    form = fields(visitor.get(f"/admin/requests/{asked}").text, f"/admin/requests/{asked}/refund")
    visitor.send(f"/admin/requests/{asked}/refund", form | {"reason": "never paid"})
    assert offered(visitor, asked) == ["replay"]
    bank.drain()

    assert bank.quantities("bank") == (1_000, 0)
    assert offered(visitor, asked) == []


def test_a_refund_is_not_offered_while_the_gateway_may_be_paying(bank: Teller) -> None:
    """
    The page explains in advance why a refund would be refused.
    """
    visitor = Visitor.signed_in(bank, bank.admin)
    asked = bank.withdraw("bank", 10)
    with bank.stopped_courier() as go_on:
        bank.call_gateway(UNKNOWN)
        assert offered(visitor, asked) == ["replay", "refund"]
        go_on(YES)
    assert "has confirmed the payment" in visitor.get(f"/admin/requests/{asked}").text
    assert offered(visitor, asked) == ["replay"]


def test_a_withdrawal_is_approved_or_denied_by_another_client(bank: Teller) -> None:
    """
    The list names the client of each request. Approving an own request is refused, and the audit has each verdict.
    """
    first, second = bank.withdraw("vault", 50), bank.withdraw("vault", 60)
    own = bank.admin.post("/v1/withdrawals", {"resource": "vault", "account": "u", "amount": 70}).json["id"]
    bank.drain()
    admin = Visitor.signed_in(bank, bank.admin)
    page = admin.get("/admin/approvals").text
    assert re.findall(r"/admin/requests/([0-9a-f-]{36})/approve", page) == [first, second]
    assert f"Your own client, {bank.admin.id}, made this request" in page
    assert offered(admin, own) == ["cancel"]
    assert "operator of another client must approve" in admin.get(f"/admin/requests/{own}").text

    back = {"reason": "confirmed by telephone", "back": "/admin/approvals"}
    assert admin.send(f"/admin/requests/{first}/approve", back).location == "/admin/approvals"
    admin.send(f"/admin/requests/{second}/deny", {"reason": "too much"})
    refused = admin.send(f"/admin/requests/{own}/approve", {"reason": "mine"})
    bank.drain()

    assert "operator of another client must approve" in admin.get(str(refused.location)).text
    assert [bank.status(one) for one in (first, second, own)] == ["completed", "denied", "processing"]
    assert [line[1] for line in audited(bank, "approve") + audited(bank, "deny")] == [
        "confirmed by telephone",
        "too much",
    ]
    late = admin.send(f"/admin/requests/{first}/deny", {"reason": "too late"})
    assert "no longer waits for approval" in admin.get(str(late.location)).text


def test_a_held_reservation_is_listed_and_released(bank: Teller) -> None:
    """
    The list shows how long it is held, the first to expire first. The audit has the release with its reason.
    """
    asked = [
        bank.client.post(
            "/v1/reservations", {"resource": "vault", "account": "u", "amount": 4, "ttl_seconds": seconds}
        ).json["id"]
        for seconds in (600, 300)
    ]
    bank.drain()
    operator = Visitor.signed_in(bank, bank.operator)
    page = operator.get("/admin/reservations").text
    assert re.findall(r"/admin/requests/([0-9a-f-]{36})/release", page) == asked[::-1]
    assert offered(operator, asked[0]) == ["release"]
    assert "Held until" in operator.get(f"/admin/requests/{asked[0]}").text

    released = operator.send(
        f"/admin/requests/{asked[0]}/release", {"reason": "double", "back": "/admin/reservations"}
    )
    assert released.location == "/admin/reservations"
    assert "The release is accepted" in operator.get("/admin/reservations").text
    late = operator.send(f"/admin/requests/{asked[0]}/release", {"reason": "again"})
    assert "no longer held" in operator.get(str(late.location)).text
    bank.drain()

    assert bank.status(asked[0]) == "released"
    assert [line[1:] for line in audited(bank, "release")] == [("double", asked[0])]


def test_a_reservation_with_legs_is_listed_with_all_of_them_and_released(bank: Teller) -> None:
    """
    Each leg has the unit of its resource. One release gives all of them back.
    """
    bank.open("lounge", "balance", 900, unit="EUR", decimals=2)
    names = ("vault", "lounge")
    legs = [{"resource": "vault", "take": 4}, {"resource": "lounge", "take": 250}]
    asked = bank.client.post("/v1/reservations", {"account": "u", "legs": legs}).json["id"]
    bank.drain()
    operator = Visitor.signed_in(bank, bank.operator)
    page = operator.get("/admin/reservations").text
    [row] = [line for line in page.splitlines() if asked in line]
    assert "2.50 EUR" in row
    assert [f"/admin/resources/{name}" in row for name in names] == [True, True]
    assert "Held until" in operator.get(f"/admin/requests/{asked}").text

    form = {"reason": "double", "back": "/admin/reservations"}
    operator.send(f"/admin/requests/{asked}/release", form)
    bank.drain()

    assert bank.status(asked) == "released"
    assert [bank.quantities(name)[1] for name in names] == [0, 0]


def test_only_operators_see_a_traceback(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The page has the traceback, but the client's documents do not.
    """

    def fail(*_: object) -> NoReturn:
        raise ValueError("a fault in a rule")

    monkeypatch.setitem(KINDS, "redemption", replace(KINDS["redemption"], rule=fail))
    asked = bank.client.post("/v1/redemptions", {"resource": "vault", "account": "u"}).json["id"]
    bank.drain()
    visitor = Visitor.signed_in(bank, bank.operator)

    page = visitor.get(f"/admin/requests/{asked}").text

    assert "ValueError: a fault in a rule" in page
    assert "<details><summary>Traceback" in page
    assert "Nothing is held" in page
    for path in (f"/v1/requests/{asked}", f"/v1/requests/{asked}/events"):
        assert b"a fault in a rule" not in bank.client.get(path).data


def test_every_kind_of_request_has_a_page(bank: Teller) -> None:
    """
    Openings, deposits, amendments, refunds and closings have a page before and after their decision.
    """
    admin = Visitor.signed_in(bank, bank.admin)
    done = bank.withdraw("vault", 5)
    asked = [
        bank.admin.post("/v1/deposits", {"resource": "vault", "amount": 5}),
        bank.admin.call("PATCH", "/v1/resources/vault", json={"overdraft": 7, "metadata": {"a": [1, True]}}),
        bank.admin.post(f"/v1/admin/requests/{done}/refund", {"reason": "x"}),
        bank.admin.post("/v1/resources", {"id": "new", "kind": "stock", "available": 0, "unit": "piece"}),
        bank.admin.post("/v1/resources/vault/close", {}),
    ]
    for _ in range(2):
        for answer in asked:
            assert answer.status_code == 202, answer.json
            page = admin.get(f"/admin/requests/{answer.json['id']}")
            assert page.status == 200, page.text
        bank.drain()


def test_deliveries_of_a_request_are_shown_and_can_be_resent(bank: Teller) -> None:
    """
    Each delivery is shown with its state. An admin may resend it, which leads back to this page.
    """
    asked = bank.withdraw("vault", 5)
    with connections.connect(bank.settings.database_url, application_name="test") as connection:
        hook = webhooks.register(connection, bank.client.id, "https://x.example/hook", None, "test")[0].id
        [(number,)] = connection.execute(
            "INSERT INTO deliveries (request_id, version, type, webhook_id, status, due_at, tries, last_status)"
            " VALUES (%s, 2, 'request.completed', %s, 'failed', NULL, 8, 500) RETURNING id",
            (asked, hook),
        ).fetchall()
    operator, admin = Visitor.signed_in(bank, bank.operator), Visitor.signed_in(bank, bank.admin)
    address = f"/admin/requests/{asked}"
    assert "https://x.example/hook" in operator.get(address).text
    assert ">Resend</button>" not in operator.get(address).text
    form = fields(admin.get(address).text, f"/admin/deliveries/{number}/resend")

    answer = admin.send(f"/admin/deliveries/{number}/resend", form)

    assert (answer.status, answer.location) == (303, address)
    assert ">Resend</button>" not in admin.get(address).text  # it is due now
    with connections.connect(bank.settings.database_url, application_name="test") as connection:
        [(mail,)] = connection.execute(
            "INSERT INTO deliveries (request_id, version, type, email, status, due_at, tries, last_error)"
            " VALUES (%s, 2, 'request.completed', 'ada@x.example', 'failed', NULL, 8, '554 not you') RETURNING id",
            (asked,),
        ).fetchall()
    assert "554 not you" in operator.get(address).text
    answer = admin.send(f"/admin/deliveries/{mail}/resend")
    assert (answer.status, answer.location) == (303, address)
    assert ">Resend</button>" not in admin.get(address).text
    assert "Delivery resent" in timeline(admin, asked)


def test_the_page_of_an_exchange_shows_its_legs_with_their_units(bank: Teller) -> None:
    """
    Each leg and entry has the unit of its resource. An admin refunds all legs together.
    """
    bank.open("points", "points", 1_000, unit="points")
    legs = [{"resource": "points", "take": 30}, {"resource": "vault", "give": 4}]
    asked = bank.client.post("/v1/exchanges", {"account": "ada", "legs": legs}).json["id"]
    visitor = Visitor.signed_in(bank, bank.admin)
    own = f"/admin/requests/{asked}"
    assert "Exchange of 2 resources, the first of them points" in words(visitor.get(own).text)

    bank.drain()

    page = visitor.get(own).text
    assert "Takes 30 points from points Gives 4 to vault" in words(page)
    assert "credit vault 4 1,004 0" in words(page)
    assert offered(visitor, asked) == ["refund"]
    form = fields(page, f"{own}/refund") | {"reason": "a mistake"}
    assert visitor.send(f"{own}/refund", form | {"amount": "3"}).status == 422
    assert visitor.send(f"{own}/refund", form).status == 303
    bank.drain()
    assert bank.status(asked) == "refunded_by_admin"
    assert offered(visitor, asked) == []
    assert [bank.quantities(name) for name in ("points", "vault")] == [(1_000, 0), (1_000, 0)]
