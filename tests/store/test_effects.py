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
    from processor.outbox.gateway_calls import BreakerChange, Claim
    from processor.storage.connections import Connection
    from tests.servers import Database
    from tests.store.store import Store

TRIES = 3
TIMEOUT_SECONDS = 10.0
#: The limit of calls at once in these tests, and the calls that one client may have of them.
CALLS_AT_ONCE = 16
CALLS_OF_ONE = 14


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
    held(store, CALLS_AT_ONCE)
    held(store, CALLS_AT_ONCE, client="other")
    couriers = [connect() for _ in range(8)]
    claims: list[ClaimedEffect] = []

    for _ in range(4):
        at_once(*(lambda one=one: claims.extend(claim(one, room=20).effects) for one in couriers))

    assert CALLS_OF_ONE <= len(claims) <= CALLS_AT_ONCE
    assert len({one.order.request_id for one in claims}) == len(claims)
    gateway_calls.record(couriers[0], [called(one, "done") for one in claims[:10]])
    assert len(claim(couriers[1]).effects) == 10


def test_one_gateway_does_not_use_the_limit_of_another(store: Store, courier: Connection) -> None:
    """
    Each gateway has its own limit, and due effects of each are seen at once.
    """
    gateway_calls.introduce(courier, "post")
    held(store, CALLS_AT_ONCE)
    held(store, 1, gateway="post")
    claim(courier)

    assert due(courier) == {("bank", "shop"): 0.0, ("post", "shop"): 0.0}
    assert claim(courier).effects == []
    assert len(claim(courier, "post").effects) == 1
    assert 0 < due(courier)["post", "shop"] <= TIMEOUT_SECONDS + gateway_calls.LEASE_MARGIN_SECONDS


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
    assert due(courier) == {}


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
        assert 3500 < due(courier)["bank", "shop"] <= 3600
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
    assert due(courier) == {}
    gateway_calls.record(courier, [called(lost, "done")])
    reports = store.drain("till")

    assert [request for report in reports for request in report.paid_after_refund] == [asked]
    assert (store.one("SELECT held FROM resources"), store.available("till")) == (0, 100)


# ---------------------------------------------------------------- turns


def test_the_first_claim_has_each_client_whatever_waits_for_the_others(
    store: Store, courier: Connection
) -> None:
    """
    A client with one effect is called in the first claim, although 300 older effects of another wait.
    """
    held(store, 300, client="flood")
    [asked] = held(store, 1, client="late")

    first = claim(courier).effects

    assert [one.order.request_id for one in first if one.client == "late"] == [asked]


def test_one_client_alone_leaves_calls_for_another(store: Store, courier: Connection) -> None:
    """
    However many effects a client has, and however slow its calls are, another client's call begins at once.
    """
    held(store, 5 * CALLS_AT_ONCE, client="flood")
    assert len(claim(courier).effects) == CALLS_OF_ONE
    assert claim(courier).effects == []

    held(store, 3, client="late")

    assert {one.client for one in claim(courier).effects} == {"late"}


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_small_limit_is_used_up(store: Store, courier: Connection, limit: int) -> None:
    """
    A gateway that takes few calls at once gets as many.
    """
    held(store, 5)

    assert len(claim(courier, calls_at_once=limit).effects) == limit
    assert claim(courier, calls_at_once=limit).effects == []


def test_clients_are_seen_page_by_page(
    store: Store, courier: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A look reads a limited number of clients, and the next one continues behind them.
    """
    monkeypatch.setattr(gateway_calls, "CLIENTS_PER_LOOK", 2)
    for client in ("a", "b", "c"):
        held(store, 2, client=client)

    first = gateway_calls.due_clients(courier, gateway_calls.BEFORE_FIRST)
    second = gateway_calls.due_clients(courier, first[-1][:2])

    assert [one.client for one in (*first, *second)] == ["a", "b", "c"]


# ---------------------------------------------------------------- the breaker


def test_the_breaker_opens_after_unknowns_in_a_row_and_nothing_fails_by_it(
    store: Store, courier: Connection
) -> None:
    """
    A gateway that is down gets no calls, and its effects stay due. Later one call is made, and its answer
    closes the breaker.
    """
    asked = held(store, CALLS_AT_ONCE + 10)
    calls = [called(one, "unknown", pause=0.0) for one in claim(courier).effects]
    gateway_calls.record(courier, calls)

    assert count(courier, calls[:1] * (gateway_calls.BREAKER_OPENS_AFTER - 1)) == []
    assert count(courier, calls[:1]) == [("bank", "shop", False, True)]

    assert claim(courier).effects == []
    assert 0 < due(courier)["bank", "shop"] <= gateway_calls.BREAKER_OPEN_SECONDS
    assert store.one("SELECT count(*) FROM effects WHERE due_at IS NOT NULL") == len(asked)
    assert store.waiting() == 0

    end_pause(store)
    [probe] = claim(courier).effects
    assert claim(courier).effects == []
    gateway_calls.record(courier, [called(probe, "done")])
    assert count(courier, [called(probe, "done")]) == [("bank", "shop", True, False)]
    assert len(claim(courier).effects) == CALLS_OF_ONE


def test_a_failed_probe_keeps_the_breaker_open(store: Store, courier: Connection) -> None:
    """
    One more unknown outcome opens the breaker again.
    """
    held(store, 2)
    trip(store, "shop")
    [probe] = claim(courier).effects

    gateway_calls.record(courier, [called(probe, "unknown", pause=0.0)])
    assert count(courier, [called(probe, "unknown")]) == [("bank", "shop", True, True)]
    assert claim(courier).effects == []


def test_an_answer_in_between_ends_the_row(store: Store, courier: Connection) -> None:
    """
    Unknown outcomes add up only without other answers between them. A no is an answer, too.
    """
    held(store, 1)
    [claimed] = claim(courier).effects
    many = [called(claimed, "unknown")] * (gateway_calls.BREAKER_OPENS_AFTER - 1)

    count(courier, many)
    count(courier, [*many[:5], called(claimed, "declined"), *many[:2]])

    assert store.one("SELECT failures FROM gateway_breakers") == 2
    assert count(courier, [called(claimed, "done")]) == []
    assert store.one("SELECT failures FROM gateway_breakers") == 0


def test_failures_of_one_client_do_not_stop_calls_of_another(store: Store, courier: Connection) -> None:
    """
    The unknown outcomes of one client open its breaker alone. Answers to another client do not close it.
    """
    held(store, 5, client="flood")
    trip(store, "flood")
    store.owner.execute("UPDATE gateways SET open_until = now() + interval '1 hour'")
    held(store, 5, client="late")

    assert due(courier)["bank", "late"] == 0
    calls = claim(courier).effects

    assert [one.client for one in calls] == ["late"] * 5
    gateway_calls.record(courier, [called(one, "done") for one in calls])
    assert count(courier, [called(one, "done") for one in calls]) == []
    assert store.one("SELECT is_open FROM gateway_breakers WHERE client_id = 'flood'")
    assert claim(courier).effects == []


def test_each_probe_takes_another_clients_effect(store: Store, courier: Connection) -> None:
    """
    While a gateway is down for all, it gets one call at a time. The clients take turns, whatever waits for each.
    """
    for client, number in (("a", 30), ("b", 1), ("c", 2)):
        held(store, number, client=client)
        trip(store, client)
    probed = []

    for _ in range(5):
        end_pause(store)
        [probe] = claim(courier).effects
        assert claim(courier).effects == []
        probed.append(probe.client)
        gateway_calls.record(courier, [called(probe, "unknown", pause=0.0)])
        count(courier, [called(probe, "unknown")])

    assert probed == ["a", "b", "c", "a", "b"]


def test_an_answered_probe_closes_the_breakers_of_all_clients(store: Store, courier: Connection) -> None:
    """
    A gateway that is back serves every client at once, not one by one.
    """
    for client in ("a", "b", "c"):
        held(store, 2, client=client)
        trip(store, client)

    [probe] = claim(courier).effects
    gateway_calls.record(courier, [called(probe, "declined")])
    count(courier, [called(probe, "declined")])

    assert store.one("SELECT count(*) FROM gateway_breakers WHERE is_open OR failures > 0") == 0
    assert store.one("SELECT open_until FROM gateways WHERE name = 'bank'") is None
    assert len(claim(courier).effects) == 5


# ---------------------------------------------------------------- the role


def test_a_kept_plan_of_the_guards_needs_no_right_that_a_courier_lacks(
    store: Store, courier: Connection
) -> None:
    """
    After some answers PostgreSQL keeps one plan for the triggers of a session. It refuses no further answer.
    """
    held(store, 2)
    courier.execute("SET plan_cache_mode = force_generic_plan")

    gateway_calls.record(courier, [called(one, "done") for one in claim(courier).effects])

    assert store.waiting() == 2


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
        "UPDATE attempts SET started_at = now()",
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


def held(store: Store, count: int, gateway: str = "bank", client: str = "shop") -> list[uuid.UUID]:
    """Create withdrawals of 5 each that wait for the gateway."""
    till = "till" if (gateway, client) == ("bank", "shop") else f"till-{gateway}-{client}"
    store.open(till, "balance", available=max(100, 5 * count), gateway=gateway)
    asked = store.accept(
        *(
            store.asks("withdrawal", till, "ada", 5, client=client, details={"destination": f"IBAN {number}"})
            for number in range(1, count + 1)
        )
    )
    store.drain(till)
    return asked


def refund_of(store: Store, original: uuid.UUID) -> Submission:
    """Return an admin's refund."""
    return store.asks("refund", "till")._replace(refund_of=original)


def claim(
    courier: Connection,
    gateway: str = "bank",
    room: int = CALLS_AT_ONCE,
    calls_at_once: int = CALLS_AT_ONCE,
) -> Claim:
    """Claim as a courier with these settings."""
    clients = [client for where, client in due(courier) if where == gateway]
    return gateway_calls.claim(
        courier,
        gateway,
        clients,
        room=room,
        calls_at_once=calls_at_once,
        tries=TRIES,
        timeout_seconds=TIMEOUT_SECONDS,
    )


def due(courier: Connection) -> dict[tuple[str, str], float]:
    """Return the seconds until the next call of each gateway and client."""
    return {
        (gateway, client): seconds
        for gateway, client, seconds in gateway_calls.due_clients(courier, gateway_calls.BEFORE_FIRST)
    }


def count(courier: Connection, results: list[CallResult]) -> list[BreakerChange]:
    """Count these results of calls of the bank."""
    return gateway_calls.count_unknowns(courier, [("bank", result) for result in results])


def trip(store: Store, client: str) -> None:
    """Let the breaker of a client be open."""
    store.owner.execute(
        "INSERT INTO gateway_breakers (gateway, client_id, failures, is_open) VALUES ('bank', %s, %s, true)",
        (client, gateway_calls.BREAKER_OPENS_AFTER),
    )


def end_pause(store: Store) -> None:
    """Let a probe be allowed."""
    store.owner.execute("UPDATE gateways SET open_until = now()")


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
