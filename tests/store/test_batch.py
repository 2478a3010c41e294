"""
One batch of one partition on PostgreSQL: order, exactly once, and faults at any moment.
"""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from processor.batch import inbox
from processor.batch import run as batch
from processor.batch import store as batch_store
from processor.domain.decisions import Debit, Decision
from processor.domain.kinds import KINDS
from processor.domain.partitioning import partition_of
from processor.domain.rules import daily_limits
from processor.errors import DatabaseUnavailable
from processor.intake import commands
from processor.outbox import deliveries
from processor.storage import arrays
from tests.servers import PARTITIONS
from tests.store.store import at_once, until_empty, worker_connection
from tests.waiting import TIMEOUT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from processor.batch.run import BatchReport
    from processor.domain.model import Request, Resource
    from processor.storage.connections import Connection
    from tests.store.store import Store

#: A statement in place of `lock_partitions` that grants all locks and takes none.
UNLOCKED = "SELECT id, %(lock_class)s > 0 FROM unnest(%(partitions)b::integer[]) AS id"


@pytest.fixture
def during_decision(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """
    Act in the middle of a batch, when the redemption of a given account is decided.
    """
    rule = KINDS["redemption"].rule
    assert rule is not None

    def arrange(account: str, act: Callable[[], object]) -> None:
        def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
            if request.account == account:
                act()
            return rule(request, resource, used, now)

        monkeypatch.setitem(KINDS, "redemption", replace(KINDS["redemption"], rule=decide))

    return arrange


# ---------------------------------------------------------------- order, and exactly once


def test_requests_are_decided_in_the_order_of_their_acceptance(store: Store) -> None:
    """
    The first 10 of 30 buyers get one of 10 items, and decisions are numbered in the order of arrival.
    """
    store.open("sneaker", available=10)
    asked = store.accept(*(store.redeems("sneaker", f"u{n}") for n in range(30)))

    store.drain("sneaker", limit=7)

    assert store.statuses(asked) == ["completed"] * 10 + ["out_of_stock"] * 20
    assert [state and state.sequence for state in store.decided(asked)] == list(range(2, 32))
    assert [entry[2] for entry in store.entries("sneaker")[1:]] == asked[:10]


def test_numbers_have_no_gaps_across_batches_and_refusals(store: Store) -> None:
    """
    Each decision of a partition gets the next number, whether it is a yes, a no or a fault.
    """
    partition = store.open("sneaker", available=3)
    for _ in range(4):
        store.accept(*(store.redeems("sneaker", "u", 2) for _ in range(3)))
        store.drain("sneaker", limit=2)

    assert store.one("SELECT sequence FROM partitions WHERE id = %s", partition) == 13


def test_an_applied_row_is_gone_and_a_second_batch_finds_nothing(store: Store) -> None:
    """
    A batch deletes the rows that it applied, so draining again does nothing.
    """
    partition = store.open("sneaker")
    store.accept(store.redeems("sneaker", "ada"))
    first = batch.drain_once(store.worker, [partition])
    before = store.contents()

    second = batch.drain_once(store.worker, [partition])

    assert (first.taken, second.taken, second.decided) == (1, 0, [])
    assert store.contents() == before


def test_resources_are_opened_as_one_set(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A batch inserts all its new resources in one statement.
    """
    inserted: list[int] = []
    packed = arrays.packed

    def note(statement: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        if statement == batch_store.SQL["insert_resources"]:
            inserted.append(len(parameters["id"]))
        return packed(statement, parameters)

    monkeypatch.setattr(arrays, "packed", note)
    names = [
        name for name in (f"seat-{number}" for number in range(900)) if partition_of(name, PARTITIONS) == 3
    ]
    store.accept(*(store.asks("opening", name, amount=1, details={"kind": "seat"}) for name in names))

    batch.drain_once(store.worker, [3])

    assert inserted == [len(names)]
    assert store.one("SELECT sum(available) FROM resources") == len(names) > 1
    store.check_ledger()


def test_a_rejection_leaves_the_resource_as_it_was(store: Store) -> None:
    """
    A refusal changes neither the row of the resource nor its ledger.
    """
    store.open("sneaker", available=1)
    before = (store.one("SELECT r::text FROM resources r"), store.entries("sneaker"))
    [asked] = store.accept(store.redeems("sneaker", "ada", 2))

    store.drain("sneaker")

    assert store.statuses([asked]) == ["out_of_stock"]
    assert (store.one("SELECT r::text FROM resources r"), store.entries("sneaker")) == before


def test_a_resource_opened_filled_taken_and_closed_in_one_batch(store: Store) -> None:
    """
    Rows of one batch see the effects of earlier rows, also if the resource did not exist before.
    """
    asked = store.accept(
        store.redeems("sneaker", "early"),
        store.asks("opening", "sneaker", amount=0, details={"kind": "stock"}),
        store.redeems("sneaker", "ada"),
        store.asks("deposit", "sneaker", amount=2),
        store.redeems("sneaker", "ada"),
        store.asks("opening", "sneaker", amount=5, details={"kind": "coupon"}),
        store.asks("closing", "sneaker"),
        store.redeems("sneaker", "late"),
    )

    [report] = store.drain("sneaker")

    assert store.statuses(asked) == [
        "resource_not_found",
        "completed",
        "out_of_stock",
        "completed",
        "completed",
        "resource_exists",
        "completed",
        "resource_closed",
    ]
    assert (report.taken, report.rejected, report.failed) == (8, 4, 0)
    assert report.decided == asked
    assert store.available("sneaker") == 1


def test_rules_that_change_after_a_deposit_in_the_same_batch(store: Store) -> None:
    """
    A debt is paid and then the overdraft is removed, in one batch. The order of the writes does not matter.
    """
    store.open("wallet", "balance", 0, overdraft=100)
    asked = store.accept(
        store.asks("withdrawal", "wallet", "ada", 50),
        store.asks("deposit", "wallet", amount=50),
        store.asks("amendment", "wallet", details={"overdraft": 0}),
        store.asks("withdrawal", "wallet", "ada", 1),
        store.asks("amendment", "wallet", details={"overdraft": 7}),
        store.asks("withdrawal", "wallet", "ada", 7),
    )

    store.drain("wallet", limit=2)

    assert store.statuses(asked) == ["completed"] * 3 + ["insufficient_funds"] + ["completed"] * 2
    assert store.available("wallet") == -7


# ---------------------------------------------------------------- one bad request


def test_a_rule_that_raises_fails_its_request_alone(
    store: Store, during_decision: Callable[[str, Callable[[], object]], None]
) -> None:
    """
    One request among 1,000 raises while it is decided. It fails with its traceback, and 999 are decided in
    order.
    """

    def fail() -> None:
        raise ZeroDivisionError("the poison \x00 and half a pair \ud800 of it")

    during_decision("poison", fail)
    store.open("sneaker", available=2_000)
    asked = store.accept(*(store.redeems("sneaker", "poison" if n == 500 else f"u{n}") for n in range(1_000)))

    reports = store.drain("sneaker")

    assert store.statuses(asked) == ["completed"] * 500 + ["processor_error"] + ["completed"] * 499
    assert [state and state.sequence for state in store.decided(asked)] == list(range(2, 1_002))
    assert [entry[2] for entry in store.entries("sneaker")[1:]] == asked[:500] + asked[501:]
    assert sum(report.failed for report in reports) == 1
    assert "the poison" in store.one("SELECT trace FROM decisions WHERE request_id = %s", asked[500])


@pytest.mark.parametrize(("rows", "poison"), [(40, 13), (1_200, 613)], ids=["one part", "several parts"])
def test_a_row_that_postgresql_refuses_is_found_and_fails(store: Store, rows: int, poison: int) -> None:
    """
    A fault in writing is narrowed down to one request. Those around it are decided in their order.
    """
    store.owner.execute("ALTER TABLE entries ADD CONSTRAINT test_poison CHECK (account <> 'poison')")
    store.open("sneaker", available=2_000)
    asked = store.accept(
        *(store.redeems("sneaker", "poison" if n == poison else f"u{n}") for n in range(rows))
    )

    store.drain("sneaker")

    expected: list[str | None] = ["completed"] * rows
    expected[poison] = "processor_error"
    assert store.statuses(asked) == expected
    assert [entry[2] for entry in store.entries("sneaker")[1:]] == asked[:poison] + asked[poison + 1 :]
    assert store.available("sneaker") == 2_000 - (rows - 1)
    assert "test_poison" in store.one("SELECT trace FROM decisions WHERE request_id = %s", asked[poison])


def test_a_statement_that_takes_too_long_is_found_and_fails(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A row that exceeds the statement timeout is treated like one that PostgreSQL refuses.
    """
    store.owner.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.account = 'slow' THEN PERFORM pg_sleep(5); END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER test_dawdle BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION dawdle();"
    )
    monkeypatch.setitem(inbox.TIMEOUTS, "statement_ms", 150)
    store.open("sneaker")
    asked = store.accept(*(store.redeems("sneaker", name) for name in ("ada", "slow", "bob")))

    store.drain("sneaker")

    assert store.statuses(asked) == ["completed", "processor_error", "completed"]


def test_a_row_that_can_be_neither_decided_nor_failed_is_a_fault_and_not_a_busy_loop(store: Store) -> None:
    """
    If PostgreSQL refuses even the record of the failure, the drain ends with an error and changes nothing.
    """
    partition = store.open("sneaker")
    store.accept(store.redeems("sneaker", "ada"))
    store.owner.execute("ALTER TABLE decisions ADD CONSTRAINT test_never CHECK (version < 2) NOT VALID")
    before = store.contents()
    ended = threading.Event()

    def drain() -> None:
        try:
            batch.drain_once(store.worker, [partition])
        except Exception:  # noqa: BLE001 - any error is right here
            ended.set()

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    gave_up = ended.wait(TIMEOUT_SECONDS)
    store.worker.close()
    thread.join(TIMEOUT_SECONDS)

    assert gave_up
    assert store.contents() == before
    store.reconnect()


def test_postgresql_holds_the_limit_when_the_rules_forget_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    If a rule lets an account exceed its limit, the CHECK on usages refuses it.
    """
    store.open("coupon:once", "coupon", 10, per_account_limit=1)

    def generous(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
        return Debit(request.quantity)

    monkeypatch.setitem(KINDS, "redemption", replace(KINDS["redemption"], rule=generous))
    asked = store.accept(*(store.redeems("coupon:once", "ada") for _ in range(3)))

    store.drain("coupon:once")

    assert store.statuses(asked) == ["completed", "processor_error", "processor_error"]
    assert store.used("coupon:once") == {"ada": 1}


# ---------------------------------------------------------------- faults of the infrastructure


def test_a_lost_connection_in_mid_batch_leaves_nothing_half_done(
    store: Store, during_decision: Callable[[str, Callable[[], object]], None]
) -> None:
    """
    The backend dies between reading and writing. Nothing has changed, and a new connection decides once.
    """
    partition = store.open("sneaker", available=5)
    asked = store.accept(*(store.redeems("sneaker", f"u{n}") for n in range(10)))
    before = store.contents()
    first = store.worker
    during_decision("u5", lambda: _terminate(store, first) if store.worker is first else None)

    with pytest.raises(DatabaseUnavailable):
        batch.drain_once(store.worker, [partition])

    assert store.contents() == before
    store.reconnect()
    store.drain("sneaker")
    assert store.statuses(asked) == ["completed"] * 5 + ["out_of_stock"] * 5


def test_a_server_that_is_read_only_after_a_failover_is_a_fault_and_fails_no_request(store: Store) -> None:
    """
    The worker's connection leads to a standby by now. No request fails, and the batch is retried.
    """
    partition = store.open("sneaker")
    [asked] = store.accept(store.redeems("sneaker", "ada"))
    before = store.contents()
    store.worker.execute("SET default_transaction_read_only = on")

    with pytest.raises(DatabaseUnavailable):
        batch.drain_once(store.worker, [partition])

    assert store.contents() == before
    store.reconnect()
    store.drain("sneaker")
    assert store.statuses([asked]) == ["completed"]


def test_a_resource_changed_by_another_transaction_is_not_overwritten(
    store: Store, during_decision: Callable[[str, Callable[[], object]], None]
) -> None:
    """
    A batch writes only to resources that are unchanged since it read them; otherwise it writes nothing.
    """
    partition = store.open("sneaker", available=5)
    [asked] = store.accept(store.redeems("sneaker", "ada"))
    during_decision("ada", lambda: store.owner.execute("UPDATE resources SET version = version + 7"))

    with pytest.raises(DatabaseUnavailable, match="a resource changed"):
        batch.drain_once(store.worker, [partition])

    assert (store.available("sneaker"), store.waiting(), store.statuses([asked])) == (5, 1, [None])
    store.owner.execute("UPDATE resources SET version = version - 7")


def test_rows_taken_by_another_transaction_are_not_applied_again(
    store: Store, during_decision: Callable[[str, Callable[[], object]], None]
) -> None:
    """
    A batch must delete exactly the inbox rows that it applied; otherwise it writes nothing.
    """
    partition = store.open("sneaker", available=5)
    store.accept(store.redeems("sneaker", "ada"))
    during_decision("ada", lambda: store.owner.execute("DELETE FROM inbox"))

    with pytest.raises(DatabaseUnavailable, match="the inbox changed"):
        batch.drain_once(store.worker, [partition])

    assert store.available("sneaker") == 5


# ---------------------------------------------------------------- one at a time


def test_two_workers_on_one_partition_never_decide_anything_twice(store: Store) -> None:
    """
    Four drains of one partition at once take turns, and no request is decided twice.
    """
    partition = store.open("sneaker", available=150)
    asked = store.accept(*(store.redeems("sneaker", f"u{n}") for n in range(400)))
    connections = [worker_connection(store.database) for _ in range(4)]

    results = at_once(
        *(
            (lambda connection=connection: sum(r.taken for r in until_empty(connection, partition, 9)))
            for connection in connections
        )
    )

    for connection in connections:
        connection.close()
    assert [result for result in results if isinstance(result, DatabaseUnavailable)] == []
    assert sum(int(str(taken)) for taken in results) == 400
    assert store.statuses(asked) == ["completed"] * 150 + ["out_of_stock"] * 250


def test_a_partition_with_a_batch_under_way_is_left_out(
    store: Store, during_decision: Callable[[str, Callable[[], object]], None]
) -> None:
    """
    While a batch runs, another one of the same partition takes nothing of it, and reports it as locked.
    """
    partition = store.open("sneaker", available=5)
    asked = store.accept(store.redeems("sneaker", "ada"))
    second = worker_connection(store.database)
    others: list[BatchReport] = []
    during_decision("ada", lambda: others.append(batch.drain_once(second, [partition])))

    first = batch.drain_once(store.worker, [partition])

    second.close()
    assert (first.taken, first.locked) == (1, frozenset())
    assert [(other.taken, other.locked) for other in others] == [(0, frozenset([partition]))]
    assert store.statuses(asked) == ["completed"]


def test_without_the_lock_nothing_is_taken_twice_either(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    during_decision: Callable[[str, Callable[[], object]], None],
) -> None:
    """
    Even without the lock, two batches that read the same rows could not both write them.
    """
    monkeypatch.setitem(inbox.SQL, "lock_partitions", UNLOCKED)
    partition = store.open("sneaker", available=5)
    asked = store.accept(*(store.redeems("sneaker", name) for name in ("ada", "bob", "eve")))
    second = worker_connection(store.database)
    overtaking: list[int] = []

    def overtake() -> None:
        if not overtaking:
            overtaking.append(0)
            overtaking[0] = batch.drain_once(second, [partition]).taken

    during_decision("eve", overtake)

    report = batch.drain_once(store.worker, [partition])

    second.close()
    assert (overtaking, report.taken) == ([3], 0)
    assert store.statuses(asked) == ["completed"] * 3
    assert store.available("sneaker") == 2


def test_partitions_do_not_wait_for_each_other(
    store: Store, during_decision: Callable[[str, Callable[[], object]], None]
) -> None:
    """
    While one partition's batch runs, another partition is decided.
    """
    here, there = store.open("sneaker"), store.open("coupon")
    assert here != there
    store.accept(store.redeems("sneaker", "ada"))
    [other] = store.accept(store.redeems("coupon", "bob"))
    second = worker_connection(store.database)
    meanwhile: list[int] = []
    during_decision("ada", lambda: meanwhile.append(batch.drain_once(second, [there]).taken))

    batch.drain_once(store.worker, [here])

    second.close()
    assert meanwhile == [1]
    assert store.statuses([other]) == ["completed"]


def test_a_paused_partition_accepts_and_takes_nothing(store: Store) -> None:
    """
    A paused partition accepts requests, which wait. Once resumed, it decides them in the order of acceptance.
    """
    partition = store.open("sneaker", available=1)
    store.owner.execute("INSERT INTO pauses (partition, actor) VALUES (%s, 'admin')", (partition,))
    asked = store.accept(store.redeems("sneaker", "ada"), store.redeems("sneaker", "bob"))
    before = store.contents()

    report = batch.drain_once(store.worker, [partition])

    assert (report.paused, report.taken) == (frozenset([partition]), 0)
    assert store.contents() == before
    store.owner.execute("DELETE FROM pauses")
    store.drain("sneaker")
    assert store.statuses(asked) == ["completed", "out_of_stock"]


# ---------------------------------------------------------------- limits of an account


def test_an_account_gets_its_limit_and_no_more(store: Store) -> None:
    """
    A limit applies to an account of one client. Two clients' `ada` are two accounts, and a refusal does not
    count.
    """
    store.open("coupon", "coupon", 10, per_account_limit=2)
    asked = store.accept(
        store.redeems("coupon", "ada", 1),
        store.redeems("coupon", "ada", 2),
        store.redeems("coupon", "ada", 1),
        store.redeems("coupon", "ada", 1),
        store.redeems("coupon", "ada", 2, client="other"),
    )

    store.drain("coupon", limit=2)

    assert store.statuses(asked) == ["completed", "limit_reached", "completed", "limit_reached", "completed"]
    assert store.available("coupon") == 6


def test_one_batch_adds_accounts_and_changes_others(store: Store) -> None:
    """
    Accounts without a usage get a row, and those with one keep theirs.
    """
    store.open("coupon", "coupon", 10, per_account_limit=3, per_account_daily_limit=3)
    store.accept(store.redeems("coupon", "ada"))
    store.drain("coupon")

    asked = store.accept(
        *(store.redeems("coupon", name) for name in ("bob", "ada", "bob", "eve", "ada", "ada"))
    )
    store.drain("coupon")

    assert store.statuses(asked) == ["completed"] * 5 + ["limit_reached"]
    assert store.used("coupon") == {"ada": 3, "bob": 2, "eve": 1}
    daily = store.owner.execute("SELECT account, used FROM daily_usages").fetchall()
    assert dict(daily) == store.used("coupon")


def test_a_usage_that_appears_during_a_batch_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Only a fault could write it. The batch refuses to add a second row, and decides with the first.
    """
    store.open("coupon", "coupon", 10, per_account_limit=2)
    asked = store.accept(*(store.redeems("coupon", name) for name in ("ada", "ada", "bob")))
    rest = batch_store.Writer.rest

    def appear(writer: batch_store.Writer) -> None:
        monkeypatch.setattr(batch_store.Writer, "rest", rest)
        store.owner.execute("INSERT INTO usages VALUES ('coupon', 'shop', 'ada', 1, 2)")
        rest(writer)

    monkeypatch.setattr(batch_store.Writer, "rest", appear)
    store.drain("coupon")

    assert store.statuses(asked) == ["completed", "limit_reached", "completed"]
    assert store.used("coupon") == {"ada": 2, "bob": 1}


@pytest.mark.parametrize("limit", [2_000, 3, 1], ids="in batches of {}".format)
def test_a_limit_that_comes_later_counts_what_was_taken_before(store: Store, limit: int) -> None:
    """
    After an amendment sets a limit, earlier usage counts, also from the same batch.
    """
    store.open("coupon", "coupon", 100)
    asked = store.accept(store.redeems("coupon", "ada", 2), store.redeems("coupon", "bob", 1))
    store.drain("coupon")
    asked = store.accept(
        store.redeems("coupon", "ada", 1),
        store.asks("amendment", "coupon", details={"per_account_limit": 3}),
        store.redeems("coupon", "ada", 1),
        store.redeems("coupon", "bob", 2),
        store.redeems("coupon", "bob", 1),
        store.redeems("coupon", "new", 3),
    )

    store.drain("coupon", limit=limit)

    assert store.statuses(asked) == [
        "completed",
        "completed",
        "limit_reached",
        "completed",
        "limit_reached",
        "completed",
    ]
    assert store.used("coupon") == {"ada": 3, "bob": 3, "new": 3}


@pytest.mark.parametrize("limit", [2_000, 1], ids="in batches of {}".format)
def test_a_limit_that_is_lifted_and_set_again_still_counts_everything(store: Store, limit: int) -> None:
    """
    Usage without a limit counts once there is one again, and no limit can be lower than it.
    """
    store.open("coupon", "coupon", 100, per_account_limit=5)
    asked = store.accept(
        store.redeems("coupon", "ada", 4),
        store.asks("amendment", "coupon", details={"per_account_limit": None}),
        store.redeems("coupon", "ada", 4),
        store.asks("amendment", "coupon", details={"per_account_limit": 9}),
        store.redeems("coupon", "ada", 1),
        store.asks("amendment", "coupon", details={"per_account_limit": 8}),
        store.redeems("coupon", "ada", 1),
        store.redeems("coupon", "bob", 9),
    )

    store.drain("coupon", limit=limit)

    assert store.statuses(asked) == ["completed"] * 5 + ["invalid_amendment", "limit_reached", "completed"]
    assert store.used("coupon") == {"ada": 9, "bob": 9}


@pytest.mark.parametrize("first", [None, 9], ids=["without a limit before", "with a higher limit before"])
@pytest.mark.parametrize("limit", [2_000, 2, 1], ids="in batches of {}".format)
def test_a_limit_is_compared_with_what_was_used_when_it_is_decided(
    store: Store, limit: int, first: int | None
) -> None:
    """
    Redemptions and refunds before the amendment count, also those of the same batch, and those after it do not.
    """
    store.open("coupon", "coupon", 100, **({} if first is None else {"per_account_limit": first}))
    [first_id] = store.accept(store.redeems("coupon", "ada", 4))
    store.drain("coupon")
    asked = store.accept(
        store.redeems("coupon", "bob", 5),
        store.asks("amendment", "coupon", details={"per_account_limit": 4}),
        store.asks("amendment", "coupon", details={"per_account_limit": 5}),
        store.redeems("coupon", "ada", 1),
        store.asks("refund", "coupon")._replace(refund_of=first_id),
        store.redeems("coupon", "bob", 1),
    )
    store.accept(store.asks("refund", "coupon")._replace(refund_of=asked[0]))
    asked += store.accept(
        store.asks("amendment", "coupon", details={"per_account_limit": 1}),
        store.redeems("coupon", "cyd", 2),
    )

    store.drain("coupon", limit=limit)

    assert store.statuses(asked) == [
        "refunded_by_admin",
        "invalid_amendment",
        "completed",
        "completed",
        "completed",
        "limit_reached",
        "completed",
        "limit_reached",
    ]
    assert store.used("coupon") == {"ada": 1, "bob": 0}


@pytest.mark.parametrize("limit", [2_000, 2, 1], ids="in batches of {}".format)
def test_an_account_takes_at_most_its_daily_limit(store: Store, limit: int) -> None:
    """
    Accounts of two clients are two. Amounts that are given back still count, and so do those from before the limit.
    """
    store.open("coupon", "coupon", 100)
    [first] = store.accept(store.redeems("coupon", "ada", 2))
    asked = store.accept(
        store.asks("amendment", "coupon", details={"per_account_daily_limit": 5}),
        store.redeems("coupon", "ada", 4),
        store.redeems("coupon", "ada", 3),
        store.asks("refund", "coupon")._replace(refund_of=first),
        store.redeems("coupon", "ada", 1),
        store.redeems("coupon", "ada", 5, client="other"),
        store.redeems("coupon", "bob", 6),
    )

    store.drain("coupon", limit=limit)

    assert store.statuses(asked) == [
        "completed",
        "daily_limit_reached",
        "completed",
        "completed",
        "daily_limit_reached",
        "completed",
        "daily_limit_reached",
    ]
    store.owner.execute("UPDATE daily_usages SET day = day - 1")
    again = store.accept(store.redeems("coupon", "ada", 5), store.redeems("coupon", "ada", 1))
    store.drain("coupon", limit=limit)

    assert store.statuses(again) == ["completed", "daily_limit_reached"]


def test_a_daily_limit_is_repeated_by_a_constraint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If a rule let an account take more, PostgreSQL refuses it, and only that request fails.
    """
    store.open("coupon", "coupon", 10, per_account_daily_limit=1)
    monkeypatch.setattr(daily_limits, "check", lambda decision, *_: decision)

    asked = store.accept(*(store.redeems("coupon", name) for name in ("ada", "ada", "bob")))
    store.drain("coupon")

    assert store.statuses(asked) == ["completed", "processor_error", "completed"]


# ---------------------------------------------------------------- giving back


def test_a_refunded_amount_does_not_count_against_the_limit(store: Store) -> None:
    """
    An account may redeem a refunded coupon once more. The count rebuilt from the entries agrees.
    """
    store.open("coupon", "coupon", 1, per_account_limit=1)
    [first] = store.accept(store.redeems("coupon", "ada"))
    refund = store.asks("refund", "coupon")._replace(refund_of=first)
    asked = store.accept(refund, store.redeems("coupon", "ada"), store.redeems("coupon", "ada"))

    store.drain("coupon")

    assert store.statuses([first, *asked]) == ["refunded_by_admin", "completed", "completed", "limit_reached"]
    assert store.used("coupon") == {"ada": 1}


def test_the_client_is_notified_when_an_admin_of_another_client_refunds(store: Store) -> None:
    """
    The webhook of the request's own client gets `request.refunded`, and the account its mail.
    """
    store.open("coupon", "coupon", 1)
    [first] = store.accept(store.redeems("coupon", "ada"))
    store.drain("coupon")
    store.owner.execute(
        "INSERT INTO webhooks (id, client_id, url, secret)"
        " VALUES (gen_random_uuid(), 'shop', 'https://shop.example', sha256('x'));"
        "INSERT INTO accounts (client_id, name, email) VALUES ('shop', 'ada', 'ada@example.com')"
    )
    store.accept(store.asks("refund", "coupon", client="admins")._replace(refund_of=first))

    store.drain("coupon")
    deliveries.expand(store.owner)

    notified = store.owner.execute(
        "SELECT type, email FROM deliveries WHERE request_id = %s ORDER BY email NULLS FIRST", (first,)
    ).fetchall()
    assert notified == [("request.refunded", None), ("request.refunded", "ada@example.com")]


def test_a_second_row_that_decides_the_same_request_does_not_block_its_partition(store: Store) -> None:
    """
    A decided request that is queued again takes nothing twice, and later rows are decided.
    """
    partition = store.open("sneaker")
    [first] = store.accept(store.redeems("sneaker", "ada"))
    store.drain("sneaker")
    store.owner.execute(
        "INSERT INTO inbox (partition, request_id, verb) VALUES (%s, %s, 'decide')", (partition, first)
    )
    [second] = store.accept(store.redeems("sneaker", "bob"))

    store.drain("sneaker")

    assert store.statuses([first, second]) == ["completed", "completed"]
    assert store.available("sneaker") == 8


# ---------------------------------------------------------------- cancelling, deadlines, time


def test_a_cancel_command_counts_when_the_turn_of_its_request_comes(store: Store) -> None:
    """
    A request cancelled before its turn takes nothing, although the command stands behind it in the inbox.
    """
    store.open("sneaker", available=1)
    asked = store.accept(store.redeems("sneaker", "ada"), store.redeems("sneaker", "bob"))
    commands.record_command(store.owner, asked[0], "cancel", "ada")
    commands.record_command(store.owner, asked[0], "cancel", "ada")  # a repeated command counts once
    assert store.waiting() == 3

    store.drain("sneaker", limit=1)

    assert store.statuses(asked) == ["cancelled_by_client", "completed"]
    assert store.waiting() == 0


@pytest.mark.parametrize(
    ("by", "code"),
    [
        ({}, "cancelled_by_client"),
        ({"by": "client"}, "cancelled_by_client"),
        ({"by": "operator", "reason": "sold by mistake"}, "cancelled_by_operator"),
    ],
    ids=["of the release before", "client", "operator"],
)
def test_a_cancel_is_named_after_the_party_that_gave_it(store: Store, by: dict[str, str], code: str) -> None:
    """
    The state carries the code of the side, the actor of the command and its reason. This holds when the request's
    own turn applies the cancel, and when the cancel's does.
    """
    store.open("sneaker")
    store.open("account", "balance", available=100, approve_above=10)
    [waits] = store.accept(store.asks("withdrawal", "account", "ada", 50))
    store.drain("account")
    [queued] = store.accept(store.redeems("sneaker", "ada"))
    for request in (waits, queued):
        commands.record_command(store.owner, request, "cancel", "ada's friend", by)

    store.drain("account")
    store.drain("sneaker")

    assert store.statuses([waits, queued]) == [code, code]
    named = store.owner.execute(
        "SELECT DISTINCT actor, reason FROM decisions WHERE current AND request_id = ANY(%s)",
        ([waits, queued],),
    ).fetchall()
    assert named == [("ada's friend", by.get("reason"))]


def test_a_cancel_command_that_comes_too_late_changes_nothing(store: Store) -> None:
    """
    A decided request stays as it is, and the command leaves the inbox.
    """
    store.open("sneaker", available=1)
    [asked] = store.accept(store.redeems("sneaker", "ada"))
    store.drain("sneaker")
    commands.record_command(store.owner, asked, "cancel", "ada")

    [report] = store.drain("sneaker")

    assert (report.decided, store.statuses([asked]), store.waiting()) == ([], ["completed"], 0)


def test_a_request_whose_deadline_is_over_is_refused(store: Store) -> None:
    """
    `apply_before` is compared with the database's clock when the request's turn comes.
    """
    store.open("sneaker")
    now = datetime.now(UTC)
    asked = store.accept(
        store.redeems("sneaker", "ada", apply_before=now - timedelta(seconds=1)),
        store.redeems("sneaker", "bob", apply_before=now + timedelta(hours=1)),
    )

    store.drain("sneaker")

    assert store.statuses(asked) == ["deadline_passed", "completed"]


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_a_time_beyond_the_calendar_cannot_block_a_partition(store: Store, moment: str) -> None:
    """
    A moment that has no date in UTC is refused, fails or is understood. Later requests are decided.
    """
    store.open("sneaker")
    store.intake.accept([store.redeems("sneaker", "ada", apply_before=datetime.fromisoformat(moment))])
    store.accept(store.asks("amendment", "sneaker", details={"ends_at": moment}))
    store.drain("sneaker")
    [asked] = store.accept(store.redeems("sneaker", "bob"))

    store.drain("sneaker")

    assert store.decided([asked]) != [None]


def test_the_ledger_never_runs_backwards_when_the_clock_does(store: Store) -> None:
    """
    The clock was ahead at the last entry. Later entries get that same time, not an earlier one.
    """
    store.open("sneaker")
    ahead = datetime.now(UTC) + timedelta(hours=1)
    store.owner.execute("UPDATE resources SET last_entry_at = %s", (ahead,))
    store.accept(store.redeems("sneaker", "ada"))
    store.drain("sneaker")
    store.accept(store.redeems("sneaker", "bob"), store.asks("deposit", "sneaker", amount=1))
    store.drain("sneaker")

    assert [entry[7] for entry in store.entries("sneaker")[1:]] == [ahead] * 3


def test_an_open_snapshot_delays_nothing(store: Store) -> None:
    """
    A long transaction elsewhere keeps dead rows. All requests are still decided once.
    """
    store.open("sneaker", available=10**6)
    with worker_connection(store.database) as reader, reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM inbox")
        asked = []
        for _ in range(10):
            asked += store.accept(*(store.redeems("sneaker", f"u{n}") for n in range(50)))
            store.drain("sneaker", limit=20)
        assert reader.execute("SELECT count(*) FROM requests").fetchall() == [(1,)]

    assert store.statuses(asked) == ["completed"] * 500


# ---------------------------------------------------------------- cost


def test_the_cost_of_a_batch_does_not_grow_with_the_past(store: Store) -> None:
    """
    Taking work reads the inbox and the requests by index, with 100,000 past requests.

    This holds before and after PostgreSQL has collected statistics, and with custom and generic plans.
    """
    partition = store.open("sneaker")
    store.owner.execute("ALTER TABLE requests SET (autovacuum_enabled = off)")
    store.owner.execute(
        "INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition,"
        "                      resource_id, account, amount)"
        " SELECT gen_random_uuid(), 'shop', gen_random_uuid(), 'past-' || n, sha256('x'), 'redemption', %s,"
        "        'sneaker', 'u' || n, 1 FROM generate_series(1, 100000) n",
        (partition,),
    )
    store.accept(*(store.redeems("sneaker", f"u{n}") for n in range(batch.BATCH_LIMIT)))
    parameters = {"partitions": "$1", "share": "$2", "batch_limit": "$3"}
    numbered = re.sub(r"%\((\w+)\)[sbt]", lambda found: parameters[found[1]], inbox.SQL["take_inbox"])
    store.worker.execute(f"PREPARE take (smallint[], bigint, bigint) AS {numbered}".encode())

    for count in ("SELECT", "ANALYZE requests", "ANALYZE inbox"):
        store.owner.execute(count.encode())
        for mode in ("force_custom_plan", "force_generic_plan"):
            store.worker.execute(f"SET plan_cache_mode = {mode}".encode())
            explain = f"EXPLAIN (COSTS OFF) EXECUTE take ('{{{partition}}}', 2000, 2000)"
            plan = "\n".join(line for (line,) in store.worker.execute(explain.encode()))
            assert "Seq Scan on inbox" not in plan, (count, mode, plan)
            assert "Seq Scan on requests" not in plan, (count, mode, plan)


# ---------------------------------------------------------------- helpers


def _terminate(store: Store, connection: Connection) -> None:
    """End a backend, and wait until it has ended."""
    pid = connection.info.backend_pid
    store.owner.execute("SELECT pg_terminate_backend(%s)", (pid,))
    eventually(lambda: not store.one("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid))
