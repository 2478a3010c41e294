"""
Failed requests at the console: found by a filter, looked at, replayed and refunded one by one or all that match.
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
    """A balance behind a gateway."""
    teller.open("bank", "balance", 1_000, gateway="sandbox", unit="EUR")
    return teller


def listed(page: str) -> list[str]:
    """The requests that can be ticked, in their order."""
    return re.findall(r'name="id" value="([0-9a-f-]{36})" aria-label', page)


def counted(page: str) -> str:
    """What the list says that all that match come to."""
    [words] = re.findall(r'<p class="match-count">(.*?)</p>', page)
    return re.sub(r"<[^>]*>", "", words)


def act(visitor: Visitor, action: str, query: str = "", **more: str) -> str:
    """Preview, a reason, and the button; returns the page that says how far it is."""
    preview = visitor.get(f"/admin/failed/preview?action={action}{query}")
    form = fields(preview.text, f"/admin/failed/{action}") | {"reason": REASON} | more
    sent = visitor.send(f"/admin/failed/{action}", form)
    assert sent.status == 303, sent.text
    assert sent.location is not None
    return sent.location


def figure(page: str, label: str) -> str | None:
    """A figure of the page."""
    found = re.search(rf'<dt>{label}</dt><dd><span class="big">([^<]*)</span>', page)
    return None if found is None else found[1]


# ---------------------------------------------------------------- found


def test_the_filter_finds_by_code_resource_account_client_and_time(bank: Teller) -> None:
    """
    Each alone and together, the last to fail first, with the exact number and sum; the filter is in the address.
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


def test_a_list_that_is_longer_has_parts(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The way to the older ones keeps the filter, and shows each request once.
    """
    monkeypatch.setattr("api.console.failed.LISTED", 2)
    asked = [bank.fail_withdrawal("bank", 1) for _ in range(3)]
    visitor = Visitor.signed_in(bank, bank.operator)
    first = visitor.get("/admin/failed?resource=bank").text
    [cursor] = re.findall(r'name="cursor" value="([^"]+)"', first)

    rest = visitor.get(f"/admin/failed?resource=bank&cursor={cursor}").text

    assert '<input type="hidden" name="resource" value="bank">' in first
    assert listed(first) + listed(rest) == asked[::-1]


def test_nothing_is_said_where_there_is_nothing(bank: Teller) -> None:
    """
    Without failures, with a filter that finds none, and a wrong time: each is said in words.
    """
    visitor = Visitor.signed_in(bank, bank.operator)

    assert "Nothing has failed" in visitor.get("/admin/failed").text
    assert "Nothing that failed matches" in visitor.get("/admin/failed?account=nobody").text
    assert "Nothing to replay" in visitor.get("/admin/failed/preview?action=replay").text
    assert visitor.get("/admin/failed?since=yesterday").status == 422
    assert "must be a time" in visitor.get("/admin/failed?since=yesterday").text
    assert visitor.get("/admin/failed/actions/nothing").status == 404


# ---------------------------------------------------------------- all that match


def test_all_that_match_are_previewed_and_replayed(bank: Teller) -> None:
    """
    The preview says how many, what they add up to and where, and does nothing. Then they are back in their queues, by
    the person's own name in the audit, and the page tells what became of each.
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
    assert (figure(page, "Sent"), figure(page, "Still in their queues")) == ("2", "2")
    assert page.count("back in its queue") == 2
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


def test_what_fails_again_is_said_to(bank: Teller) -> None:
    """
    A replay whose gateway is still away counts as failed again, not as waiting.
    """
    asked = bank.fail_withdrawal("bank", 10)
    visitor = Visitor.signed_in(bank, bank.operator)
    where = act(visitor, "replay")
    bank.drain()
    bank.call_gateway(Answer("unknown", 503, reason="answered 503"))

    page = visitor.get(where).text

    assert (figure(page, "Failed again"), figure(page, "Still in their queues")) == ("1", None)
    assert "failed again" in page
    assert bank.status(asked) == "gateway_unreachable"


def test_what_fails_after_the_preview_is_not_concerned(bank: Teller) -> None:
    """
    The number that was shown is the number that is done.
    """
    first = bank.fail_withdrawal("bank", 10)
    visitor = Visitor.signed_in(bank, bank.operator)
    form = fields(visitor.get("/admin/failed/preview?action=replay").text, "/admin/failed/replay")
    later = bank.fail_withdrawal("bank", 20)

    visitor.send("/admin/failed/replay", form | {"reason": REASON})

    assert [line[2] for line in audited(bank, "replay")] == [first]
    bank.drain()
    assert bank.status(later) == "gateway_unreachable"


def test_a_form_that_is_sent_twice_begins_once(bank: Teller) -> None:
    """
    A double click on the button: both lead to the same action, and each request is sent once.
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
    assert figure(page, "Given back") == "3"


def test_selected_ones_alone_are_previewed_and_done(bank: Teller) -> None:
    """
    Those that were ticked; nothing ticked is told so, and more than a page of them is refused.
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


def test_refunds_of_many_are_an_admins(bank: Teller) -> None:
    """
    An operator is not shown the way, and is refused on it; nothing is done without a reason.
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


def part_by_part(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Parts are so small, and nobody goes on behind one's back."""
    monkeypatch.setattr(bulk_actions, "PART_LIMIT", size)
    monkeypatch.setattr(bulk_runner.Runner, "go_on", lambda *_: None)


def test_many_are_done_in_parts_and_can_be_stopped(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The form answers after the first part. Stopped, no more is sent; what was sent takes its way.
    """
    part_by_part(monkeypatch, 2)
    asked = [bank.fail_withdrawal("bank", 1) for _ in range(5)]
    visitor = Visitor.signed_in(bank, bank.operator)
    where = act(visitor, "replay")
    page = visitor.get(where).text
    assert "2 of 5" in page
    assert page.count("not yet") == 3

    assert visitor.send(f"{where}/stop").status == 303

    page = visitor.get(where).text
    assert page.count("not sent") == 3
    assert f"stopped by {bank.operator.id} (operator operator)" in page
    assert [line[2] for line in audited(bank, "replay")] == asked[:2]
    assert not bulk_runner.do_part(bank.services, where_id(where))


def test_an_action_ends_with_the_key_that_began_it(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As a session does: once the key is revoked, no more is sent.
    """
    part_by_part(monkeypatch, 2)
    for _ in range(4):
        bank.fail_withdrawal("bank", 1)
    where = act(Visitor.signed_in(bank, bank.operator), "replay")
    with connections.connect(bank.settings.database_url, application_name="test") as connection:
        connection.execute("UPDATE api_keys SET revoked_at = now() WHERE client_id = %s", (bank.operator.id,))

    assert not bulk_runner.do_part(bank.services, where_id(where))

    page = Visitor.signed_in(bank, bank.admin).get(where).text
    assert "2 of 4, stopped by the end of the key that began it" in page
    assert len(audited(bank, "replay")) == 2


def test_parts_at_the_same_time_send_nothing_twice(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Two processes at the same action, and a replay by hand in between: each request is sent once.
    """
    part_by_part(monkeypatch, 2)
    asked = [bank.fail_withdrawal("bank", 1) for _ in range(7)]
    visitor = Visitor.signed_in(bank, bank.operator)
    where = act(visitor, "replay")
    assert (
        bank.operator.post(f"/v1/admin/requests/{asked[-1]}/replay", {"reason": "by hand"}).status_code == 202
    )

    def do_all() -> None:
        with bank.services.connection() as connection:
            while (found := bulk_actions.read(connection, where_id(where))) and found.finished_at is None:
                bulk_runner.do_part(bank.services, where_id(where))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(do_all) for _ in range(4)]:
            done.result()

    page = visitor.get(where).text
    assert (figure(page, "Sent"), figure(page, "Not sent"), page.count("left alone")) == ("6", "1", 1)
    assert sorted(str(line[2]) for line in audited(bank, "replay")) == sorted(asked)


def test_while_somebody_is_at_it_nobody_else_is(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whoever does a part holds the action's row: another process leaves it alone, and does not wait.
    """
    part_by_part(monkeypatch, 2)
    for _ in range(4):
        bank.fail_withdrawal("bank", 1)
    visitor = Visitor.signed_in(bank, bank.operator)
    where = act(visitor, "replay")
    with (
        connections.connect(bank.settings.database_url, application_name="test") as somebody,
        somebody.transaction(),
    ):
        somebody.execute("SELECT FROM bulk_actions FOR UPDATE")
        assert not bulk_runner.do_part(bank.services, where_id(where))
        assert "2 of 4" in visitor.get(where).text

    bulk_runner.do_part(bank.services, where_id(where))
    assert "4 of 4" in visitor.get(where).text


def test_a_part_that_breaks_is_done_again_and_nothing_twice(
    bank: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The process dies after the refunds are accepted, and before that is noted: the next one finds them accepted.
    """
    part_by_part(monkeypatch, 10)
    for _ in range(3):
        bank.fail_withdrawal("bank", 1)
    visitor = Visitor.signed_in(bank, bank.admin)
    preview = visitor.get("/admin/failed/preview?action=refund").text
    form = fields(preview, "/admin/failed/refund") | {"reason": REASON}
    accept = bank.services.intake.accept

    def break_afterwards(submissions: Sequence[object]) -> None:
        accept(submissions)  # type: ignore[arg-type]
        raise RuntimeError("killed")

    with bank.services.connection() as connection:
        monkeypatch.setattr(bulk_runner, "do_part", lambda *_: True)
        where = str(visitor.send("/admin/failed/refund", form).location)
        monkeypatch.undo()
        part_by_part(monkeypatch, 10)
        with pytest.raises(RuntimeError, match="killed"):
            bulk_actions.run_part(connection, where_id(where), break_afterwards)  # type: ignore[arg-type]
        assert bulk_actions.run_part(connection, where_id(where), accept) is not None

    bank.drain()
    assert bank.quantities("bank") == (1_000, 0)
    assert len(audited(bank, "refund")) == 3
    assert figure(visitor.get(where).text, "Given back") == "3"


def test_the_rest_goes_on_behind_the_page(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After the first part nobody needs to wait or look; and an action that was left is taken up by whoever looks at it.
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
    """Until no bulk action goes on in this process."""
    for thread in threading.enumerate():
        if thread.name == "bulk":
            thread.join(TIMEOUT_SECONDS)


def where_id(where: str) -> UUID:
    """The id of the action at this address."""
    return UUID(where.rpartition("/")[2])


# ---------------------------------------------------------------- harmless


def test_nothing_that_somebody_wrote_is_a_script(bank: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    `<script>` wherever a client, a gateway, an admin or a traceback can put it: shown as text on each page.
    """

    def broken(*_: object) -> NoReturn:
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
    monkeypatch.setitem(KINDS, "redemption", replace(KINDS["redemption"], rule=broken))
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
