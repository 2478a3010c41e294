"""
Requests that await a code of the account, or the approval of another client. The test runs the batches.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from processor.domain.kinds import KINDS
from processor.gateways.protocol import Answer
from processor.operations import approvals
from processor.outbox import code_messages, tries
from processor.storage import connections
from processor.verify.checks import verify
from tests.http.teller import claim_codes
from workers.courier.code_messages import mail_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.teller import Client, Reply, Teller

ADA = "Ada@example.com"


@pytest.fixture
def bank(teller: Teller) -> Iterator[Teller]:
    """
    A balance of 1,000. Withdrawals above 100 need a code, and above 500 also an approval.

    At the end `verify` must find no discrepancy.
    """
    teller.open("bank", "balance", 1_000, confirm_above=100, approve_above=500)
    assert teller.client.put("/v1/accounts/u", {"email": ADA}).status_code == 200
    yield teller
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        assert [str(found) for found in verify(connection)] == []


def send(teller: Teller) -> dict[str, str]:
    """Send the codes that are due, as a courier does. Returns the digits for each request."""
    with connections.connect(
        teller.settings.courier_database_url, application_name="test courier"
    ) as connection:
        claimed = claim_codes(connection, teller.settings)
        code_messages.record(connection, teller.settings, [tries.sent(one) for one in claimed])
    return {str(one.confirms.request_id): one.digits for one in claimed if one.confirms}


def own(teller: Teller, statement: str, *parameters: object) -> Any:
    """Execute a statement as the owner of the database. Returns its rows, if any."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        cursor = connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else None


def cool_down(teller: Teller) -> None:
    """End the cooldown of all destinations."""
    own(teller, "UPDATE code_turns SET taken_at = taken_at - interval '60 s'")
    own(teller, "UPDATE codes SET due_at = now() WHERE due_at IS NOT NULL")


def sweep(teller: Teller) -> None:
    """Expire unconfirmed withdrawals as the sweep of a worker does, and run the batches."""
    with connections.connect(
        teller.settings.worker_database_url, application_name="test sweep"
    ) as connection:
        approvals.expire(connection, range(teller.settings.partitions))
    teller.drain()


def state(teller: Teller, request: str) -> str:
    """Return the stage, the error code or the status of a request."""
    document = teller.admin.get(f"/v1/requests/{request}").json
    return str(document["stage"] or (document["error"] or {}).get("code") or document["status"])


def confirm(client: Client, request: str, code: str) -> Reply:
    """Confirm a request with a code."""
    return client.post(f"/v1/requests/{request}/confirm", {"code": code})


def confirmed(teller: Teller, amount: int = 300) -> str:
    """Submit a withdrawal, confirm it with its code and decide it. Returns its id."""
    request = teller.withdraw("bank", amount)
    assert confirm(teller.client, request, send(teller)[request]).status_code == 202
    teller.drain()
    cool_down(teller)
    return request


def wrong(right: str) -> str:
    """Return another code."""
    return f"{(int(right) + 1) % 1_000_000:06}"


def history(teller: Teller, request: str) -> list[tuple[str, str, str]]:
    """Return the stage or status, the actor and the detail of each event of a request."""
    events = teller.client.get(f"/v1/requests/{request}/events").json["data"]
    return [(one["stage"] or one["status"], one["actor"].partition(" ")[0], one["detail"]) for one in events]


def audit(teller: Teller, request: str) -> list[tuple[str, str, str | None]]:
    """Return the audit of a request, oldest first."""
    lines = teller.admin.get("/v1/admin/audit?limit=100").json["data"]
    return [
        (line["action"], line["actor"].partition(" ")[0], line["reason"])
        for line in reversed(lines)
        if line["request"] == request
    ]


# ---------------------------------------------------------------- above confirm_above


def test_the_mail_with_a_code_has_the_amount_as_people_write_it(teller: Teller) -> None:
    """
    It is what the account confirms.
    """
    teller.open("cash", "balance", 100_000, confirm_above=100, unit="EUR", decimals=2)
    teller.client.put("/v1/accounts/u", {"email": ADA})
    teller.withdraw("cash", 25_050)
    with connections.connect(
        teller.settings.courier_database_url, application_name="test courier"
    ) as connection:
        [message] = claim_codes(connection, teller.settings)

    assert "confirms your withdrawal of 250.50 EUR from cash." in mail_for(message, "a@b").get_content()


def test_a_withdrawal_up_to_the_threshold_needs_no_code(bank: Teller) -> None:
    """
    A withdrawal of exactly the threshold completes at once, and no code is made.
    """
    request = bank.withdraw("bank", 100)

    assert (state(bank, request), bank.quantities("bank")) == ("completed", (900, 0))
    assert send(bank) == {}


def test_a_withdrawal_above_the_threshold_takes_nothing_until_its_code_is_confirmed(bank: Teller) -> None:
    """
    The withdrawal awaits its code, is confirmed and completes. Events and audit show each step.
    """
    request = bank.withdraw("bank", 101)
    assert (state(bank, request), bank.quantities("bank")) == ("awaiting_confirmation", (1_000, 0))
    [(sent_for, code)] = send(bank).items()
    assert sent_for == request

    answer = confirm(bank.client, request, code)
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/requests/{request}"
    bank.drain()

    assert (state(bank, request), bank.quantities("bank")) == ("completed", (899, 0))
    client = bank.client.id
    assert history(bank, request) == [
        ("queued", client, "accepted"),
        ("awaiting_confirmation", "teller", "waits for its code"),
        ("completed", client, "confirmed"),
    ]
    assert audit(bank, request) == [("confirm", client, None)]
    assert own(bank, "SELECT count(*) FROM codes") == [(0,)]


def test_an_account_without_an_address_is_refused(bank: Teller) -> None:
    """
    A code needs an address. Insufficient funds are reported first, with or without an address.
    """
    assert state(bank, bank.withdraw("bank", 300, account="nobody")) == "no_contact"
    assert state(bank, bank.withdraw("bank", 3_000, account="nobody")) == "insufficient_funds"
    assert state(bank, bank.withdraw("bank", 3_000)) == "insufficient_funds"
    assert send(bank) == {}


def test_a_wrong_code_changes_nothing_and_the_fifth_ends_the_code(bank: Teller) -> None:
    """
    Each wrong code returns the remaining attempts. After the fifth, only a new code confirms the request.
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
    assert state(bank, request) == "completed"


def test_the_code_of_one_request_confirms_no_other(bank: Teller) -> None:
    """
    A code confirms its own request only, and `/v1/codes/verify` does not accept it.
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


def test_one_of_twenty_simultaneous_confirmations_is_accepted(bank: Teller) -> None:
    """
    One confirmation returns 202, and the amount is taken once.
    """
    request = bank.withdraw("bank", 300)
    code = send(bank)[request]

    with ThreadPoolExecutor(20) as crowd:
        answers = [
            one.status_code for one in crowd.map(lambda _: confirm(bank.client, request, code), range(20))
        ]
    bank.drain()

    assert answers.count(202) == 1
    assert set(answers) <= {202, 422, 503}  # 503 on a busy machine, without a result
    assert (state(bank, request), bank.quantities("bank")) == ("completed", (700, 0))


def test_a_code_during_a_cooldown_is_sent_when_the_cooldown_ends(bank: Teller) -> None:
    """
    The code waits for the end of the cooldown, and its lifetime begins when it is sent.
    """
    assert bank.client.post("/v1/codes", {"destination": ADA}).status_code == 202
    request = bank.withdraw("bank", 300)
    assert send(bank) == {}
    waiting = own(bank, "SELECT has_turn, expires_at FROM codes WHERE request_id IS NOT NULL")

    assert waiting == [(False, None)]
    cool_down(bank)
    assert list(send(bank)) == [request]
    [(lifetime,)] = own(
        bank, "SELECT round(extract(epoch FROM expires_at - now())) FROM codes WHERE request_id IS NOT NULL"
    )
    assert 598 <= lifetime <= 600


def test_codes_of_several_withdrawals_are_sent_one_a_minute(bank: Teller) -> None:
    """
    One account gets a code a minute, for its oldest withdrawal first.
    """
    requests = [bank.withdraw("bank", 101 + number) for number in range(3)]

    for request in requests:
        assert list(send(bank)) == [request]
        assert send(bank) == {}
        assert bank.client.post("/v1/codes", {"destination": ADA}).json["code"] == "code_cooldown"
        cool_down(bank)


def test_a_code_can_be_requested_again_after_the_cooldown(bank: Teller) -> None:
    """
    During the cooldown it returns 429. The new code goes to the present address once no change of it is recent, and
    the old code is invalid.
    """
    request = bank.withdraw("bank", 300)
    old = send(bank)[request]
    soon = bank.client.post(f"/v1/requests/{request}/code")
    assert (soon.status_code, soon.json["code"]) == (429, "code_cooldown")
    assert int(soon.headers["Retry-After"]) <= 60
    cool_down(bank)
    bank.client.put("/v1/accounts/u", {"email": "new@example.com"})
    own(bank, "UPDATE accounts SET protected_until = clock_timestamp()")

    again = bank.client.post(f"/v1/requests/{request}/code")
    assert (again.status_code, again.json["destination"]) == (202, "new@example.com")
    new = send(bank)[request]
    assert confirm(bank.client, request, old).json["code"] == "code_invalid"
    assert confirm(bank.client, request, new).status_code == 202
    bank.drain()
    assert state(bank, request) == "completed"
    assert [line[0] for line in audit(bank, request)] == ["code_sent_again", "confirm"]


def test_for_a_day_after_a_change_codes_go_to_the_address_before(bank: Teller) -> None:
    """
    A stolen key cannot have the code sent to an address of its own, however often it changes the address.
    """
    waiting = bank.withdraw("bank", 300)
    for email in ("mallory@example.com", None, "mallory@example.org", ADA.lower()):
        bank.client.put("/v1/accounts/u", {"email": email})
    changed = bank.client.put("/v1/accounts/u", {"email": "mallory@example.com"}).json
    assert changed["codes_to_previous_until"] > changed["updated_at"]
    assert list(send(bank)) == [waiting]
    assert own(bank, "SELECT destination FROM codes") == [(ADA.lower(),)]
    cool_down(bank)

    again = bank.client.post(f"/v1/requests/{waiting}/code")
    assert (again.status_code, again.json["destination"]) == (202, ADA.lower())
    later = bank.withdraw("bank", 200)
    assert own(bank, "SELECT DISTINCT destination FROM codes") == [(ADA.lower(),)]
    bank.client.put("/v1/accounts/u", {"email": None})
    assert state(bank, bank.withdraw("bank", 200)) == "no_contact"
    bank.client.put("/v1/accounts/u", {"email": "new@example.com"})
    own(bank, "UPDATE accounts SET protected_until = clock_timestamp()")

    assert bank.client.get("/v1/accounts/u").json["codes_to_previous_until"] is None
    after = bank.withdraw("bank", 200)
    assert own(bank, "SELECT destination FROM codes WHERE request_id = %s", after) == [("new@example.com",)]
    assert own(bank, "SELECT destination FROM codes WHERE request_id = %s", later) == [(ADA.lower(),)]
    bank.client.put("/v1/accounts/u", {"email": "newer@example.com"})
    last = bank.withdraw("bank", 200)
    assert own(bank, "SELECT destination FROM codes WHERE request_id = %s", last) == [("new@example.com",)]


def test_a_first_address_gets_its_codes_at_once(bank: Teller) -> None:
    """
    Where there was no address, none is protected, also if one was set to the same again.
    """
    for _ in range(2):
        changed = bank.client.put("/v1/accounts/fresh", {"email": "eve@example.com"}).json
        assert changed["codes_to_previous_until"] is None

    request = bank.withdraw("bank", 300, account="fresh")

    assert own(bank, "SELECT request_id::text, destination FROM codes") == [(request, "eve@example.com")]


def test_wrong_tries_are_counted_for_each_request(bank: Teller) -> None:
    """
    Neither another code nor another destination or day gives a request more than 20 wrong tries.
    """
    request, code, again = bank.withdraw("bank", 300), "", None
    for _ in range(4):
        code = send(bank)[request]
        left = [confirm(bank.client, request, wrong(code)).json["attempts_remaining"] for _ in range(5)]
        assert left == [4, 3, 2, 1, 0]
        own(bank, "DELETE FROM code_guesses")
        cool_down(bank)
        again = bank.client.post(f"/v1/requests/{request}/code")

    assert again is not None
    assert (again.status_code, again.json["code"]) == (429, "code_locked")
    assert int(again.headers["Retry-After"]) >= 1
    tried = confirm(bank.client, request, code)
    assert (tried.status_code, tried.json["code"]) == (429, "code_locked")
    own(bank, "UPDATE codes SET expires_at = clock_timestamp()")
    sweep(bank)
    assert state(bank, request) == "confirmation_expired"


def test_a_right_code_takes_no_try_from_its_request(bank: Teller) -> None:
    """
    Only wrong tries are counted.
    """
    request = bank.withdraw("bank", 300)
    code = send(bank)[request]
    confirm(bank.client, request, wrong(code))

    assert confirm(bank.client, request, code).status_code == 202
    assert own(bank, "SELECT wrong, request_wrong FROM codes") == [(1, 1)]


def test_an_unconfirmed_withdrawal_is_cancelled_when_its_code_expires(bank: Teller) -> None:
    """
    The lifetime begins when the last code is sent. Nothing was taken, and the code no longer confirms.
    """
    request = bank.withdraw("bank", 300)
    sweep(bank)  # the code is not sent yet, so it does not expire
    code = send(bank)[request]
    sweep(bank)
    assert state(bank, request) == "awaiting_confirmation"
    own(bank, "UPDATE codes SET expires_at = clock_timestamp()")
    sweep(bank)

    assert (state(bank, request), bank.quantities("bank")) == ("confirmation_expired", (1_000, 0))
    assert bank.admin.get(f"/v1/requests/{request}").json["status"] == "cancelled"
    late = confirm(bank.client, request, code)
    assert (late.status_code, late.json["code"]) == (409, "not_awaiting_confirmation")
    assert bank.client.post(f"/v1/requests/{request}/code").json["code"] == "not_awaiting_confirmation"


def test_a_code_that_is_not_sent_yet_does_not_expire(bank: Teller) -> None:
    """
    If the mail server is unavailable for longer than the lifetime, the late code is still valid.
    """
    request = bank.withdraw("bank", 300)
    with (
        connections.connect(bank.settings.courier_database_url, application_name="test courier") as courier,
        connections.connect(bank.settings.worker_database_url, application_name="test sweep") as worker,
    ):
        [delivery] = claim_codes(courier, bank.settings)
        code_messages.record(
            courier, bank.settings, [tries.failed(delivery, "no connection", code_messages.PAUSES_SECONDS)]
        )
        own(bank, "UPDATE codes SET expires_at = clock_timestamp() - interval '1 s'")
        assert approvals.expire(worker, range(bank.settings.partitions)) == set()
    own(bank, "UPDATE codes SET due_at = now()")

    assert confirm(bank.client, request, send(bank)[request]).status_code == 202


def test_a_missing_code_is_a_discrepancy(bank: Teller) -> None:
    """
    Without the row of its code a withdrawal would wait forever, so `teller verify` reports it.
    """
    request = bank.withdraw("bank", 300)
    with connections.connect(bank.settings.database_url, application_name="test") as connection:
        connection.execute("DELETE FROM codes")
        assert [(found.code, found.id) for found in verify(connection)] == [
            ("confirmation_forgotten", request)
        ]
    bank.client.post(f"/v1/requests/{request}/cancel")
    bank.drain()


def test_a_new_code_prevents_an_expiry_that_is_already_queued(bank: Teller) -> None:
    """
    The sweep queued the expiry of the first code. A second code before the batch keeps the withdrawal waiting.
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

    assert state(bank, request) == "awaiting_confirmation"
    assert confirm(bank.client, request, send(bank)[request]).status_code == 202


def test_a_confirmed_withdrawal_is_decided_like_a_new_one(bank: Teller) -> None:
    """
    Its place in the queue is that of the confirmation, and all checks are repeated.
    """
    request = bank.withdraw("bank", 450)
    code = send(bank)[request]
    for _ in range(7):
        bank.withdraw("bank", 100)
    confirm(bank.client, request, code)
    bank.drain()

    assert (state(bank, request), bank.quantities("bank")) == ("insufficient_funds", (300, 0))


def test_a_waiting_withdrawal_can_be_cancelled(bank: Teller) -> None:
    """
    A withdrawal that awaits a code or an approval is cancelled without an entry.
    """
    approving, waiting = confirmed(bank, 600), bank.withdraw("bank", 300)
    for request, stage in ((waiting, "awaiting_confirmation"), (approving, "awaiting_approval")):
        assert state(bank, request) == stage
        assert bank.client.post(f"/v1/requests/{request}/cancel").status_code == 202
    bank.drain()

    assert [state(bank, request) for request in (waiting, approving)] == ["cancelled_by_client"] * 2
    assert bank.client.post(f"/v1/requests/{waiting}/code").status_code == 409
    assert bank.operator.post(f"/v1/admin/requests/{approving}/approve").status_code == 409
    assert bank.quantities("bank") == (1_000, 0)


def test_only_its_own_client_confirms_a_request(bank: Teller) -> None:
    """
    For another client the request does not exist, even with the right code.
    """
    request = bank.withdraw("bank", 300)
    code = send(bank)[request]

    assert confirm(bank.other, request, code).status_code == 404
    assert bank.other.post(f"/v1/requests/{request}/code").status_code == 404
    assert confirm(bank.client, request, code).status_code == 202


# ---------------------------------------------------------------- above approve_above


def test_a_withdrawal_above_both_thresholds_is_confirmed_and_then_approved(bank: Teller) -> None:
    """
    First comes the code, then another client's approval, then the debit.
    """
    request = confirmed(bank, 600)
    assert (state(bank, request), bank.quantities("bank")) == ("awaiting_approval", (1_000, 0))
    answer = bank.operator.post(f"/v1/admin/requests/{request}/approve", {"reason": "I called her"})
    assert answer.status_code == 202
    bank.drain()

    assert (state(bank, request), bank.quantities("bank")) == ("completed", (400, 0))
    client, operator = bank.client.id, bank.operator.id
    assert history(bank, request)[2:] == [
        ("awaiting_approval", client, "confirmed; waits for another client's approval"),
        ("completed", operator, "approved"),
    ]
    assert audit(bank, request) == [("confirm", client, None), ("approve", operator, "I called her")]


def test_a_client_cannot_approve_its_own_request(bank: Teller) -> None:
    """
    Approving or denying a request of the caller's own client is refused, even for an admin.
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
    assert state(bank, request) == "awaiting_approval"
    assert bank.client.post(f"/v1/admin/requests/{request}/approve").status_code == 403
    assert audit(bank, request) == [("confirm", bank.admin.id, None)]


def test_a_denied_withdrawal_is_rejected_with_the_reason(bank: Teller) -> None:
    """
    A denial needs a reason. The client reads it, and nothing was taken.
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


def test_the_first_of_two_verdicts_counts(bank: Teller) -> None:
    """
    Both verdicts are accepted before the batch, which applies the first.
    """
    request = confirmed(bank, 600)
    assert bank.operator.post(f"/v1/admin/requests/{request}/deny", {"reason": "no"}).status_code == 202
    assert bank.admin.post(f"/v1/admin/requests/{request}/approve").status_code == 202
    bank.drain()

    assert state(bank, request) == "denied"


def test_an_approved_withdrawal_is_decided_like_a_new_one(bank: Teller) -> None:
    """
    All checks are repeated, so an approved withdrawal may still lack funds.
    """
    first, second = confirmed(bank, 600), confirmed(bank, 601)
    for request in (first, second):
        assert bank.operator.post(f"/v1/admin/requests/{request}/approve").status_code == 202
    bank.drain()

    assert [state(bank, request) for request in (first, second)] == ["completed", "insufficient_funds"]


def test_a_withdrawal_that_needs_only_an_approval_gets_no_code(teller: Teller) -> None:
    """
    The thresholds are independent. An approval needs no address.
    """
    teller.open("vault", "balance", 1_000, approve_above=0)
    request = teller.withdraw("vault", 1)
    assert state(teller, request) == "awaiting_approval"
    assert teller.operator.post(f"/v1/admin/requests/{request}/approve").status_code == 202
    teller.drain()

    assert state(teller, request) == "completed"


# ---------------------------------------------------------------- with refunds, replays, gateways and deadlines


def test_a_waiting_withdrawal_can_be_neither_refunded_nor_replayed(bank: Teller) -> None:
    """
    Nothing was taken that a refund could return, and nothing failed.
    """
    request = bank.withdraw("bank", 300)
    refund = bank.admin.post(f"/v1/admin/requests/{request}/refund", {"reason": "x"}).json["id"]
    replay = bank.admin.post(f"/v1/admin/requests/{request}/replay", {"reason": "x"})
    bank.drain()

    assert replay.json["code"] == "not_failed"
    assert (state(bank, refund), state(bank, request)) == ("outcome_pending", "awaiting_confirmation")


def test_a_replay_after_a_gateway_failure_needs_no_second_code(
    teller: Teller,
) -> None:
    """
    A confirmed withdrawal is held, fails at the gateway, is replayed and paid. A refund returns the amount.
    """
    teller.open("bank", "balance", 1_000, confirm_above=100, gateway="sandbox")
    teller.client.put("/v1/accounts/u", {"email": ADA})
    request = confirmed(teller)
    assert (state(teller, request), teller.quantities("bank")) == ("settling", (700, 300))
    teller.call_gateway(Answer("unknown", 503))
    assert state(teller, request) == "gateway_unreachable"
    assert teller.admin.post(f"/v1/admin/requests/{request}/replay", {"reason": "x"}).status_code == 202
    teller.drain()
    teller.call_gateway(Answer("done", 200))

    assert (state(teller, request), teller.quantities("bank")) == ("completed", (700, 0))
    assert send(teller) == {}
    teller.admin.post(f"/v1/admin/requests/{request}/refund", {"reason": "x"})
    teller.drain()
    assert (state(teller, request), teller.quantities("bank")) == ("refunded_by_admin", (1_000, 0))


def test_a_replay_after_a_processor_error_needs_a_new_code(
    bank: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The withdrawal failed after its confirmation, before anything was taken. The old code no longer confirms it.
    """
    request = bank.withdraw("bank", 300)
    code = send(bank)[request]
    confirm(bank.client, request, code)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a rule with a fault")

    with monkeypatch.context() as patched:
        patched.setattr("processor.domain.rules.waiting.begin", broken)
        bank.drain()
    assert state(bank, request) == "processor_error"
    bank.admin.post(f"/v1/admin/requests/{request}/replay", {"reason": "mended"})
    bank.drain()
    assert state(bank, request) == "awaiting_confirmation"
    cool_down(bank)
    again = send(bank)[request]
    assert confirm(bank.client, request, again).status_code == 202
    bank.drain()
    assert state(bank, request) == "completed"


def test_the_deadline_includes_the_time_of_waiting(bank: Teller) -> None:
    """
    A withdrawal that is confirmed after its deadline is rejected.
    """
    soon = own(
        bank, "SELECT to_char((now() + interval '1 s') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ')"
    )
    body = {"resource": "bank", "account": "u", "amount": 300, "apply_before": soon[0][0]}
    request = bank.client.post("/v1/withdrawals", body).json["id"]
    bank.drain()
    assert state(bank, request) == "awaiting_confirmation"
    code = send(bank)[request]
    own(bank, "SELECT pg_sleep(extract(epoch FROM %s::timestamptz - clock_timestamp()))", soon[0][0])
    confirm(bank.client, request, code)
    bank.drain()

    assert state(bank, request) == "deadline_passed"


def test_a_deadline_also_ends_a_request_that_is_approved_or_replayed_after_it(
    bank: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each decision looks at the deadline: an approval and a replay that come after it are rejected.
    """
    soon = own(
        bank, "SELECT to_char((now() + interval '1 s') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ')"
    )[0][0]
    bank.open("guarded", "balance", 1_000, approve_above=100)
    kinds = ("withdrawals", "redemptions")
    body = {"account": "u", "amount": 300, "apply_before": soon}
    waiting = [bank.client.post(f"/v1/{kind}", {"resource": "guarded", **body}).json["id"] for kind in kinds]
    bank.drain()
    with monkeypatch.context() as patched:
        patched.setattr("processor.domain.rules.waiting.begin", lambda *_, **__: 1 / 0)
        failed = bank.client.post("/v1/withdrawals", {"resource": "guarded", **body}).json["id"]
        bank.drain()
    assert [state(bank, one) for one in (*waiting, failed)] == ["awaiting_approval"] * 2 + ["processor_error"]
    own(bank, "SELECT pg_sleep(extract(epoch FROM %s::timestamptz - clock_timestamp()))", soon)

    answers = [bank.admin.post(f"/v1/admin/requests/{one}/approve", {"reason": "known"}) for one in waiting]
    answers.append(bank.admin.post(f"/v1/admin/requests/{failed}/replay", {"reason": "mended"}))
    bank.drain()

    assert [answer.status_code for answer in answers] == [202] * 3
    assert [state(bank, one) for one in (*waiting, failed)] == ["deadline_passed"] * 3
    assert bank.quantities("guarded") == (1_000, 0)


def test_many_requests_below_a_threshold_have_a_limit_for_the_day(bank: Teller) -> None:
    """
    A thief of a key cannot take without a code more than the daily limit, one small amount after the other.
    """
    bank.admin.patch("/v1/resources/bank", {"per_account_daily_limit": 250})
    bank.drain()

    asked = [bank.withdraw("bank", 100) for _ in range(3)]
    large = bank.withdraw("bank", 300)

    assert [state(bank, one) for one in asked] == ["completed", "completed", "daily_limit_reached"]
    assert state(bank, large) == "daily_limit_reached"  # before a code is sent
    assert send(bank) == {}
    assert bank.client.get("/v1/resources/bank").json["per_account_daily_limit"] == 250


# ---------------------------------------------------------------- whatever takes


@pytest.mark.parametrize("kind", sorted(name for name, kind in KINDS.items() if kind.takes and kind.rule))
def test_no_kind_takes_more_than_a_threshold_without_its_code_and_its_approval(
    bank: Teller, kind: str
) -> None:
    """
    A key alone takes nothing above a threshold, by whatever kind of request, in one call or, if it may, in a batch.
    """
    bank.client.put("/v1/accounts/v", {"email": "bob@example.com"})
    first, second, third = (
        bank.client.post(f"/v1/{kind}s", {"resource": "bank", "account": account, "amount": 600}).json["id"]
        if account == "u" or not KINDS[kind].in_batches
        else in_a_batch(bank, kind, account)
        for account in ("u", "v", "nobody")
    )
    bank.drain()

    waits = "awaiting_confirmation"
    assert [state(bank, one) for one in (first, second, third)] == [waits, waits, "no_contact"]
    assert bank.quantities("bank") == (1_000, 0)

    confirm(bank.client, first, send(bank)[first])
    bank.drain()
    assert (state(bank, first), bank.quantities("bank")) == ("awaiting_approval", (1_000, 0))
    assert bank.admin.post(f"/v1/admin/requests/{first}/approve", {"reason": "known"}).status_code == 202
    bank.drain()
    end = ("held", (400, 600)) if KINDS[kind].reserves else ("completed", (400, 0))
    assert (state(bank, first), bank.quantities("bank")) == end


def in_a_batch(bank: Teller, kind: str, account: str) -> str:
    """Send a batch with one request above the thresholds. Returns its id."""
    item = {"kind": kind, "idempotency_key": account, "resource": "bank", "account": account, "amount": 600}
    [result] = bank.client.post("/v1/batches", {"requests": [item]}).json["results"]
    accepted: str = result["request"]["id"]
    return accepted
