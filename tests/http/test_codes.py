"""
One-time codes over HTTP: one at a time for each destination, valid once, with few guesses.
"""

from __future__ import annotations

import contextlib
import hmac
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from processor.clients import codes
from processor.outbox import code_messages, tries
from processor.outbox.tries import BEFORE_FIRST
from processor.storage import connections
from tests.http.teller import claim_codes

if TYPE_CHECKING:
    from processor.outbox.code_messages import CodeMessage
    from tests.http.teller import Client, Reply, Teller

ADA = "ada@example.com"


def claim(teller: Teller) -> list[CodeMessage]:
    """Claim the codes that are due, as a courier does, and record them as sent."""
    with connections.connect(
        teller.settings.courier_database_url, application_name="test courier"
    ) as connection:
        claimed = claim_codes(connection, teller.settings)
        code_messages.record(connection, teller.settings, [tries.sent(one) for one in claimed])
    return claimed


def sent(teller: Teller) -> str:
    """Return the digits of the only code that is due."""
    [delivery] = claim(teller)
    return delivery.digits


def wrong(right: str) -> str:
    """Return another code."""
    return f"{(int(right) + 1) % 1_000_000:06}"


def verify(client: Client, code: str, destination: str = ADA, **more: Any) -> Reply:
    """Verify a code."""
    return client.post("/v1/codes/verify", {"destination": destination, "code": code, **more})


def own(teller: Teller, statement: str, *parameters: object) -> Any:
    """Execute a statement as the owner of the database. Returns its rows, if any."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        cursor = connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else None


def cool_down(teller: Teller) -> None:
    """End the cooldown of all destinations."""
    own(teller, "UPDATE code_turns SET taken_at = taken_at - interval '60 s'")


def test_a_code_is_valid_once(teller: Teller) -> None:
    """
    A code is requested, sent and verified. Verifying it again fails.
    """
    asked = teller.client.post("/v1/codes", {"destination": ADA})
    code = sent(teller)

    assert asked.status_code == 202
    assert asked.json.keys() == {"destination", "expires_at", "resend_after"}
    assert asked.json["destination"] == ADA
    assert (verify(teller.client, code).status_code, verify(teller.client, code).json["code"]) == (
        200,
        "code_invalid",
    )
    assert claim(teller) == []


def test_a_wrong_code_returns_the_remaining_attempts_and_the_fifth_ends_it(teller: Teller) -> None:
    """
    The remaining attempts go from 4 to 0. Then the right code is refused, too.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    code = sent(teller)

    answers = [verify(teller.client, wrong(code)) for _ in range(5)]

    assert [answer.json["attempts_remaining"] for answer in answers] == [4, 3, 2, 1, 0]
    assert {(answer.status_code, answer.json["code"]) for answer in answers} == {(422, "code_invalid")}
    assert verify(teller.client, code).json["attempts_remaining"] == 0


def test_a_destination_gets_one_code_a_minute(teller: Teller) -> None:
    """
    The cooldown holds for all clients, purposes and spellings of one mailbox. A refusal has the seconds to wait.
    """
    first = teller.client.post("/v1/codes", {"destination": ADA})
    others = [
        teller.client.post("/v1/codes", {"destination": ADA}),
        teller.other.post("/v1/codes", {"destination": ADA}),
        teller.client.post("/v1/codes", {"destination": ADA, "purpose": "another"}),
        teller.client.post("/v1/codes", {"destination": "Ada@Example.COM"}),
    ]

    assert first.status_code == 202
    for answer in others:
        assert (answer.status_code, answer.json["code"]) == (429, "code_cooldown")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert teller.client.post("/v1/codes", {"destination": "grace@example.com"}).status_code == 202
    assert len(claim(teller)) == 2


def test_one_of_fifty_simultaneous_calls_gets_a_code(teller: Teller) -> None:
    """
    One call returns 202 and the others 429.
    """
    with ThreadPoolExecutor(50) as crowd:
        answers = list(
            crowd.map(lambda _: teller.client.post("/v1/codes", {"destination": ADA}).status_code, range(50))
        )

    assert answers.count(202) == 1
    assert set(answers) <= {202, 429, 503}  # 503 on a busy machine, without a code
    assert len(claim(teller)) == 1


def test_a_new_code_replaces_the_old_one(teller: Teller) -> None:
    """
    After the cooldown a new code is valid, and the old one is invalid.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    old = sent(teller)
    cool_down(teller)
    assert teller.client.post("/v1/codes", {"destination": ADA}).status_code == 202
    new = sent(teller)

    assert verify(teller.client, old).json["code"] == "code_invalid"
    assert verify(teller.client, new).status_code == 200


def test_a_code_that_was_replaced_before_it_was_sent_is_not_sent(teller: Teller) -> None:
    """
    A code and its delivery are one row, so a replaced code is never sent.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    cool_down(teller)
    teller.client.post("/v1/codes", {"destination": ADA})

    assert verify(teller.client, sent(teller)).status_code == 200


def test_a_code_is_valid_for_its_client_and_purpose_alone(teller: Teller) -> None:
    """
    Another client, or another purpose, cannot verify the code.
    """
    teller.client.post("/v1/codes", {"destination": ADA, "purpose": "sign-in"})
    code = sent(teller)

    assert verify(teller.other, code, purpose="sign-in").json["code"] == "code_invalid"
    assert verify(teller.client, code).json["code"] == "code_invalid"
    assert verify(teller.client, code, purpose="pay").json["code"] == "code_invalid"
    assert verify(teller.client, code, purpose="sign-in", destination=ADA.upper()).status_code == 200


def test_a_code_expires(teller: Teller) -> None:
    """
    A code is invalid after TELLER_CODE_TTL_SECONDS.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    code = sent(teller)
    own(teller, "UPDATE codes SET expires_at = clock_timestamp()")

    assert verify(teller.client, code).json["code"] == "code_invalid"


def test_five_of_fifty_simultaneous_guesses_are_compared(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each guess is counted before it is compared, one after the other. The sixth is refused without a comparison.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    code = sent(teller)
    compared = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)

    with ThreadPoolExecutor(50) as crowd:
        answers = list(crowd.map(lambda _: verify(teller.client, wrong(code)), range(50)))

    assert compared.count(wrong(code).encode()) == 5  # keys are compared, too, when their cache expires
    remaining = [answer.json["attempts_remaining"] for answer in answers if answer.status_code == 422]
    assert sorted(left for left in remaining if left) == [1, 2, 3, 4]
    assert len(remaining) <= 20  # counted guesses; on a busy machine some return 503
    assert {answer.json["code"] for answer in answers} <= {
        "code_invalid",
        "code_locked",
        "database_unavailable",
    }
    assert verify(teller.client, code).status_code in (422, 429)


def test_one_of_fifty_simultaneous_right_codes_is_accepted(teller: Teller) -> None:
    """
    A code is valid once at any concurrency. A second right code is not a wrong guess.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    code = sent(teller)

    with ThreadPoolExecutor(50) as crowd:
        answers = [
            answer.status_code for answer in crowd.map(lambda _: verify(teller.client, code), range(50))
        ]

    assert answers.count(200) == 1
    assert set(answers) <= {200, 422, 503}  # 503 on a busy machine, without a result
    assert own(teller, "SELECT wrong FROM code_guesses") == [(0,)]


def test_twenty_wrong_guesses_in_a_day_lock_the_destination_for_that_client(teller: Teller) -> None:
    """
    A locked destination gets neither guesses nor codes until the next day. Other clients are not affected.
    """
    code = ""
    for _ in range(4):
        teller.client.post("/v1/codes", {"destination": ADA})
        code = sent(teller)
        for _ in range(5):
            assert verify(teller.client, wrong(code)).status_code == 422
        cool_down(teller)

    for answer in (
        teller.client.post("/v1/codes", {"destination": ADA}),
        verify(teller.client, code),
        verify(teller.client, code, purpose="another"),
    ):
        assert (answer.status_code, answer.json["code"]) == (429, "code_locked")
        assert 1 <= int(answer.headers["Retry-After"]) <= 86_400
    assert teller.other.post("/v1/codes", {"destination": ADA}).status_code == 202
    assert verify(teller.other, sent(teller)).status_code == 200
    own(teller, "UPDATE code_guesses SET day = day - 1")
    cool_down(teller)
    teller.client.post("/v1/codes", {"destination": ADA})
    assert verify(teller.client, sent(teller)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"destination": "ada"},
        {"destination": "ada@example.com\n"},
        {"destination": "ada@example.com, grace@example.com"},
        {"destination": "+4915112345678"},
        {"destination": f"{'a' * 65}@example.com"},
        {"destination": ADA, "purpose": ""},
        {"destination": ADA, "purpose": "a\r\nBcc: x"},
        {"destination": ADA, "purpose": None},
        {"destination": ADA, "code": "123456"},
    ],
)
@pytest.mark.changes_nothing
def test_an_invalid_destination_or_purpose_is_refused(teller: Teller, body: dict[str, Any]) -> None:
    """
    An invalid destination starts no cooldown. A telephone number needs a gateway named `sms`.
    """
    answer = teller.client.post("/v1/codes", body)

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert own(teller, "SELECT count(*) FROM code_turns") == [(0,)]


@pytest.mark.parametrize(
    "code", ["", "12345", "1234567", "12345x", "\uff11\uff12\uff13\uff14\uff15\uff16", 123456, None]
)
def test_an_invalid_code_is_refused_and_not_counted(teller: Teller, code: object) -> None:
    """
    A guess is a text of six digits. Anything else is refused and does not count.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    answer = teller.client.post("/v1/codes/verify", {"destination": ADA, "code": code})

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert verify(teller.client, wrong(sent(teller))).json["attempts_remaining"] == 4


def test_the_digits_are_nowhere_in_the_database_and_need_the_secret(teller: Teller) -> None:
    """
    The digits are derived from the id with TELLER_SECRET, and are stored nowhere.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    [delivery] = claim(teller)

    rows = own(teller, "SELECT codes::text FROM codes UNION ALL SELECT audit::text FROM audit")
    assert not any(delivery.digits in row for (row,) in rows)
    assert delivery.digits not in repr(delivery)
    assert codes.digits_of("another secret", delivery.id) != delivery.digits


def test_a_guess_without_an_answer_is_not_counted(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The count is committed before the answer. A fault before the commit leaves the count unchanged.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    code = sent(teller)

    def broken(one: bytes, other: bytes) -> bool:
        raise RuntimeError("the process is killed here")

    with (
        monkeypatch.context() as patched,
        contextlib.suppress(RuntimeError),
        structlog.testing.capture_logs(),
    ):
        patched.setattr(hmac, "compare_digest", broken)
        assert verify(teller.client, code).status_code == 500

    assert verify(teller.client, wrong(code)).json["attempts_remaining"] == 4


def test_old_codes_cooldowns_and_guesses_are_deleted(teller: Teller) -> None:
    """
    Rows from before yesterday are deleted. Rows that still have an effect stay.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    verify(teller.client, wrong(sent(teller)))
    own(teller, "UPDATE codes SET expires_at = expires_at - interval '3 days'")
    own(teller, "UPDATE code_turns SET taken_at = taken_at - interval '3 days'")
    own(teller, "UPDATE code_guesses SET day = day - 2")
    teller.client.post("/v1/codes", {"destination": "grace@example.com"})

    with connections.connect(
        teller.settings.worker_database_url, application_name="test worker"
    ) as connection:
        codes.tidy(connection)

    assert own(teller, "SELECT destination FROM codes") == [("grace@example.com",)]
    assert own(teller, "SELECT destination FROM code_turns") == [("grace@example.com",)]
    assert own(teller, "SELECT count(*) FROM code_guesses") == [(0,)]


def test_a_code_that_cannot_be_sent_is_retried_a_limited_number_of_times(teller: Teller) -> None:
    """
    A code is retried on a schedule with an end, and is still valid after the last try.
    """
    teller.client.post("/v1/codes", {"destination": ADA})
    settings = replace(teller.settings, code_ttl_seconds=3_600.0)
    pauses = []
    with connections.connect(settings.courier_database_url, application_name="test courier") as connection:
        while claimed := claim_codes(connection, settings):
            [outcome] = [tries.failed(one, "no connection", code_messages.PAUSES_SECONDS) for one in claimed]
            code_messages.record(connection, settings, [outcome])
            pauses.append(outcome.pause_seconds)
            own(teller, "UPDATE codes SET due_at = now() WHERE due_at IS NOT NULL")

    assert pauses == [*code_messages.PAUSES_SECONDS, None]
    assert verify(teller.client, claimed_digits(teller)).status_code == 200


def test_the_next_due_time_of_codes_is_exact(teller: Teller) -> None:
    """
    Without a code to send there is no due time, so that the courier does not poll.
    """
    with connections.connect(
        teller.settings.courier_database_url, application_name="test courier"
    ) as connection:
        assert code_messages.due(connection, BEFORE_FIRST) == []
        teller.client.post("/v1/codes", {"destination": ADA})
        assert code_messages.due(connection, BEFORE_FIRST) == [(teller.client.id, 0)]
        [delivery] = claim_codes(connection, teller.settings)
        code_messages.record(
            connection,
            teller.settings,
            [tries.failed(delivery, "no connection", code_messages.PAUSES_SECONDS)],
        )
        [(_, seconds)] = code_messages.due(connection, BEFORE_FIRST)
        assert 0 < seconds <= code_messages.PAUSES_SECONDS[0]
        own(teller, "UPDATE codes SET due_at = NULL")
        assert code_messages.due(connection, BEFORE_FIRST) == []


def claimed_digits(teller: Teller) -> str:
    """Return the digits of the only code."""
    [(code_id,)] = own(teller, "SELECT id FROM codes")
    return codes.digits_of(teller.settings.secret, code_id)
