"""
Failed requests at the console: filters, and replays and refunds of one request or of all that match.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn
from uuid import UUID

import pytest

from api.console import bulk_runner
from processor.domain.kinds import KINDS
from processor.gateways.protocol import Answer
from processor.operations import bulk_actions
from processor.storage import connections
from tests.http.visitor import Visitor, audited, fields
from tests.waiting import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.http.teller import Teller

YES = Answer("done", 200, reference="T-1")
SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
REASON = "the bank is back"


@pytest.fixture
def bank(teller: Teller) -> Teller:
    """Open a balance with a gateway."""
    teller.open("bank", "balance", 1_000, gateway="sandbox", unit="EUR")
    return teller


def listed(page: str) -> list[str]:
    """Return the requests with a checkbox, in order."""
    return re.findall(r'name="id" value="([0-9a-f-]{36})" aria-label', page)


def counted(page: str) -> str:
    """Return the number and the sum of all matching requests, as the list shows them."""
    [words] = re.findall(r'<p class="match-count">(.*?)</p>', page)
    return re.sub(r"<[^>]*>", "", words)


def act(visitor: Visitor, action: str, query: str = "", **more: str) -> str:
    """Preview an action and send its form with a reason. Returns the address of the action's page."""
    preview = visitor.get(f"/admin/failed/preview?action={action}{query}")
    form = fields(preview.text, f"/admin/failed/{action}") | {"reason": REASON} | more
    sent = visitor.send(f"/admin/failed/{action}", form)
    assert sent.status == 303, sent.text
    assert sent.location is not None
    return sent.location


def figure(page: str, label: str) -> str | None:
    """Return a figure of the page."""
    found = re.search(rf'<dt>{label}</dt><dd><span class="big">([^<]*)</span>', page)
    return None if found is None else found[1]


# ---------------------------------------------------------------- list


def test_the_filter_finds_by_code_resource_account_client_and_time(bank: Teller) -> None:
    """
    Filters work alone and together. The list is newest first, with the exact number and sum. Links keep the filter.
    """
    bank.open("till", "balance", 1_000, gateway="sandbox", unit="GBP")
    first = bank.fail_withdrawal("bank", 10, account="ada")
    second = bank.fail_withdrawal("till", 20, account="ada")
    third = bank.fail_withdrawal("bank", 30, "misconfigured", account="bob")
    middle = bank.admin.get(f"/v1/requests/{second}/events").json["data"][-1]["at"]
    visitor = Visitor.signed_in(bank, bank.operator)

    def found(query: str) -> list[str]:
        page = visitor.get(f"/admin/failed?{query}")
        assert page.status == 200, page.text
        return listed(page.text)

    assert found("") == [third, second, first]
    assert found("code=gateway_unreachable") == [second, first]
    assert found("resource=bank") == [third, first]
    assert found("account=ada") == [second, first]
    assert found("account=ada&resource=bank&code=") == [first]
    assert found(f"client={bank.client.id}") == [third, second, first]
    assert found(f"client={bank.other.id}") == []
    assert found(f"since={middle.replace('+', '%2B')}") == [third, second]
    assert found(f"until={middle.replace('+', '%2B')}") == [first]
    assert found("since=2027-01-01T00:00") == found("until=2020-01-01T00:00") == []
    page = visitor.get("/admin/failed?account=ada&resource=bank").text
    assert "/admin/failed/preview?action=replay&amp;resource=bank&amp;account=ada" in page
    assert counted(page) == "1 request matches: 10 EUR"
    assert counted(visitor.get("/admin/failed").text) == "3 requests match: 40 EUR + 20 GBP"


def test_a_long_list_has_pages(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The next page keeps the filter, and each request is listed once.
    """
    monkeypatch.setattr("api.console.failed.LISTED", 2)
    asked = [bank.fail_withdrawal("bank", 1) for _ in range(3)]
    visitor = Visitor.signed_in(bank, bank.operator)
    first = visitor.get("/admin/failed?resource=bank").text
    [cursor] = re.findall(r'name="cursor" value="([^"]+)"', first)

    rest = visitor.get(f"/admin/failed?resource=bank&cursor={cursor}").text

    assert '<input type="hidden" name="resource" value="bank">' in first
    assert listed(first) + listed(rest) == asked[::-1]


def test_an_empty_list_and_an_invalid_filter_are_explained(bank: Teller) -> None:
    """
    The page explains an empty list, a filter without matches, and an invalid time.
    """
    visitor = Visitor.signed_in(bank, bank.operator)

    assert "No failed requests" in visitor.get("/admin/failed").text
    assert "No failed request matches" in visitor.get("/admin/failed?account=nobody").text
    assert "Nothing to replay" in visitor.get("/admin/failed/preview?action=replay").text
    assert visitor.get("/admin/failed?since=yesterday").status == 422
    assert "must be a time" in visitor.get("/admin/failed?since=yesterday").text
    assert visitor.get("/admin/failed/actions/nothing").status == 404


# ---------------------------------------------------------------- all that match


def test_all_that_match_are_previewed_and_replayed(bank: Teller) -> None:
    """
    The preview shows number, sum and resources, and changes nothing. The replay returns the requests to their queues.

    The audit has the operator, and the page shows the outcome of each request.
    """
    bank.open("till", "balance", 1_000, gateway="sandbox")
    asked = [bank.fail_withdrawal("bank", 10), bank.fail_withdrawal("bank", 20)]
    other = bank.fail_withdrawal("till", 40)
    visitor = Visitor.signed_in(bank, bank.operator)
    preview = visitor.get("/admin/failed/preview?action=replay&resource=bank").text
    assert "Replay 2 failed requests?" in preview
    assert figure(preview, "Requests") == "2"
    assert figure(preview, "Sum") == "30"
    assert audited(bank, "replay") == []

    where = act(visitor, "replay", "&resource=bank")

    page = visitor.get(where).text
    assert (figure(page, "Sent"), figure(page, "Queued")) == ("2", "2")
    assert page.count("queued again") == 2
    assert 'hx-trigger="every 2s"' in page
    assert '<noscript><meta http-equiv="refresh"' in page
    bank.drain()
    bank.call_gateway(YES)
    page = visitor.get(where).text
    assert figure(page, "Completed") == "2"
    assert "hx-trigger" not in page
    assert [bank.status(one) for one in [*asked, other]] == ["completed", "completed", "gateway_unreachable"]
    actor = f"{bank.operator.id} (operator operator)"
    assert audited(bank, "replay") == [(actor, REASON, one) for one in asked]
    assert audited(bank, "bulk_replay") == [(actor, REASON, None)]


def test_a_request_that_fails_again_is_counted_as_such(bank: Teller) -> None:
    """
    A replay whose gateway is still unavailable counts as failed again, not as waiting.
    """
    asked = bank.fail_withdrawal("bank", 10)
    visitor = Visitor.signed_in(bank, bank.operator)
    where = act(visitor, "replay")
    bank.drain()
    bank.call_gateway(Answer("unknown", 503, reason="answered 503"))

    page = visitor.get(where).text

    assert (figure(page, "Failed again"), figure(page, "Queued")) == ("1", None)
    assert "failed again" in page
    assert bank.status(asked) == "gateway_unreachable"


def test_a_request_that_fails_after_the_preview_is_not_included(bank: Teller) -> None:
    """
    The action includes exactly the previewed requests.
    """
    first = bank.fail_withdrawal("bank", 10)
    visitor = Visitor.signed_in(bank, bank.operator)
    form = fields(visitor.get("/admin/failed/preview?action=replay").text, "/admin/failed/replay")
    later = bank.fail_withdrawal("bank", 20)

    visitor.send("/admin/failed/replay", form | {"reason": REASON})

    assert [line[2] for line in audited(bank, "replay")] == [first]
    bank.drain()
    assert bank.status(later) == "gateway_unreachable"


def test_a_form_that_is_sent_twice_begins_one_action(bank: Teller) -> None:
    """
    All copies of a form lead to the same action, and each request is refunded once.
    """
    for _ in range(3):
        bank.fail_withdrawal("bank", 10)
    visitor = Visitor.signed_in(bank, bank.admin)
    form = fields(visitor.get("/admin/failed/preview?action=refund").text, "/admin/failed/refund")
    form["reason"] = REASON
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: visitor.send("/admin/failed/refund", form), range(4)))

    assert {answer.status for answer in answers} == {303}
    assert len({answer.location for answer in answers}) == 1
    bank.drain()
    assert bank.quantities("bank") == (1_000, 0)
    assert len(audited(bank, "refund")) == 3
    page = visitor.get(str(answers[0].location)).text
    assert figure(page, "Refunded") == "3"


def test_only_selected_requests_are_previewed_and_replayed(bank: Teller) -> None:
    """
    The preview has the selected requests. An empty selection changes nothing, and more than a page is refused.
    """
    first, second, third = (bank.fail_withdrawal("bank", amount) for amount in (1, 2, 4))
    visitor = Visitor.signed_in(bank, bank.operator)
    preview = visitor.send("/admin/failed/preview", {"action": "replay", "id": [first, third]}).text
    assert figure(preview, "Requests") == "2"
    assert figure(preview, "Sum") == "5"

    form = fields(preview, "/admin/failed/replay") | {"reason": REASON}
    visitor.send("/admin/failed/replay", form)

    assert {line[2] for line in audited(bank, "replay")} == {first, third}
    assert visitor.send("/admin/failed/preview", {"action": "replay"}).location == "/admin/failed"
    assert visitor.send("/admin/failed/preview", {"action": "replay", "id": [second] * 51}).status == 422
    assert visitor.send("/admin/failed/preview", {"action": "replay", "id": "x"}).status == 404


def test_only_admins_refund_many_requests(bank: Teller) -> None:
    """
    An operator sees no form and gets 403. A refund needs a reason.
    """
    bank.fail_withdrawal("bank", 10)
    operator, admin = Visitor.signed_in(bank, bank.operator), Visitor.signed_in(bank, bank.admin)
    assert "action=refund" not in operator.get("/admin/failed").text
    assert "action=refund" in admin.get("/admin/failed").text
    assert operator.get("/admin/failed/preview?action=refund").status == 403
    form = fields(admin.get("/admin/failed/preview?action=refund").text, "/admin/failed/refund")
    assert operator.send("/admin/failed/refund", form | {"reason": "x"}).status == 403
    assert admin.send("/admin/failed/refund", form).status == 422
    assert audited(bank, "refund") == []


def limit_parts(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Limit the requests of a part, and run no part in the background."""
    monkeypatch.setattr(bulk_actions, "PART_LIMIT", size)
    monkeypatch.setattr(bulk_runner.Runner, "go_on", lambda *_: None)


def test_a_large_action_runs_in_parts_and_can_be_stopped(
    bank: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The form answers after the first part. After a stop no further request is sent.
    """
    limit_parts(monkeypatch, 2)
    asked = [bank.fail_withdrawal("bank", 1) for _ in range(5)]
    visitor = Visitor.signed_in(bank, bank.operator)
    where = act(visitor, "replay")
    page = visitor.get(where).text
    assert "2 of 5" in page
    assert page.count("not sent yet") == 3

    assert visitor.send(f"{where}/stop").status == 303

    page = visitor.get(where).text
    assert page.count("not sent") == 3
    assert f"stopped by {bank.operator.id} (operator operator)" in page
    assert [line[2] for line in audited(bank, "replay")] == asked[:2]
    assert not bulk_runner.do_part(bank.services, action_id(where))


def test_an_action_ends_with_the_key_of_its_operator(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After the key is revoked, no further request is sent. The audit has a line by Teller with the reason.
    """
    limit_parts(monkeypatch, 2)
    for _ in range(4):
        bank.fail_withdrawal("bank", 1)
    where = act(Visitor.signed_in(bank, bank.operator), "replay")
    with connections.connect(bank.settings.database_url, application_name="test") as connection:
        connection.execute("UPDATE api_keys SET revoked_at = now() WHERE client_id = %s", (bank.operator.id,))

    assert not bulk_runner.do_part(bank.services, action_id(where))

    page = Visitor.signed_in(bank, bank.admin).get(where).text
    assert "2 of 4, stopped by Teller, because its key is no longer valid" in page
    assert [line[0] for line in audited(bank, "bulk_stopped")] == ["teller"]
    assert len(audited(bank, "replay")) == 2


def test_simultaneous_parts_send_each_request_once(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Four threads run one action, and one request was already replayed. Each request is sent once.
    """
    limit_parts(monkeypatch, 2)
    asked = [bank.fail_withdrawal("bank", 1) for _ in range(7)]
    visitor = Visitor.signed_in(bank, bank.operator)
    where = act(visitor, "replay")
    assert (
        bank.operator.post(f"/v1/admin/requests/{asked[-1]}/replay", {"reason": "by hand"}).status_code == 202
    )

    def is_finished() -> bool:
        with bank.services.connection() as connection:
            return bulk_actions.read(connection, action_id(where)).finished_at is not None

    def do_all() -> None:
        while not is_finished():
            bulk_runner.do_part(bank.services, action_id(where))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(do_all) for _ in range(4)]:
            done.result()

    page = visitor.get(where).text
    assert (figure(page, "Sent"), figure(page, "Not sent"), page.count("skipped")) == ("6", "1", 1)
    assert sorted(str(line[2]) for line in audited(bank, "replay")) == sorted(asked)


def test_a_part_is_run_by_one_process_at_a_time(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A process locks the action's row during a part. Another process does nothing, and does not wait.
    """
    limit_parts(monkeypatch, 2)
    for _ in range(4):
        bank.fail_withdrawal("bank", 1)
    visitor = Visitor.signed_in(bank, bank.operator)
    where = act(visitor, "replay")
    with (
        connections.connect(bank.settings.database_url, application_name="test") as another,
        another.transaction(),
    ):
        another.execute("SELECT FROM bulk_actions FOR UPDATE")
        assert not bulk_runner.do_part(bank.services, action_id(where))
        assert "2 of 4" in visitor.get(where).text

    bulk_runner.do_part(bank.services, action_id(where))
    assert "4 of 4" in visitor.get(where).text


def test_an_interrupted_part_is_repeated_without_a_second_refund(
    bank: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The process dies after the refunds are accepted, before this is recorded. The next run finds them accepted.
    """
    limit_parts(monkeypatch, 10)
    for _ in range(3):
        bank.fail_withdrawal("bank", 1)
    visitor = Visitor.signed_in(bank, bank.admin)
    preview = visitor.get("/admin/failed/preview?action=refund").text
    form = fields(preview, "/admin/failed/refund") | {"reason": REASON}
    accept = bank.services.intake.accept

    def break_afterwards(submissions: Sequence[object]) -> None:
        accept(submissions)  # type: ignore[arg-type]
        raise RuntimeError("killed")

    monkeypatch.setattr(bulk_runner, "do_part", lambda *_: True)
    where = str(visitor.send("/admin/failed/refund", form).location)
    monkeypatch.undo()
    limit_parts(monkeypatch, 10)
    with bank.services.connection() as connection:
        with pytest.raises(RuntimeError, match="killed"):
            bulk_actions.run_part(connection, action_id(where), break_afterwards)  # type: ignore[arg-type]
        assert bulk_actions.run_part(connection, action_id(where), accept) is not None

    bank.drain()
    assert bank.quantities("bank") == (1_000, 0)
    assert len(audited(bank, "refund")) == 3
    assert figure(visitor.get(where).text, "Refunded") == "3"


def test_an_action_continues_in_the_background(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After the first part the action needs no visitor. An interrupted action continues when its page is loaded.
    """
    monkeypatch.setattr(bulk_actions, "PART_LIMIT", 2)
    for _ in range(5):
        bank.fail_withdrawal("bank", 1)
    visitor = Visitor.signed_in(bank, bank.operator)

    where = act(visitor, "replay")
    wait_for_threads()

    assert figure(visitor.get(where).text, "Sent") == "5"
    bank.drain()
    bank.call_gateway(Answer("unknown", 503))
    monkeypatch.setattr(bulk_runner.Runner, "go_on", lambda *_: None)
    where = act(visitor, "replay")
    assert "2 of 5" in visitor.get(where).text
    monkeypatch.undo()
    monkeypatch.setattr(bulk_actions, "PART_LIMIT", 2)
    visitor.get(where)
    wait_for_threads()
    assert figure(visitor.get(where).text, "Sent") == "5"


def wait_for_threads() -> None:
    """Wait until no bulk action runs in this process."""
    for thread in threading.enumerate():
        if thread.name == "bulk":
            thread.join(TIMEOUT_SECONDS)


def action_id(where: str) -> UUID:
    """Return the id of the action at this address."""
    return UUID(where.rpartition("/")[2])


# ---------------------------------------------------------------- markup


def test_markup_of_clients_and_gateways_is_escaped(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A script in a field of a client, a gateway, an admin or a traceback is shown as text.
    """

    def fail(*_: object) -> NoReturn:
        raise ValueError(SCRIPT)

    body = {
        "resource": "bank",
        "account": "ada",
        "amount": 5,
        "destination": SCRIPT,
        "metadata": {SCRIPT: SCRIPT},
    }
    asked = bank.client.post("/v1/withdrawals", body)
    bank.drain()
    bank.call_gateway(Answer("unknown", 503, reason=SCRIPT, error=SCRIPT))
    monkeypatch.setitem(KINDS, "redemption", replace(KINDS["redemption"], rule=fail))
    broke = bank.client.post(
        "/v1/redemptions", {"resource": "bank", "account": "ada", "metadata": {"x": SCRIPT}}
    )
    bank.drain()
    bank.open("vault", "balance", 1_000, approve_above=5, unit=SCRIPT)
    awaiting = bank.client.post("/v1/withdrawals", body | {"resource": "vault", "amount": 50}).json["id"]
    bank.drain()
    visitor = Visitor.signed_in(bank, bank.admin)
    where = act(visitor, "replay", reason=SCRIPT)
    with connections.connect(bank.settings.database_url, application_name="test") as connection:
        connection.execute(
            "INSERT INTO deliveries (request_id, version, type, email, status, due_at, last_error)"
            " VALUES (%s, 2, %s, %s, 'failed', NULL, %s)",
            (asked.json["id"], SCRIPT, SCRIPT, SCRIPT),
        )
    pages = (
        "/admin/failed",
        f"/admin/failed?account={SCRIPT}",
        "/admin/failed/preview?action=replay",
        where,
        f"/admin/requests/{asked.json['id']}",
        f"/admin/requests/{broke.json['id']}",
        f"/admin/requests/{awaiting}",
        "/admin/approvals",
    )
    for page in pages:
        text = visitor.get(page).text
        assert "<script>alert" not in text, page
        assert "<img src=x" not in text, page
    assert "ValueError: &lt;script&gt;" in visitor.get(f"/admin/requests/{broke.json['id']}").text
    assert "alert(1)" in visitor.get("/admin/approvals").text
