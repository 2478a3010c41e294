"""
One batch over several partitions on PostgreSQL: each keeps its order, its numbers and its mark, whatever another has.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from processor.batch import run as batch
from processor.batch import store as batch_store
from processor.batch.store import Writer
from processor.domain.kinds import KINDS
from processor.domain.partitioning import partition_of
from processor.errors import DatabaseUnavailable
from processor.intake import commands
from processor.storage.connections import LOCK_CLASS
from tests.servers import PARTITIONS
from tests.store.store import at_once, worker_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from uuid import UUID

    from processor.batch.run import BatchReport
    from processor.batch.snapshot import Decided
    from processor.domain.decisions import Decision
    from processor.domain.model import Request, Resource
    from tests.store.store import Store

#: Resources of three partitions.
NAMES = ("sneaker", "coupon", "seat")
HERE, THERE, YONDER = (partition_of(name, PARTITIONS) for name in NAMES)
ALL = (HERE, THERE, YONDER)


@pytest.fixture
def shop(store: Store) -> Store:
    """
    A store in which the resource of each partition is open, with plenty of it.
    """
    assert len(set(ALL)) == len(ALL)
    for name in NAMES:
        store.open(name, available=10_000)
    return store


def drain(store: Store, partitions: Iterable[int] = ALL, limit: int = batch.BATCH_LIMIT) -> BatchReport:
    """Run one batch of these partitions, in descending order, which must not matter."""
    return batch.drain_once(store.worker, sorted(partitions, reverse=True), limit)


def in_turn(store: Store, count: int, account: str = "u") -> list[UUID]:
    """Submit `count` redemptions, of each resource in turn."""
    names = itertools.cycle(NAMES)
    return store.accept(*(store.redeems(next(names), f"{account}{n}") for n in range(count)))


def sequences_of(store: Store, requests: Iterable[UUID]) -> list[int | None]:
    """Return the numbers of these decisions."""
    return [state and state.sequence for state in store.decided(requests)]


def act_at(monkeypatch: pytest.MonkeyPatch, account: str, act: Callable[[], object]) -> None:
    """Act in the middle of a batch, when the redemption of this account is decided."""
    rule = KINDS["redemption"].rule
    assert rule is not None

    def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
        if request.account == account:
            act()
        return rule(request, resource, used, now)

    monkeypatch.setitem(KINDS, "redemption", replace(KINDS["redemption"], rule=decide))


def refuse(store: Store, condition: str) -> None:
    """Let PostgreSQL refuse entries for which this is false."""
    store.owner.execute(f"ALTER TABLE entries ADD CONSTRAINT test_refused CHECK ({condition})".encode())


# ---------------------------------------------------------------- order, numbers and marks


def test_a_batch_decides_in_one_order_and_numbers_each_partition(shop: Store) -> None:
    """
    The rows of all partitions are decided in the order of their acceptance. The numbers of each have no gaps.
    """
    asked = in_turn(shop, 30)

    report = drain(shop)

    assert report.decided == asked
    assert report.taken_from == Counter(dict.fromkeys(ALL, 10))
    assert report.more == frozenset()
    for place in range(3):
        assert sequences_of(shop, asked[place::3]) == list(range(2, 12))
    assert shop.waiting() == 0
    shop.check_ledger()


def test_new_resources_and_effects_belong_to_their_own_partitions(store: Store) -> None:
    """
    One batch opens a resource in each partition, and takes from it through a gateway.
    """
    for name in NAMES:
        store.accept(store.asks("opening", name, amount=5, details={"kind": "balance", "gateway": "bank"}))
    asked = store.accept(*(store.asks("withdrawal", name, "ada", 1) for name in NAMES))

    drain(store)

    assert dict(store.owner.execute("SELECT id, partition FROM resources").fetchall()) == dict(
        zip(NAMES, ALL, strict=True)
    )
    assert dict(store.owner.execute("SELECT request_id, partition FROM effects").fetchall()) == dict(
        zip(asked, ALL, strict=True)
    )


def test_each_partition_has_its_own_mark(shop: Store) -> None:
    """
    Each mark follows the rows of its partition alone. The mark of a partition without rows stays.
    """
    for _ in range(3):
        shop.accept(shop.redeems("sneaker", "ada"), shop.redeems("coupon", "ada"))
        drain(shop)
    taken = [
        shop.accept(shop.redeems(name, "bob"))
        and shop.one("SELECT max(seq) FROM inbox WHERE partition = %s", partition)
        for name, partition in (("coupon", THERE), ("sneaker", HERE))
    ]
    drain(shop)

    marks: dict[int, int] = dict(
        shop.owner.execute("SELECT id, next_low_water FROM partitions WHERE next_low_water > 0").fetchall()
    )
    assert [marks[THERE], marks[HERE]] == taken
    assert marks[YONDER] < min(taken) - 4


def test_a_row_that_becomes_visible_late_is_taken_in_its_partition(shop: Store) -> None:
    """
    Its seq is lower than those of the rows that the batches before took, in its partition and in another one.
    """
    late = shop.accept(shop.redeems("sneaker", "late"), shop.redeems("coupon", "late"))
    shop.owner.execute("DELETE FROM inbox")
    with shop.owner.transaction():
        for request, partition in zip(late, (HERE, THERE), strict=True):
            shop.owner.execute(
                "INSERT INTO inbox (partition, request_id, verb) VALUES (%s, %s, 'decide')",
                (partition, request),
            )
        for number in range(4):
            in_turn(shop, 3, f"quick-{number}-")
            assert drain(shop).taken == 3

    drain(shop)

    assert shop.statuses(late) == ["completed", "completed"]


def test_a_cancel_waits_in_its_own_partition(shop: Store) -> None:
    """
    A request whose cancel stands behind it takes nothing, in a batch that ends before the cancel's own turn.
    """
    asked = in_turn(shop, 6)
    for request in (asked[1], asked[5]):
        commands.record_command(shop.owner, request, "cancel", "ada")

    drain(shop, limit=6)

    expected = ["completed"] * 6
    expected[1] = expected[5] = "cancelled_by_client"
    assert shop.statuses(asked) == expected


# ---------------------------------------------------------------- shares


@pytest.mark.parametrize("limit", [30, 31])
def test_a_deep_partition_leaves_shallow_ones_their_rows(shop: Store, limit: int) -> None:
    """
    Two hundred rows wait in one partition before the only ones of the others. These are in the next batch, and the
    deep one gets all that they leave.
    """
    shop.accept(*(shop.redeems("sneaker", f"u{n}") for n in range(200)))
    others = shop.accept(shop.redeems("coupon", "ada"), shop.redeems("seat", "bob"))

    report = drain(shop, limit=limit)

    assert shop.statuses(others) == ["completed", "completed"]
    assert report.taken_from == Counter({HERE: limit - 2, THERE: 1, YONDER: 1})
    assert report.more == {HERE}


def test_deep_partitions_divide_what_shallow_ones_leave(shop: Store) -> None:
    """
    Neither waits for the other, and the batch is as full as the limit allows.
    """
    in_turn(shop, 3)
    shop.accept(*(shop.redeems(name, f"u{n}") for name in ("sneaker", "coupon") for n in range(100)))

    report = drain(shop, limit=31)

    assert report.taken_from == Counter({HERE: 15, THERE: 15, YONDER: 1})
    assert report.more == {HERE, THERE}


def test_a_batch_takes_one_row_of_each_partition_at_least(shop: Store) -> None:
    """
    A limit below the number of partitions holds none of them up.
    """
    in_turn(shop, 6)

    report = drain(shop, limit=1)

    assert report.taken_from == Counter(dict.fromkeys(ALL, 1))
    assert report.more == frozenset(ALL)


# ---------------------------------------------------------------- one partition is held up


def test_a_paused_partition_does_not_hold_up_the_others(shop: Store) -> None:
    """
    Its rows stay, and the report names it.
    """
    shop.owner.execute("INSERT INTO pauses (partition, actor) VALUES (%s, 'admin')", (THERE,))
    asked = in_turn(shop, 6)

    report = drain(shop)

    assert (report.paused, report.taken) == (frozenset([THERE]), 4)
    assert shop.statuses(asked) == ["completed", None, "completed"] * 2
    assert shop.waiting() == 2


def test_a_locked_partition_does_not_hold_up_the_others(shop: Store) -> None:
    """
    Another backend has a batch of it under way. Its rows stay, and it is named instead of waited for.
    """
    asked = in_turn(shop, 6)
    with worker_connection(shop.database) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, THERE))

        report = drain(shop)

        assert (report.locked, report.taken) == (frozenset([THERE]), 4)
        assert shop.statuses(asked) == ["completed", None, "completed"] * 2
    assert drain(shop).taken == 2


def test_batches_of_overlapping_partitions_decide_everything_once(shop: Store) -> None:
    """
    Four backends drain different sets of partitions at the same time. No deadlock, no number twice, no order broken.
    """
    asked = in_turn(shop, 300)
    sets = [ALL, (HERE, THERE), (YONDER, THERE), (YONDER, HERE)]
    connections = [worker_connection(shop.database) for _ in sets]

    def until_empty(connection: Any, partitions: tuple[int, ...]) -> int:
        taken = 0
        while (report := batch.drain_once(connection, partitions, 9)).taken or report.locked:
            taken += report.taken
        return taken

    results = at_once(
        *(
            lambda connection=connection, partitions=partitions: until_empty(connection, partitions)
            for connection, partitions in zip(connections, sets, strict=True)
        )
    )

    for connection in connections:
        connection.close()
    assert [result for result in results if isinstance(result, DatabaseUnavailable)] == []
    assert sum(int(str(taken)) for taken in results) == 300
    for place in range(3):
        assert sequences_of(shop, asked[place::3]) == list(range(2, 102))
    shop.check_ledger()


def test_rows_that_another_transaction_took_in_one_partition_stop_the_batch(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The numbers of rows must agree in each partition, not only in all of them together.
    """
    in_turn(shop, 6)
    act_at(monkeypatch, "u4", lambda: shop.owner.execute("DELETE FROM inbox WHERE partition = %s", (THERE,)))
    before = [shop.available(name) for name in NAMES]

    with pytest.raises(DatabaseUnavailable, match="the inbox changed"):
        drain(shop)

    assert [shop.available(name) for name in NAMES] == before


def test_a_batch_that_is_killed_leaves_no_partition_half_done(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The backend ends in the middle of the batch. Nothing has changed anywhere. The next batch decides all in order.
    """
    asked = in_turn(shop, 9)
    before = shop.contents()
    killed = shop.worker
    act_at(
        monkeypatch,
        "u5",
        lambda: (
            shop.owner.execute("SELECT pg_terminate_backend(%s)", (killed.info.backend_pid,))
            if shop.worker is killed
            else None
        ),
    )

    with pytest.raises(DatabaseUnavailable):
        drain(shop)

    assert shop.contents() == before
    shop.reconnect()
    assert drain(shop).decided == asked


# ---------------------------------------------------------------- one bad request


def test_a_rule_that_raises_fails_its_request_beside_other_partitions(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One request fails. All others of the batch are decided, in the same transaction.
    """

    def fail() -> None:
        raise ZeroDivisionError("the poison")

    act_at(monkeypatch, "u4", fail)
    asked = in_turn(shop, 9)

    report = drain(shop)

    expected = ["completed"] * 9
    expected[4] = "processor_error"
    assert shop.statuses(asked) == expected
    assert (report.taken, report.failed) == (9, 1)
    assert sequences_of(shop, asked[1::3]) == [2, 3, 4]


def test_a_first_limit_ends_the_batch_in_all_partitions(shop: Store) -> None:
    """
    The rows that follow need the usages of the limited resource. They are decided next, and each partition goes on.
    """
    before = in_turn(shop, 3)
    shop.accept(shop.asks("amendment", "coupon", details={"per_account_limit": 1}))
    after = shop.accept(
        shop.redeems("coupon", "u1"), shop.redeems("seat", "ada"), shop.redeems("coupon", "new")
    )

    reports = [drain(shop) for _ in range(3)]

    assert [(report.taken, report.ended_by) for report in reports] == [
        (3, frozenset([THERE])),  # the amendment needs the usages of the row before it
        (1, frozenset([THERE])),  # the rows after it need those that it counts
        (3, frozenset()),
    ]
    assert reports[0].more == {THERE, YONDER}
    assert shop.statuses([*before, *after]) == ["completed"] * 3 + [
        "limit_reached",
        "completed",
        "completed",
    ]
    assert sequences_of(shop, after) == [4, 3, 5]


@pytest.mark.parametrize("named", [True, False], ids=["the fault names the request", "it names none"])
def test_rows_that_postgresql_refuses_fail_alone(shop: Store, named: bool) -> None:
    """
    Three rows of two partitions are refused. One batch decides all others, in order, whatever the fault says.
    """
    if named:
        refuse(shop, "account NOT LIKE 'poison%'")
    else:
        shop.owner.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22000'; END$$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON entries FOR EACH ROW WHEN (NEW.account LIKE 'poison%')"
            " EXECUTE FUNCTION refuse()"
        )
    poison = {7, 8, 22}
    asked = [
        shop.accept(shop.redeems(NAMES[n % 3], f"poison{n}" if n in poison else f"u{n}"))[0]
        for n in range(30)
    ]

    report = drain(shop)

    assert shop.statuses(asked) == ["processor_error" if n in poison else "completed" for n in range(30)]
    assert (report.taken, report.failed, report.decided) == (30, 3, asked)
    for place in range(3):
        assert sequences_of(shop, asked[place::3]) == list(range(2, 12))
    shop.check_ledger()


def test_a_row_that_cannot_be_sent_fails_alone(shop: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The fault arises in this process, before PostgreSQL sees the row.
    """
    sound = Writer.part

    def part(writer: Writer, decided: Decided) -> None:
        if any(entry.account == "u4" for entry in decided.entries):
            raise TypeError("no bytes")
        sound(writer, decided)

    monkeypatch.setattr(Writer, "part", part)
    asked = in_turn(shop, 9)

    assert drain(shop).taken == 9

    expected = ["completed"] * 9
    expected[4] = "processor_error"
    assert shop.statuses(asked) == expected


def test_a_row_that_is_named_and_not_refused_does_not_fail(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The name in the fault is a guess, which is tried. A wrong one costs time, and fails no request.
    """
    refuse(shop, "account <> 'u7'")
    monkeypatch.setattr(batch, "named_in_fault", lambda _, rows: min(2, len(rows) - 1))
    asked = in_turn(shop, 12)

    drain(shop)

    expected = ["completed"] * 12
    expected[7] = "processor_error"
    assert shop.statuses(asked) == expected


def test_the_search_grows_with_the_refused_rows_and_not_with_the_good_ones(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Thirty refused rows among 930 need a few savepoints each. All 930 are applied by one batch.
    """
    tried = Mock(wraps=batch_store.read)
    monkeypatch.setattr(batch_store, "read", tried)
    monkeypatch.setattr(batch, "SEARCH_SECONDS", 60.0)  # on a busy machine, too
    refuse(shop, "substr(account, 2)::integer % 31 <> 7")
    asked = in_turn(shop, 930)

    report = drain(shop)

    assert (report.taken, report.failed) == (930, 30)
    assert shop.statuses(asked) == ["processor_error" if n % 31 == 7 else "completed" for n in range(930)]
    assert tried.call_count <= 30 * 6


def test_a_search_that_takes_long_is_committed_in_pieces(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A drain without a commit counts as stalled. The rows until then are kept, and the rest waits for the next batch.
    """
    monkeypatch.setattr(batch, "SEARCH_SECONDS", 0.0)
    refuse(shop, "account <> 'u20'")
    asked = in_turn(shop, 30)

    first = drain(shop)
    while drain(shop).taken:
        pass

    assert 0 < first.taken < 30
    assert first.more == first.ended_by == frozenset(ALL)
    assert shop.statuses(asked) == ["completed"] * 20 + ["processor_error"] + ["completed"] * 9
    shop.check_ledger()
