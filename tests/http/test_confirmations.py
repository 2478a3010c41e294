"""
Withdrawals that wait: for the account's code, and for the word of another person. What follows is decided by batches
that the test drains.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from processor.gateways.protocol import Answer
from processor.operations import approvals
from processor.outbox import code_messages, tries
from processor.storage import connections
from processor.verify.checks import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.teller import Client, Reply, Teller

ADA = "Ada@example.com"


@pytest.fixture
def bank(teller: Teller) -> Iterator[Teller]:
    """
    A balance of 1,000: above 100 with a code, above 500 with an approval, too. The books must be right in the end.
    """
    teller.open("bank", "balance", 1_000, confirm_above=100, approve_above=500)
    assert teller.client.put("/v1/accounts/u", {"email": ADA}).status_code == 200
    yield teller
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        assert [str(found) for found in verify(connection)] == []


def send(teller: Teller) -> dict[str, str]:
    """What a courier sends now: the digits for each request."""
    with connections.connect(
        teller.settings.courier_database_url, application_name="test courier"
    ) as connection:
        claimed = code_messages.claim(connection, teller.settings, 10, 60.0)
        code_messages.record(connection, teller.settings, [tries.sent(one) for one in claimed])
    return {str(one.confirms.request_id): one.digits for one in claimed if one.confirms}


def own(teller: Teller, statement: str, *parameters: object) -> Any:
    """As the owner of the database."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        cursor = connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else None


def cool_down(teller: Teller) -> None:
    """The cooldown of all destinations is over."""
    own(teller, "UPDATE code_turns SET taken_at = taken_at - interval '60 s'")
    own(teller, "UPDATE codes SET due_at = now() WHERE due_at IS NOT NULL")


def sweep(teller: Teller) -> None:
    """What the sweep of a worker does, and the batches after it."""
    with connections.connect(
        teller.settings.worker_database_url, application_name="test sweep"
    ) as connection:
        approvals.expire(connection, range(teller.settings.partitions))
    teller.drain()


def where(teller: Teller, request: str) -> str:
    """Stage, code or status."""
    document = teller.admin.get(f"/v1/requests/{request}").json
    return str(document["stage"] or (document["error"] or {}).get("code") or document["status"])


def confirm(who: Client, request: str, code: str) -> Reply:
    """With a code."""
    return who.post(f"/v1/requests/{request}/confirm", {"code": code})


def confirmed(teller: Teller, amount: int = 300) -> str:
    """A withdrawal whose code came and was typed in, decided."""
    request = teller.withdraw("bank", amount)
    assert confirm(teller.client, request, send(teller)[request]).status_code == 202
    teller.drain()
    cool_down(teller)
    return request


def wrong(right: str) -> str:
    """Another code."""
    return f"{(int(right) + 1) % 1_000_000:06}"


def history(teller: Teller, request: str) -> list[tuple[str, str, str]]:
    """The states it came to: stage or status, by whom, and what is said of it."""
    events = teller.client.get(f"/v1/requests/{request}/events").json["data"]
    return [(one["stage"] or one["status"], one["actor"].partition(" ")[0], one["detail"]) for one in events]


def audit(teller: Teller, request: str) -> list[tuple[str, str, str | None]]:
    """What the audit has on a request, oldest first."""
    lines = teller.admin.get("/v1/admin/audit?limit=100").json["data"]
    return [
        (line["action"], line["actor"].partition(" ")[0], line["reason"])
        for line in reversed(lines)
        if line["request"] == request
    ]


# ---------------------------------------------------------------- above confirm_above


def test_up_to_the_threshold_nobody_is_asked(bank: Teller) -> None:
    """
    100 of 100 goes at once, and no code is made.
    """
    request = bank.withdraw("bank", 100)

    assert (where(bank, request), bank.quantities("bank")) == ("completed", (900, 0))
    assert send(bank) == {}


def test_above_it_nothing_is_taken_until_the_code_is_typed_in(bank: Teller) -> None:
    """
    Found in its turn, told by mail, confirmed, decided; all of it in its history and the audit.
    """
    request = bank.withdraw("bank", 101)
    assert (where(bank, request), bank.quantities("bank")) == ("awaiting_confirmation", (1_000, 0))
    [(sent_for, code)] = send(bank).items()
    assert sent_for == request

    answer = confirm(bank.client, request, code)
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/requests/{request}"
    bank.drain()

    assert (where(bank, request), bank.quantities("bank")) == ("completed", (899, 0))
    me = bank.client.id
    assert history(bank, request) == [
        ("queued", me, "accepted"),
        ("awaiting_confirmation", "teller", "waits for its code"),
        ("completed", me, "confirmed"),
    ]
    assert audit(bank, request) == [("confirm", me, None)]
    assert own(bank, "SELECT count(*) FROM codes") == [(0,)]


def test_whoever_cannot_be_asked_is_refused(bank: Teller) -> None:
    """
    No address, no code; and who has too little is told that, whatever his address.
    """
    assert where(bank, bank.withdraw("bank", 300, account="nobody")) == "no_contact"
    assert where(bank, bank.withdraw("bank", 3_000, account="nobody")) == "insufficient_funds"
    assert where(bank, bank.withdraw("bank", 3_000)) == "insufficient_funds"
    assert send(bank) == {}


def test_a_wrong_code_changes_nothing_and_the_fifth_is_the_last(bank: Teller) -> None:
    """
    Counted, told, and then dead: only a new code helps.
    """
    request = bank.withdraw("bank", 300)
    code = send(bank)[request]
    answers = [confirm(bank.client, request, wrong(code)) for _ in range(5)]

    assert [(one.status_code, one.json["code"], one.json["attempts_remaining"]) for one in answers] == [
        (422, "code_invalid", left) for left in (4, 3, 2, 1, 0)
    ]
    assert confirm(bank.client, request, code).status_code == 422
    cool_down(bank)
    assert bank.client.post(f"/v1/requests/{request}/code").status_code == 202
    again = send(bank)[request]
    assert confirm(bank.client, request, again).status_code == 202
    bank.drain()
    assert where(bank, request) == "completed"


def test_the_code_of_one_request_confirms_no_other(bank: Teller) -> None:
    """
    Bound to its request; nor is it one of those that `/v1/codes/verify` knows.
    """
    first, second = bank.withdraw("bank", 300), bank.withdraw("bank", 301)
    code = send(bank)[first]
    cool_down(bank)
    other = send(bank)[second]

    for purpose in ({}, {"purpose": first}):
        body = {"destination": ADA, "code": code, **purpose}
        assert bank.client.post("/v1/codes/verify", body).json["code"] == "code_invalid"
    assert confirm(bank.client, second, code).json["code"] == "code_invalid"
    assert confirm(bank.client, second, other).status_code == 202
    assert confirm(bank.client, first, code).status_code == 202


def test_of_twenty_who_confirm_at_once_one_is_told_so_and_it_is_taken_once(bank: Teller) -> None:
    """
    Single use at any concurrency.
    """
    request = bank.withdraw("bank", 300)
    code = send(bank)[request]

    with ThreadPoolExecutor(20) as crowd:
        answers = [
            one.status_code for one in crowd.map(lambda _: confirm(bank.client, request, code), range(20))
        ]
    bank.drain()

    assert answers.count(202) == 1
    assert set(answers) <= {202, 422, 503}  # 503: a busy machine; they got nothing
    assert (where(bank, request), bank.quantities("bank")) == ("completed", (700, 0))


def test_during_a_cooldown_the_code_is_sent_as_soon_as_that_is_over(bank: Teller) -> None:
    """
    The account was just given a code for something else: the withdrawal waits, and so does its lifetime.
    """
    assert bank.client.post("/v1/codes", {"destination": ADA}).status_code == 202
    request = bank.withdraw("bank", 300)
    assert send(bank) == {}
    [(due, taken, lifetime)] = own(
        bank,
        "SELECT c.due_at, t.taken_at, c.expires_at FROM codes c JOIN code_turns t USING (destination)"
        " WHERE c.request_id IS NOT NULL",
    )

    assert ((due - taken).total_seconds(), lifetime) == (60.0, None)
    cool_down(bank)
    assert list(send(bank)) == [request]
    [(lifetime,)] = own(
        bank, "SELECT round(extract(epoch FROM expires_at - now())) FROM codes WHERE request_id IS NOT NULL"
    )
    assert 598 <= lifetime <= 600


def test_of_several_that_wait_one_is_sent_each_time(bank: Teller) -> None:
    """
    Three large withdrawals of one account: a code a minute, the oldest first.
    """
    requests = [bank.withdraw("bank", 101 + number) for number in range(3)]

    for request in requests:
        assert list(send(bank)) == [request]
        assert send(bank) == {}
        assert bank.client.post("/v1/codes", {"destination": ADA}).json["code"] == "code_cooldown"
        cool_down(bank)


def test_a_code_can_be_sent_again_after_the_cooldown(bank: Teller) -> None:
    """
    429 before; after it a new code, to the address as it is now, and the old one is invalid.
    """
    request = bank.withdraw("bank", 300)
    old = send(bank)[request]
    soon = bank.client.post(f"/v1/requests/{request}/code")
    assert (soon.status_code, soon.json["code"]) == (429, "code_cooldown")
    assert int(soon.headers["Retry-After"]) <= 60
    cool_down(bank)
    bank.client.put("/v1/accounts/u", {"email": "new@example.com"})

    again = bank.client.post(f"/v1/requests/{request}/code")
    assert (again.status_code, again.json["destination"]) == (202, "new@example.com")
    new = send(bank)[request]
    assert confirm(bank.client, request, old).json["code"] == "code_invalid"
    assert confirm(bank.client, request, new).status_code == 202
    bank.drain()
    assert where(bank, request) == "completed"
    assert [line[0] for line in audit(bank, request)] == ["code_sent_again", "confirm"]


def test_not_confirmed_in_time_it_is_cancelled(bank: Teller) -> None:
    """
    The lifetime of the last code, counted from its sending; nothing was taken, and the code confirms nothing more.
    """
    request = bank.withdraw("bank", 300)
    sweep(bank)  # not sent yet: it has all the time there is
    code = send(bank)[request]
    sweep(bank)
    assert where(bank, request) == "awaiting_confirmation"
    own(bank, "UPDATE codes SET expires_at = clock_timestamp()")
    sweep(bank)

    assert (where(bank, request), bank.quantities("bank")) == ("confirmation_expired", (1_000, 0))
    assert bank.admin.get(f"/v1/requests/{request}").json["status"] == "cancelled"
    late = confirm(bank.client, request, code)
    assert (late.status_code, late.json["code"]) == (409, "not_awaiting_confirmation")
    assert bank.client.post(f"/v1/requests/{request}/code").json["code"] == "not_awaiting_confirmation"


def test_while_its_code_is_still_being_sent_no_time_is_up(bank: Teller) -> None:
    """
    The mail server was away for longer than a lifetime: the code that comes in the end is as good as any.
    """
    request = bank.withdraw("bank", 300)
    with (
        connections.connect(bank.settings.courier_database_url, application_name="test courier") as courier,
        connections.connect(bank.settings.worker_database_url, application_name="test sweep") as worker,
    ):
        [delivery] = code_messages.claim(courier, bank.settings, 10, 60.0)
        code_messages.record(
            courier, bank.settings, [tries.failed(delivery, "no connection", code_messages.PAUSES_SECONDS)]
        )
        own(bank, "UPDATE codes SET expires_at = clock_timestamp() - interval '1 s'")
        assert approvals.expire(worker, range(bank.settings.partitions)) == set()
    own(bank, "UPDATE codes SET due_at = now()")

    assert confirm(bank.client, request, send(bank)[request]).status_code == 202


def test_a_code_that_is_lost_is_found_out(bank: Teller) -> None:
    """
    Nothing would ever end the waiting: `teller verify` says so.
    """
    request = bank.withdraw("bank", 300)
    with connections.connect(bank.settings.database_url, application_name="test") as connection:
        connection.execute("DELETE FROM codes")
        assert [(found.code, found.id) for found in verify(connection)] == [
            ("confirmation_forgotten", request)
        ]
    bank.client.post(f"/v1/requests/{request}/cancel")
    bank.drain()


def test_a_new_code_gives_new_time_also_when_the_end_was_on_its_way(bank: Teller) -> None:
    """
    The sweep saw the first code run out; the second came before the batch.
    """
    request = bank.withdraw("bank", 300)
    send(bank)
    cool_down(bank)
    own(bank, "UPDATE codes SET expires_at = clock_timestamp()")
    with connections.connect(bank.settings.worker_database_url, application_name="test sweep") as connection:
        assert len(approvals.expire(connection, range(bank.settings.partitions))) == 1
        assert approvals.expire(connection, range(bank.settings.partitions)) == set()
    assert bank.client.post(f"/v1/requests/{request}/code").status_code == 202
    bank.drain()

    assert where(bank, request) == "awaiting_confirmation"
    assert confirm(bank.client, request, send(bank)[request]).status_code == 202


def test_confirmed_it_is_decided_like_a_new_one_in_the_place_it_gets_then(bank: Teller) -> None:
    """
    Who came meanwhile is before it, and all checks are made again.
    """
    request = bank.withdraw("bank", 450)
    code = send(bank)[request]
    for _ in range(7):
        bank.withdraw("bank", 100)
    confirm(bank.client, request, code)
    bank.drain()

    assert (where(bank, request), bank.quantities("bank")) == ("insufficient_funds", (300, 0))


def test_cancelled_while_it_waits_it_is_over(bank: Teller) -> None:
    """
    For a code, or for an approval: nothing was taken, and nothing follows.
    """
    approving, waiting = confirmed(bank, 600), bank.withdraw("bank", 300)
    for request, stage in ((waiting, "awaiting_confirmation"), (approving, "awaiting_approval")):
        assert where(bank, request) == stage
        assert bank.client.post(f"/v1/requests/{request}/cancel").status_code == 202
    bank.drain()

    assert [where(bank, request) for request in (waiting, approving)] == ["cancelled_by_client"] * 2
    assert bank.client.post(f"/v1/requests/{waiting}/code").status_code == 409
    assert bank.operator.post(f"/v1/admin/requests/{approving}/approve").status_code == 409
    assert bank.quantities("bank") == (1_000, 0)


def test_only_its_own_client_confirms_it(bank: Teller) -> None:
    """
    Another client's request is 404, with the right code, too.
    """
    request = bank.withdraw("bank", 300)
    code = send(bank)[request]

    assert confirm(bank.other, request, code).status_code == 404
    assert bank.other.post(f"/v1/requests/{request}/code").status_code == 404
    assert confirm(bank.client, request, code).status_code == 202


# ---------------------------------------------------------------- above approve_above


def test_above_both_thresholds_it_is_confirmed_and_then_approved(bank: Teller) -> None:
    """
    First the code, then the word of somebody else, then the money.
    """
    request = confirmed(bank, 600)
    assert (where(bank, request), bank.quantities("bank")) == ("awaiting_approval", (1_000, 0))
    answer = bank.operator.post(f"/v1/admin/requests/{request}/approve", {"reason": "I called her"})
    assert answer.status_code == 202
    bank.drain()

    assert (where(bank, request), bank.quantities("bank")) == ("completed", (400, 0))
    me, she = bank.client.id, bank.operator.id
    assert history(bank, request)[2:] == [
        ("awaiting_approval", me, "confirmed; waits for another person's approval"),
        ("completed", she, "approved"),
    ]
    assert audit(bank, request) == [("confirm", me, None), ("approve", she, "I called her")]


def test_nobody_approves_what_his_own_client_asked_for(bank: Teller) -> None:
    """
    Scenario 28: refused, whatever the role; so is denying it.
    """
    bank.admin.put("/v1/accounts/u", {"email": ADA})
    body = {"resource": "bank", "account": "u", "amount": 600}
    request = bank.admin.post("/v1/withdrawals", body).json["id"]
    bank.drain()
    confirm(bank.admin, request, send(bank)[request])
    bank.drain()

    for verdict in ("approve", "deny"):
        answer = bank.admin.post(f"/v1/admin/requests/{request}/{verdict}", {"reason": "mine"})
        assert (answer.status_code, answer.json["code"]) == (403, "approver_is_requester")
    bank.drain()
    assert where(bank, request) == "awaiting_approval"
    assert bank.client.post(f"/v1/admin/requests/{request}/approve").status_code == 403
    assert audit(bank, request) == [("confirm", bank.admin.id, None)]


def test_denied_it_is_rejected_with_the_reason(bank: Teller) -> None:
    """
    Nothing was taken; the client reads why. A reason is needed.
    """
    request = confirmed(bank, 600)
    path = f"/v1/admin/requests/{request}/deny"
    assert bank.operator.post(path, {}).status_code == 422
    assert bank.operator.post(path, {"reason": "not her voice"}).status_code == 202
    bank.drain()

    document = bank.client.get(f"/v1/requests/{request}").json
    assert (document["status"], document["error"]) == (
        "rejected",
        {"code": "denied", "reason": "not her voice"},
    )
    assert bank.quantities("bank") == (1_000, 0)
    assert audit(bank, request)[-1] == ("deny", bank.operator.id, "not her voice")
    again = bank.operator.post(path, {"reason": "again"})
    assert (again.status_code, again.json["code"]) == (409, "not_awaiting_approval")


def test_of_two_verdicts_the_first_counts(bank: Teller) -> None:
    """
    Both are recorded before the batch comes.
    """
    request = confirmed(bank, 600)
    assert bank.operator.post(f"/v1/admin/requests/{request}/deny", {"reason": "no"}).status_code == 202
    assert bank.admin.post(f"/v1/admin/requests/{request}/approve").status_code == 202
    bank.drain()

    assert where(bank, request) == "denied"


def test_approved_it_is_decided_like_a_new_one(bank: Teller) -> None:
    """
    What is left may not be enough any more.
    """
    first, second = confirmed(bank, 600), confirmed(bank, 601)
    for request in (first, second):
        assert bank.operator.post(f"/v1/admin/requests/{request}/approve").status_code == 202
    bank.drain()

    assert [where(bank, request) for request in (first, second)] == ["completed", "insufficient_funds"]


def test_where_only_an_approval_is_asked_for_no_code_is_sent(teller: Teller) -> None:
    """
    Each threshold stands for itself; also without an address.
    """
    teller.open("vault", "balance", 1_000, approve_above=0)
    request = teller.withdraw("vault", 1)
    assert where(teller, request) == "awaiting_approval"
    assert teller.operator.post(f"/v1/admin/requests/{request}/approve").status_code == 202
    teller.drain()

    assert where(teller, request) == "completed"


def test_only_withdrawals_wait(bank: Teller) -> None:
    """
    A redemption of the same resource is no business of the thresholds.
    """
    body = {"resource": "bank", "account": "u", "amount": 900}
    request = bank.client.post("/v1/redemptions", body).json["id"]
    bank.drain()

    assert where(bank, request) == "completed"


# ---------------------------------------------------------------- with everything else


def test_what_waits_can_be_neither_refunded_nor_replayed(bank: Teller) -> None:
    """
    Nothing was taken, nothing is parked.
    """
    request = bank.withdraw("bank", 300)
    refund = bank.admin.post(f"/v1/admin/requests/{request}/refund", {"reason": "x"}).json["id"]
    replay = bank.admin.post(f"/v1/admin/requests/{request}/replay", {"reason": "x"})
    bank.drain()

    assert replay.json["code"] == "not_failed"
    assert (where(bank, refund), where(bank, request)) == ("outcome_pending", "awaiting_confirmation")


def test_behind_a_gateway_it_is_held_once_confirmed_and_a_replay_asks_for_no_second_code(
    teller: Teller,
) -> None:
    """
    Confirmed, held, not answered, parked, replayed, paid; and given back by a refund.
    """
    teller.open("bank", "balance", 1_000, confirm_above=100, gateway="sandbox")
    teller.client.put("/v1/accounts/u", {"email": ADA})
    request = confirmed(teller)
    assert (where(teller, request), teller.quantities("bank")) == ("settling", (700, 300))
    teller.call_gateway(Answer("unknown", 503))
    assert where(teller, request) == "gateway_unreachable"
    assert teller.admin.post(f"/v1/admin/requests/{request}/replay", {"reason": "x"}).status_code == 202
    teller.drain()
    teller.call_gateway(Answer("done", 200))

    assert (where(teller, request), teller.quantities("bank")) == ("completed", (700, 0))
    assert send(teller) == {}
    teller.admin.post(f"/v1/admin/requests/{request}/refund", {"reason": "x"})
    teller.drain()
    assert (where(teller, request), teller.quantities("bank")) == ("refunded_by_admin", (1_000, 0))


def test_parked_by_a_fault_and_replayed_it_asks_for_a_code_as_if_it_were_new(
    bank: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What could not be decided after it was confirmed: nothing was taken, and the old code confirms nothing.
    """
    request = bank.withdraw("bank", 300)
    code = send(bank)[request]
    confirm(bank.client, request, code)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a rule with a fault")

    with monkeypatch.context() as patched:
        patched.setattr("processor.domain.rules.waiting.begin", broken)
        bank.drain()
    assert where(bank, request) == "processor_error"
    bank.admin.post(f"/v1/admin/requests/{request}/replay", {"reason": "mended"})
    bank.drain()
    assert where(bank, request) == "awaiting_confirmation"
    cool_down(bank)
    again = send(bank)[request]
    assert confirm(bank.client, request, again).status_code == 202
    bank.drain()
    assert where(bank, request) == "completed"


def test_the_deadline_counts_while_it_waits(bank: Teller) -> None:
    """
    Confirmed too late, it is too late.
    """
    soon = own(
        bank, "SELECT to_char((now() + interval '1 s') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ')"
    )
    body = {"resource": "bank", "account": "u", "amount": 300, "apply_before": soon[0][0]}
    request = bank.client.post("/v1/withdrawals", body).json["id"]
    bank.drain()
    assert where(bank, request) == "awaiting_confirmation"
    code = send(bank)[request]
    own(bank, "SELECT pg_sleep(extract(epoch FROM %s::timestamptz - clock_timestamp()))", soon[0][0])
    confirm(bank.client, request, code)
    bank.drain()

    assert where(bank, request) == "deadline_passed"
