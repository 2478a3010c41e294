"""
A courier killed at every step between the hold and the settling: one payout or none, never two, and the money in one
place.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from processor.errors import SchemaError
from processor.outbox import gateway_calls
from processor.storage import connections
from tests.flow.courier.outside import Call, Handler, says
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterator

    from tests.flow.courier.till import Till
    from tests.stack import Process


#: The courier's own connections to this database.
COURIERS = "FROM pg_stat_activity WHERE application_name = 'teller courier' AND datname = current_database()"


class Bank:
    """A gateway as it should be: it pays each key once, and says so every time it is asked."""

    def __init__(self, till: Till) -> None:
        self._till = till
        self._lock = threading.Lock()
        self.payouts: dict[str, int] = {}
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        till.outside.behave = self._pay

    def _pay(self, call: Call, _handler: Handler) -> tuple[int, dict[str, str], bytes] | int:
        self.before()
        with self._lock:
            is_repeated = call.key in self.payouts
            self.payouts.setdefault(call.key, len(self.payouts) + 1)
        if not is_repeated:
            self.after()
        return says(200, reference=f"T-{self.payouts[call.key]}")


@pytest.fixture
def bank(till: Till) -> Bank:
    """
    The gateway of the till.
    """
    return Bank(till)


@pytest.fixture
def locked(till: Till) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """
    A transaction that can hold up others, rolled back at the end.
    """
    with psycopg.connect(till.settings.database_url) as connection:
        yield connection
        connection.rollback()


def finish(till: Till, bank: Bank, asked: list[uuid.UUID]) -> None:
    """Another courier takes over when the lease has run out: each is paid once, and completed."""
    bank.before = bank.after = lambda: None
    till.lapse()
    till.start()
    assert till.until(asked) == ["completed"] * len(asked)
    assert sorted(bank.payouts) == sorted(str(one) for one in asked)
    assert till.balance() == (100_000 - 5 * len(asked), 0)


def test_killed_after_the_hold_before_any_courier(till: Till, bank: Bank) -> None:
    """
    No courier was there to call, so the effect waits.
    """
    asked = till.withdraw(3)

    finish(till, bank, asked)

    assert len(till.attempts()) == 3


def test_killed_between_the_claim_and_the_call(till: Till, bank: Bank) -> None:
    """
    The attempt is on record, the call was never made.
    """
    asked = till.withdraw()
    with connections.connect(
        till.settings.courier_database_url, application_name="test courier"
    ) as connection:
        gateway_calls.introduce(connection, "bank")
        claim = gateway_calls.claim(
            connection, "bank", ["shop"], room=1, calls_at_once=64, tries=3, timeout_seconds=2.0
        )
        assert len(claim.effects) == 1

    assert till.balance() == (99_995, 5)
    finish(till, bank, asked)

    assert [outcome for outcome, _ in till.attempts()] == [None, "done"]


@pytest.mark.parametrize("paid", [False, True])
def test_killed_during_the_call(till: Till, bank: Bank, paid: bool) -> None:
    """
    Whether the gateway had paid by then or not: one payout.
    """
    asked = till.withdraw()
    courier = till.start_process()
    if paid:
        bank.after = courier.kill
    else:
        bank.before = courier.kill
    eventually(lambda: till.outside.calls)
    eventually(lambda: till.outside.under_way == 0)
    till.drain()
    assert till.store.statuses(asked) == ["processing"]
    assert till.balance() == (99_995, 5)

    finish(till, bank, asked)

    assert [outcome for outcome, _ in till.attempts()] == [None, "done"]
    assert len(till.outside.calls) == 2


def test_killed_after_the_answer_before_it_is_recorded(till: Till, bank: Bank) -> None:
    """
    The answer is lost with the courier: the gateway is asked again, and says that it has paid already.
    """
    asked = till.withdraw()
    courier = till.start_process()
    bank.after = courier.suspend  # the answer arrives, and no process reads it
    eventually(lambda: bank.payouts)
    eventually(lambda: till.outside.under_way == 0)
    courier.kill()
    till.drain()
    assert till.store.statuses(asked) == ["processing"]

    finish(till, bank, asked)

    assert [outcome for outcome, _ in till.attempts()] == [None, "done"]
    assert len(till.outside.calls) == 2


def test_killed_while_the_answer_is_recorded(
    till: Till, bank: Bank, locked: psycopg.Connection[tuple[object, ...]]
) -> None:
    """
    Outcome and `settle` are one statement: PostgreSQL does all of it, or nothing.
    """
    asked = till.withdraw()
    courier = till.start_process()
    bank.after = lambda: locked.execute("SELECT FROM effects FOR UPDATE")
    eventually(lambda: waits_for_a_lock(till))

    courier.kill()
    locked.rollback()
    eventually(lambda: not till.store.one(f"SELECT count(*) {COURIERS}"))
    recorded = till.store.one("SELECT count(*) FROM effects WHERE outcome IS NOT NULL")
    assert till.store.one("SELECT count(*) FROM inbox WHERE verb = 'settle'") == recorded

    finish(till, bank, asked)


def test_a_stopped_couriers_late_yes_counts(till: Till, bank: Bank) -> None:
    """
    Stopped in the middle of a call for longer than its lease; another courier pays with the same key. One payout,
    and the first one's answer changes nothing.
    """
    asked = till.withdraw()
    stopped = till.start_process(gateway_timeout_seconds=30.0)
    bank.after = stopped.suspend
    eventually(lambda: bank.payouts)
    eventually(lambda: till.outside.under_way == 0)

    finish(till, bank, asked)
    stopped.resume()
    eventually(lambda: [outcome for outcome, _ in till.attempts()] == ["done", "done"])
    till.drain()

    assert till.store.statuses(asked) == ["completed"]
    assert till.balance() == (99_995, 0)


def test_killed_again_and_again_under_load(till: Till, bank: Bank) -> None:
    """
    Couriers that are killed at any moment pay 300 withdrawals once each.
    """
    asked = till.withdraw(300)
    bank.before = lambda: time.sleep(0.005)
    for pause in itertools.islice(itertools.cycle((0.0, 0.02, 0.05, 0.1)), 8):
        calls = len(till.outside.calls)
        courier: Process = till.start_process(gateway_tries=50)
        eventually(lambda calls=calls: len(till.outside.calls) > calls or done(till, asked))  # type: ignore[misc]
        time.sleep(pause)
        courier.kill()
        till.lapse()
        till.drain()

    till.start(gateway_tries=50)
    assert till.until(asked) == ["completed"] * 300
    assert sorted(bank.payouts) == sorted(str(one) for one in asked)
    assert till.balance() == (100_000 - 1_500, 0)


def test_connections_to_postgresql_that_break_lose_nothing(till: Till, bank: Bank) -> None:
    """
    All of the courier's connections are ended again and again: every answer is recorded, each is paid once.
    """
    asked = till.withdraw(200)
    bank.before = lambda: time.sleep(0.005)
    till.start(gateway_tries=50)
    for _ in range(10):
        eventually(lambda: till.store.one(f"SELECT count(*) {COURIERS}"))
        till.store.owner.execute(f"SELECT pg_terminate_backend(pid) {COURIERS}")
        time.sleep(0.03)

    assert till.until(asked) == ["completed"] * 200
    assert sorted(bank.payouts) == sorted(str(one) for one in asked)
    assert till.balance() == (100_000 - 1_000, 0)


def test_a_database_without_the_schema_stops_the_start(till: Till, empty_database: str) -> None:
    """
    The error is one line that names the command to run.
    """
    till.running.clear()
    courier = till.start(courier_database_url=empty_database)

    with pytest.raises(SchemaError, match="teller migrate"):
        courier.stop()
    till.running.clear()


def test_sigterm_ends_what_is_under_way(till: Till, bank: Bank) -> None:
    """
    A clean stop waits for the answer, records it, and exits with 0 within seconds.
    """
    asked = till.withdraw(5)
    bank.before = lambda: time.sleep(0.5)
    courier = till.start_process()
    eventually(lambda: len(till.outside.calls) == 5)

    limit = Deadline(5.0)
    courier.stop()
    limit.check()
    till.drain()

    assert till.store.statuses(asked) == ["completed"] * 5


def waits_for_a_lock(till: Till) -> bool:
    """Whether a courier waits to record an answer."""
    return bool(
        till.store.one(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'teller courier' AND wait_event_type = 'Lock'"
            "   AND datname = current_database()"
        )
    )


def done(till: Till, asked: list[uuid.UUID]) -> bool:
    """Nothing is left to call."""
    return bool(
        till.store.one("SELECT count(*) FROM effects WHERE outcome = 'done' AND request_id = ANY(%s)", asked)
        == len(asked)
    )
