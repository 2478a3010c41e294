"""
Gateway effects on PostgreSQL: one courier for each, a limit for all, and a permanent first definite answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from processor.gateways.protocol import Answer
from processor.outbox import gateway_calls
from processor.outbox.gateway_calls import CallResult, ClaimedEffect
from processor.storage import connections
from tests.store.store import at_once
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterator

    from processor.domain.model import Outcome
    from processor.intake.intake import Submission
    from processor.outbox.gateway_calls import Claim
    from processor.storage.connections import Connection
    from tests.servers import Database
    from tests.store.store import Store

TRIES = 3
TIMEOUT_SECONDS = 10.0


@pytest.fixture
def connect(database: Database) -> Iterator[Callable[[], Connection]]:
    """
    Connect as couriers do, and close the connections at the end.
    """
    opened: list[Connection] = []

    def one() -> Connection:
        opened.append(_connect(database))
        gateway_calls.introduce(opened[-1], "bank")
        return opened[-1]

    yield one
    for connection in opened:
        connection.close()


@pytest.fixture
def courier(connect: Callable[[], Connection]) -> Connection:
    """
    One courier's connection.
    """
    return connect()


# ---------------------------------------------------------------- claiming


def test_an_attempt_is_committed_before_the_call_can_be_made(store: Store, courier: Connection) -> None:
    """
    When a claim returns, its attempt is visible to others, so no call is unrecorded.
    """
    [asked] = held(store, 1)

    [claimed] = claim(courier).effects

    assert claimed.order.request_id == asked
    assert claimed.order.destination == "IBAN 1"
    assert claimed.order.amount == 5
    assert store.owner.execute("SELECT request_id, token, ended_at FROM attempts").fetchall() == [
        (asked, claimed.token, None)
    ]


def test_a_claimed_effect_is_exclusive_until_its_lease_expires(
    store: Store, connect: Callable[[], Connection]
) -> None:
    """
    A courier that never returns costs one lease. The next call has the same key.
    """
    held(store, 1)
    [first] = claim(connect()).effects

    assert claim(connect()).effects == []
    expire_leases(store)
    [second] = claim(connect()).effects

    assert second.order == first.order
    assert (second.tries, second.token != first.token) == (2, True)
    assert store.one("SELECT count(*) FROM attempts") == 2


def test_the_limit_of_calls_at_once_holds_across_couriers(
    store: Store, connect: Callable[[], Connection]
) -> None:
    """
    Eight couriers that claim at the same instant get no more than the limit together, and no effect twice.
    """
    held(store, gateway_calls.CALLS_AT_ONCE + 40)
    couriers = [connect() for _ in range(8)]
    claims: list[ClaimedEffect] = []

    for _ in range(4):
        at_once(*(lambda one=one: claims.extend(claim(one, room=20).effects) for one in couriers))

    assert len(claims) == gateway_calls.CALLS_AT_ONCE
    assert len({one.order.request_id for one in claims}) == gateway_calls.CALLS_AT_ONCE
    gateway_calls.record(couriers[0], [called(one, "done") for one in claims[:10]])
    assert len(claim(couriers[1]).effects) == 10


def test_one_gateway_does_not_use_the_limit_of_another(store: Store, courier: Connection) -> None:
    """
    Each gateway has its own limit, and due effects of each are seen at once.
    """
    gateway_calls.introduce(courier, "post")
    held(store, gateway_calls.CALLS_AT_ONCE + 1)
    held(store, 1, gateway="post")
    claim(courier)

    assert gateway_calls.due_gateways(courier) == {"bank": 0.0, "post": 0.0}
    assert claim(courier).effects == []
    assert len(claim(courier, "post").effects) == 1
    assert (
        0
        < gateway_calls.due_gateways(courier)["post"]
        <= TIMEOUT_SECONDS + gateway_calls.LEASE_MARGIN_SECONDS
    )


def test_a_courier_stopped_in_the_middle_of_a_claim_does_not_keep_the_others_from_theirs(
    store: Store, connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The others get nothing instead of waiting, and PostgreSQL soon ends the stopped courier's connection.
    """
    held(store, 1)
    monkeypatch.setattr(gateway_calls, "IDLE_TIMEOUT_MS", 1_000)
    stopped, other = connect(), connect()
    stopped.execute("BEGIN")
    stopped.execute(gateway_calls.SQL["set_timeouts"], {"idle_ms": gateway_calls.IDLE_TIMEOUT_MS})
    stopped.execute(gateway_calls.SQL["lock_gateway"], {"gateway": "bank"})

    limit = Deadline(0.2)
    assert claim(other).effects == []
    limit.check()
    eventually(lambda: len(claim(other).effects) == 1)


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("outcome", "status", "held_after", "available_after"),
    [("done", "completed", 0, 95), ("declined", "refunded", 0, 100), ("misconfigured", "failed", 5, 95)],
)
def test_an_answer_is_settled_by_the_batch(
    store: Store, courier: Connection, outcome: Outcome, status: str, held_after: int, available_after: int
) -> None:
    """
    `done` is captured and `declined` is released. `misconfigured` stays held and waits for an operator.
    """
    [asked] = held(store, 1)
    [claimed] = claim(courier).effects

    recorded = gateway_calls.record(courier, [called(claimed, outcome, reference="T1", reason="because")])
    store.drain("till")

    assert recorded.partitions == {claimed.partition}
    assert [state and state.status for state in store.decided([asked])] == [status]
    assert store.owner.execute("SELECT available, held FROM resources").fetchall() == [
        (available_after, held_after)
    ]
    assert store.one("SELECT outcome FROM attempts") == outcome
    assert gateway_calls.due_gateways(courier) == {}


def test_an_unknown_outcome_is_tried_again_and_then_waits_for_an_admin(
    store: Store, courier: Connection
) -> None:
    """
    An unknown outcome is never refunded. After the last try the request has failed, and its hold stays.
    """
    [asked] = held(store, 1)
    for number in range(1, TRIES):
        [claimed] = claim(courier).effects
        assert claimed.tries == number
        gateway_calls.record(courier, [called(claimed, "unknown", pause=3600.0)])
        assert 3500 < gateway_calls.due_gateways(courier)["bank"] <= 3600
        assert (store.waiting(), claim(courier).effects) == (0, [])
        expire_leases(store)

    [claimed] = claim(courier).effects
    gateway_calls.record(courier, [called(claimed, "unknown", reason="answered 503")])
    store.drain("till")

    assert store.statuses([asked]) == ["gateway_unreachable"]
    assert store.one("SELECT reason FROM decisions WHERE current AND status = 'failed'") == "answered 503"
    assert (store.one("SELECT held FROM resources"), store.available("till")) == (5, 95)


def test_the_last_try_of_a_courier_that_never_returned_is_unknown(store: Store, courier: Connection) -> None:
    """
    No effect is called more often than allowed, even if its calls kill couriers.
    """
    [asked] = held(store, 1)
    for _ in range(TRIES):
        assert len(claim(courier).effects) == 1
        expire_leases(store)

    given_up = claim(courier)
    store.drain("till")

    assert (given_up.effects, len(given_up.given_up)) == ([], 1)
    assert store.statuses([asked]) == ["gateway_unreachable"]
    assert store.one("SELECT count(*) FROM attempts") == TRIES


def test_a_definite_answer_counts_from_any_token_and_the_first_one_for_ever(
    store: Store, courier: Connection
) -> None:
    """
    A late yes from a call that was considered lost counts. A later no changes nothing.
    """
    [asked] = held(store, 1)
    [lost] = claim(courier).effects
    expire_leases(store)
    [second] = claim(courier).effects

    assert gateway_calls.record(courier, [called(lost, "done", reference="T1")]).partitions
    assert not gateway_calls.record(courier, [called(second, "declined")]).partitions
    store.drain("till")

    assert store.statuses([asked]) == ["completed"]
    assert store.one("SELECT reference FROM decisions WHERE current AND request_id = %s", asked) == "T1"


def test_an_unknown_outcome_counts_only_from_the_present_token(store: Store, courier: Connection) -> None:
    """
    A lost call that times out late neither stops nor delays the running one.
    """
    held(store, 1)
    [lost] = claim(courier).effects
    expire_leases(store)
    [present] = claim(courier).effects
    before = store.one("SELECT e::text FROM effects e")

    gateway_calls.record(courier, [called(lost, "unknown", pause=1.0)])
    gateway_calls.record(courier, [called(lost, "unknown")])
    gateway_calls.record(courier, [called(lost, "misconfigured")])

    assert store.one("SELECT e::text FROM effects e") == before
    assert gateway_calls.record(courier, [called(present, "done")]).partitions


@pytest.mark.parametrize("late", ["unknown", "misconfigured"])
def test_unknown_never_overwrites(store: Store, courier: Connection, late: Outcome) -> None:
    """
    A definite outcome stays, even if another courier later records an unknown one.
    """
    [asked] = held(store, 1)
    [lost] = claim(courier).effects
    expire_leases(store)
    [second] = claim(courier).effects
    gateway_calls.record(courier, [called(second, "done")])

    gateway_calls.record(courier, [called(lost, late)])
    store.drain("till")

    assert store.statuses([asked]) == ["completed"]


def test_a_late_yes_settles_a_failed_request(store: Store, courier: Connection) -> None:
    """
    A failed request whose gateway did pay is completed without an operator.
    """
    [asked] = held(store, 1)
    [lost] = claim(courier).effects
    for _ in range(TRIES):
        expire_leases(store)
        claim(courier)
    store.drain("till")
    assert store.statuses([asked]) == ["gateway_unreachable"]

    gateway_calls.record(courier, [called(lost, "done")])
    store.drain("till")

    assert store.statuses([asked]) == ["completed"]
    assert (store.one("SELECT held FROM resources"), store.available("till")) == (0, 95)


def test_recording_the_same_answers_again_changes_nothing(store: Store, courier: Connection) -> None:
    """
    Repeating a COMMIT whose answer was lost does no harm.
    """
    held(store, 3)
    answers: list[Outcome] = ["done", "declined", "misconfigured"]
    calls = [called(one, answer) for one, answer in zip(claim(courier).effects, answers, strict=True)]
    assert len(gateway_calls.record(courier, calls).partitions) == 1
    store.drain("till")
    before = store.contents()

    again = gateway_calls.record(courier, calls)
    store.drain("till")

    assert (again.partitions, again.contradicted, store.contents()) == (set(), [], before)


def test_a_yes_after_a_no_is_never_silent(store: Store, courier: Connection) -> None:
    """
    The ledger cannot follow a gateway that contradicts itself, but the contradiction is reported.
    """
    [asked] = held(store, 1)
    [lost] = claim(courier).effects
    expire_leases(store)
    [second] = claim(courier).effects
    gateway_calls.record(courier, [called(second, "declined")])

    recorded = gateway_calls.record(courier, [called(lost, "done")])
    store.drain("till")

    assert recorded.contradicted == [asked]
    assert store.statuses([asked]) == ["gateway_declined"]
    assert store.one("SELECT array_agg(outcome ORDER BY outcome) FROM attempts") == ["declined", "done"]


def test_a_refunded_effect_is_never_called_again(store: Store, courier: Connection) -> None:
    """
    A refund of a failed request voids its effect. A courier that resumes later cannot make it due again.

    A late yes is recorded as an event, without an entry.
    """
    [asked] = held(store, 1)
    [lost] = claim(courier).effects
    for _ in range(TRIES):
        expire_leases(store)
        claim(courier)
    store.drain("till")
    store.accept(refund_of(store, asked))
    store.drain("till")
    assert store.statuses([asked]) == ["refunded_by_admin"]

    gateway_calls.record(courier, [called(lost, "unknown", pause=0.0)])
    assert gateway_calls.due_gateways(courier) == {}
    gateway_calls.record(courier, [called(lost, "done")])
    reports = store.drain("till")

    assert [request for report in reports for request in report.paid_after_refund] == [asked]
    assert (store.one("SELECT held FROM resources"), store.available("till")) == (0, 100)


# ---------------------------------------------------------------- the breaker


def test_the_breaker_opens_after_unknowns_in_a_row_and_nothing_fails_by_it(
    store: Store, courier: Connection
) -> None:
    """
    A gateway that is down gets no calls, and its effects stay due. Later one call is made, and its answer
    closes the breaker.
    """
    asked = held(store, gateway_calls.BREAKER_OPENS_AFTER + 10)
    calls = [called(one, "unknown", pause=0.0) for one in claim(courier).effects]
    gateway_calls.record(courier, calls)

    assert gateway_calls.count_unknowns(courier, "bank", calls[1:]) == (False, False)
    assert gateway_calls.count_unknowns(courier, "bank", calls[:1]) == (False, True)

    assert claim(courier).effects == []
    assert 0 < gateway_calls.due_gateways(courier)["bank"] <= gateway_calls.BREAKER_OPEN_SECONDS
    assert store.one("SELECT count(*) FROM effects WHERE due_at IS NOT NULL") == len(asked)
    assert store.waiting() == 0

    store.owner.execute("UPDATE gateways SET open_until = now()")
    [probe] = claim(courier).effects
    assert claim(courier).effects == []
    gateway_calls.record(courier, [called(probe, "done")])
    assert gateway_calls.count_unknowns(courier, "bank", [called(probe, "done")]) == (True, False)
    assert len(claim(courier).effects) == gateway_calls.CALLS_AT_ONCE


def test_a_failed_probe_keeps_the_breaker_open(store: Store, courier: Connection) -> None:
    """
    One more unknown outcome opens the breaker again.
    """
    held(store, 1)
    store.owner.execute(
        "UPDATE gateways SET failures = %s, open_until = now() WHERE name = 'bank'",
        (gateway_calls.BREAKER_OPENS_AFTER,),
    )
    [probe] = claim(courier).effects

    assert gateway_calls.count_unknowns(courier, "bank", [called(probe, "unknown")]) == (True, True)
    assert claim(courier).effects == []


def test_an_answer_in_between_ends_the_row(store: Store, courier: Connection) -> None:
    """
    Unknown outcomes add up only without other answers between them. A no is an answer, too.
    """
    held(store, 1)
    [claimed] = claim(courier).effects
    many = [called(claimed, "unknown")] * (gateway_calls.BREAKER_OPENS_AFTER - 1)

    gateway_calls.count_unknowns(courier, "bank", many)
    gateway_calls.count_unknowns(courier, "bank", [*many[:5], called(claimed, "declined"), *many[:2]])

    assert store.one("SELECT failures FROM gateways") == 2
    assert gateway_calls.count_unknowns(courier, "bank", [called(claimed, "done")]) == (False, False)
    assert gateway_calls.count_unknowns(courier, "bank", [called(claimed, "done")]) is None


# ---------------------------------------------------------------- the role


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE resources SET held = 0",
        "INSERT INTO entries SELECT * FROM entries",
        "UPDATE decisions SET current = false",
        "INSERT INTO decisions SELECT * FROM decisions",
        "DELETE FROM effects",
        "UPDATE effects SET voided_at = NULL",
        "DELETE FROM inbox",
        "DELETE FROM attempts",
        "UPDATE webhooks SET secret = ''",
        "SELECT digest FROM api_keys",
    ],
)
def test_a_courier_cannot_touch_the_ledger(courier: Connection, statement: str) -> None:
    """
    The courier's role may write effects, attempts and deliveries, and nothing that belongs to a balance.
    """
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        courier.execute(statement)


# ---------------------------------------------------------------- helpers


def held(store: Store, count: int, gateway: str = "bank") -> list[uuid.UUID]:
    """Create withdrawals of 5 each that wait for the gateway."""
    till = "till" if gateway == "bank" else f"till-{gateway}"
    store.open(till, "balance", available=max(100, 5 * count), gateway=gateway)
    asked = store.accept(
        *(
            store.asks("withdrawal", till, "ada", 5, details={"destination": f"IBAN {number}"})
            for number in range(1, count + 1)
        )
    )
    store.drain(till)
    return asked


def refund_of(store: Store, original: uuid.UUID) -> Submission:
    """Return an admin's refund."""
    return store.asks("refund", "till")._replace(refund_of=original)


def claim(courier: Connection, gateway: str = "bank", room: int = gateway_calls.CALLS_AT_ONCE) -> Claim:
    """Claim as a courier with these settings."""
    return gateway_calls.claim(courier, gateway, room, TRIES, TIMEOUT_SECONDS)


def called(
    effect: ClaimedEffect,
    outcome: Outcome,
    *,
    reference: str | None = None,
    reason: str | None = None,
    pause: float | None = None,
) -> CallResult:
    """Return the result of a call."""
    return CallResult(effect, Answer(outcome, reference=reference, reason=reason), pause)


def expire_leases(store: Store) -> None:
    """Let leases expire and retries become due."""
    store.owner.execute(
        "UPDATE effects SET due_at = now(), leased_until = CASE WHEN token IS NOT NULL THEN now() END"
        " WHERE due_at IS NOT NULL"
    )


def _connect(where: Database) -> Connection:
    return connections.connect(where.courier_url, application_name="test courier")
