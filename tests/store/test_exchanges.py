"""
Exchanges on PostgreSQL: all legs or none, in the order of every leg, whichever partitions a batch has.
"""

from __future__ import annotations

import functools
import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest

from processor.batch import run as batch
from processor.batch.crossing import Crossing
from processor.domain import ledger
from processor.domain.partitioning import partition_of
from processor.operations import failed_requests
from processor.operations.failed_requests import Refunder
from processor.reading import requests
from processor.verify.checks import verify
from tests.servers import PARTITIONS
from tests.store.store import KEY_ID, at_once, worker_connection

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from processor.batch.run import BatchReport
    from tests.store.store import Store

#: Resources of three partitions.
NAMES = ("points", "sneaker", "seat")
HERE, THERE, YONDER = ALL = tuple(partition_of(name, PARTITIONS) for name in NAMES)
EVERY = range(PARTITIONS)


@pytest.fixture
def shop(store: Store) -> Store:
    """
    A store with a resource in each of three partitions.
    """
    assert len(set(ALL)) == len(ALL)
    store.open("points", "points", 1_000)
    store.open("sneaker", "stock", 10)
    store.open("seat", "seat", 10)
    return store


def drain(store: Store, partitions: Iterable[int] = ALL, **more: Any) -> BatchReport:
    return batch.drain_once(store.worker, sorted(partitions, reverse=True), **more)


def moves_of(store: Store, request: UUID) -> list[tuple[str, str, str | None, int, int]]:
    return store.owner.execute(
        "SELECT resource_id, kind, account, amount, leg FROM entries WHERE request_id = %s ORDER BY leg",
        (request,),
    ).fetchall()


def refund(store: Store, request: UUID) -> UUID:
    [original] = failed_requests.read_originals(store.owner, [request])
    refunder = Refunder("staff", KEY_ID, "root")
    [refunded] = store.accept(
        failed_requests.refund_of(original, None, "a test", refunder, f"refund {next(store.keys)}")
    )
    return refunded


def test_all_legs_move_in_one_batch(shop: Store) -> None:
    """
    The decision is numbered in the home partition alone, and each leg has its entry.
    """
    [request] = shop.accept(shop.exchanges("ada", ("points", -100), ("sneaker", 1), ("seat", -2)))
    report = drain(shop)
    assert (report.taken, report.crossings, shop.waiting()) == (1, [], 0)
    assert shop.statuses([request]) == ["completed"]
    assert moves_of(shop, request) == [
        ("points", "debit", "ada", 100, 0),
        ("sneaker", "credit", "ada", 1, 1),
        ("seat", "debit", "ada", 2, 2),
    ]
    assert [shop.available(name) for name in NAMES] == [900, 11, 8]
    shop.check_ledger()


@pytest.mark.parametrize(
    ("legs", "code", "leg"),
    [
        ([("points", -100), ("sneaker", -11)], "out_of_stock", "sneaker"),
        ([("points", -1_001), ("sneaker", -11)], "insufficient_points", "points"),
        ([("points", -1), ("nowhere", 1)], "resource_not_found", "nowhere"),
        ([("points", -1), ("bank", 1)], "not_exchangeable", "bank"),
        ([("points", -1), ("bank", -1)], "not_exchangeable", "bank"),
        ([("points", -1), ("closed", 1)], "resource_closed", "closed"),
        ([("points", -1), ("full", 1)], "too_large", "full"),
        ([("points", -1), ("others", -1)], "resource_not_found", "others"),
        ([("points", -1), ("sold", -1)], "ended", "sold"),
        ([("scarce", -3), ("points", -1_001)], "limit_reached", "scarce"),
        ([("daily", -3), ("points", -1)], "daily_limit_reached", "daily"),
    ],
)
def test_nothing_moves_if_one_leg_is_refused(
    shop: Store, legs: list[tuple[str, int]], code: str, leg: str
) -> None:
    """
    The code is that of the first leg that fails, in the order sent, and the error names its resource.
    """
    shop.open("bank", "balance", 100, gateway="sandbox")
    shop.open("closed", "stock", 100)
    shop.accept(shop.asks("closing", "closed"))
    shop.open("full", "balance", 2**53 - 1)
    shop.open("others", "stock", 100, client="another")
    shop.open("sold", "stock", 100, ends_at="2020-01-01T00:00:00Z")
    shop.open("scarce", "stock", 100, per_account_limit=2)
    shop.open("daily", "stock", 100, per_account_daily_limit=2)
    drain(shop, EVERY)
    before = [shop.available(name) for name in NAMES]

    [request] = shop.accept(shop.exchanges("ada", *legs))
    drain(shop, EVERY)

    record, _ = requests.read_request(shop.owner, request, "shop")
    assert record.document()["error"] == {"code": code, "resource": leg}
    assert moves_of(shop, request) == []
    assert [shop.available(name) for name in NAMES] == before
    assert shop.waiting() == 0


def test_a_batch_without_a_partition_of_an_exchange_leaves_it_and_what_is_behind_it(shop: Store) -> None:
    """
    Earlier requests are decided. Each partition of the exchange waits, and others do not.
    """
    before = shop.accept(shop.redeems("points", "before"), shop.redeems("sneaker", "before"))
    [request] = shop.accept(shop.exchanges("ada", ("points", -100), ("sneaker", -1)))
    behind = shop.accept(shop.redeems("points", "behind"), shop.redeems("sneaker", "behind"))
    [beside] = shop.accept(shop.redeems("seat", "beside"))

    reports = [drain(shop, [HERE, YONDER]), drain(shop, [THERE, YONDER])]

    assert [report.blocked for report in reports] == [{HERE, THERE}] * 2
    crossings = [crossing for report in reports for crossing in report.crossings]
    assert crossings == [Crossing(HERE, frozenset({HERE, THERE}))] * 2
    assert [report.more for report in reports] == [frozenset()] * 2
    assert shop.statuses([*before, request, *behind, beside]) == [
        "completed",
        "completed",
        None,
        None,
        None,
        "completed",
    ]
    assert drain(shop, [HERE, THERE]).taken == 3
    assert shop.statuses([request, *behind]) == ["completed"] * 3
    for name in ("points", "sneaker"):
        accounts = [entry[3] for entry in shop.entries(name)[1:]]
        assert accounts == ["before", "ada", "behind"]


def test_the_order_holds_for_the_second_leg_too(shop: Store) -> None:
    """
    Nine of ten sneakers are taken before the exchange, so one is left for it, and none for the requests behind it.
    """
    first = shop.accept(*(shop.redeems("sneaker", f"u{n}") for n in range(9)))
    [request] = shop.accept(shop.exchanges("ada", ("points", -100), ("sneaker", -1)))
    last = shop.accept(*(shop.redeems("sneaker", f"u{n}") for n in range(9, 12)))
    while shop.waiting():
        for partitions in ([HERE], [THERE], [HERE, THERE]):
            drain(shop, partitions, limit=4)
    assert shop.statuses([*first, request, *last]) == [*["completed"] * 10, *["out_of_stock"] * 3]


def test_an_exchange_behind_one_that_waits_waits_with_all_of_its_partitions(shop: Store) -> None:
    """
    Partitions of the second exchange that the first one does not touch must not overtake it either.
    """
    shop.accept(shop.exchanges("ada", ("points", -1), ("sneaker", 1)))
    shop.accept(shop.exchanges("ada", ("points", -1), ("seat", -10)))
    [late] = shop.accept(shop.redeems("seat", "late"))

    report = drain(shop, [HERE, YONDER])

    assert report.blocked == {HERE, THERE, YONDER}
    drain(shop)
    assert shop.statuses([late]) == ["out_of_stock"]


def test_a_batch_that_ends_early_leaves_no_place_behind(shop: Store) -> None:
    """
    An amendment ends a batch, because the rows behind it need a new snapshot.
    """
    shop.accept(shop.exchanges("ada", ("points", -1), ("sneaker", 1)))
    shop.accept(shop.asks("amendment", "points", details={"per_account_limit": 5}))
    requests_behind = shop.accept(shop.exchanges("ada", ("sneaker", -1), ("points", -5)))
    while drain(shop).taken:
        pass
    assert shop.statuses(requests_behind) == ["limit_reached"]
    assert shop.waiting() == 0


def test_an_exchange_counts_what_it_takes_and_gives_no_usage_back(shop: Store) -> None:
    """
    Per-account limits count takes, also when the limit is set later. A refund gives back what was taken.
    """
    shop.open("scarce", "stock", 100, per_account_limit=3, per_account_daily_limit=50)
    shop.open("later", "stock", 100)
    [request] = shop.accept(shop.exchanges("ada", ("scarce", -2), ("later", -2)))
    shop.accept(shop.exchanges("ada", ("points", -1), ("scarce", 2), ("later", 2)))
    drain(shop, EVERY)
    shop.accept(
        shop.asks("amendment", "later", details={"per_account_limit": 4, "per_account_daily_limit": 40})
    )
    drain(shop, EVERY)
    assert shop.used("scarce") == shop.used("later") == {"ada": 2}
    refund(shop, request)
    drain(shop, EVERY)
    assert shop.used("scarce") == shop.used("later") == {"ada": 0}
    assert shop.owner.execute("SELECT used FROM daily_usages").fetchall() == [(2,), (2,)]
    assert list(verify(shop.owner)) == []


def test_thresholds_of_every_leg_that_takes_guard_an_exchange(shop: Store) -> None:
    """
    The code comes before the approval. A leg that gives is not guarded.
    """
    shop.owner.execute(
        "INSERT INTO accounts (client_id, name, email) VALUES ('shop', 'ada', 'ada@example.com')"
    )
    shop.open("safe", "balance", 1_000, confirm_above=10)
    shop.open("vault", "balance", 1_000, approve_above=10)
    [free, guarded, unreachable] = shop.accept(
        shop.exchanges("ada", ("safe", -10), ("vault", 500)),
        shop.exchanges("ada", ("vault", -11), ("safe", -11)),
        shop.exchanges("eve", ("points", -1), ("safe", -11)),
    )
    drain(shop, EVERY)
    assert shop.statuses([free, guarded, unreachable]) == ["completed", "processing", "no_contact"]
    stage = "SELECT stage FROM decisions WHERE request_id = %s AND current"
    assert shop.one(stage, guarded) == "awaiting_confirmation"
    for verb, then in (("confirm", "awaiting_approval"), ("approve", None)):
        shop.owner.execute(
            "INSERT INTO inbox (partition, request_id, verb, payload)"
            ' SELECT partition, id, %s, \'{"actor": "olga"}\' FROM requests WHERE id = %s',
            (verb, guarded),
        )
        assert shop.waiting() == 2
        drain(shop, EVERY)
        assert shop.one(stage, guarded) == then
    assert shop.statuses([guarded]) == ["completed"]
    assert [shop.available(name) for name in ("safe", "vault")] == [979, 1_489]


def test_a_refund_undoes_every_leg_or_none(shop: Store) -> None:
    """
    A given item is taken back. If it is gone, the refund is refused with the code of that leg.
    """
    [kept, spent] = shop.accept(
        shop.exchanges("ada", ("points", -100), ("sneaker", 1)),
        shop.exchanges("ada", ("points", -100), ("seat", 1)),
    )
    shop.accept(shop.redeems("seat", "bob", 11))
    drain(shop)
    [done, refused] = [refund(shop, kept), refund(shop, spent)]
    drain(shop)
    assert shop.statuses([kept, done, spent, refused]) == [
        "refunded_by_admin",
        "completed",
        "completed",
        "out_of_stock",
    ]
    assert moves_of(shop, done) == [("points", "credit", "ada", 100, 0), ("sneaker", "debit", "ada", 1, 1)]
    assert [shop.available(name) for name in NAMES] == [900, 10, 0]
    assert shop.statuses([again := refund(shop, kept)]) == [None]
    drain(shop)
    assert shop.statuses([again]) == ["nothing_to_refund"]
    record, _ = requests.read_request(shop.owner, refused, None)
    assert record.document()["error"] == {"code": "out_of_stock", "resource": "seat"}
    shop.check_ledger()


def test_a_fault_in_a_later_leg_leaves_no_half(shop: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The request fails, and nothing of it is written. A replay decides it as a whole.
    """
    real = ledger.post

    def post(resource: Any, *rest: Any) -> Any:
        if resource.id == "sneaker":
            raise RuntimeError("a fault")
        return real(resource, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "post", post)
        [request] = shop.accept(shop.exchanges("ada", ("points", -100), ("sneaker", 1)))
        drain(shop)
    assert shop.statuses([request]) == ["processor_error"]
    assert [shop.available(name) for name in NAMES] == [1_000, 10, 10]
    assert moves_of(shop, request) == []
    failed_requests.replay_each(shop.owner, [request], "olga", "a test")
    drain(shop)
    assert shop.statuses([request]) == ["completed"]
    shop.check_ledger()


def test_a_paused_partition_lets_its_exchanges_wait(shop: Store) -> None:
    """
    Also those behind them in their other partitions wait. A reader sees which partition is paused.
    """
    [request] = shop.accept(shop.exchanges("ada", ("points", -100), ("sneaker", 1)))
    shop.owner.execute("INSERT INTO pauses (partition, actor) VALUES (%s, 'olga')", (THERE,))
    report = drain(shop)
    assert report.taken == 0
    assert report.paused == {THERE}
    assert report.blocked == {HERE, THERE}
    shop.owner.execute("DELETE FROM pauses")
    drain(shop)
    assert shop.statuses([request]) == ["completed"]


def test_crossing_exchanges_between_two_workers_neither_deadlock_nor_halve(shop: Store) -> None:
    """
    Two connections take partitions of each other. Sums of what exchanges move stay, and every order holds.
    """
    names = [f"player:{n}" for n in range(6)]
    for name in names:
        shop.open(name, "stock", 50)
    chance = random.Random(7)
    submissions = []
    for n in range(200):
        first, second = chance.sample(names, 2)
        submissions.append(shop.exchanges(f"u{n}", (first, -1), (second, 1)))
        submissions.append(shop.redeems(chance.choice(names), f"r{n}", 1))
    asked = shop.accept(*submissions)
    homes = sorted({partition_of(name, PARTITIONS) for name in names})
    halves = [homes[::2], homes[1::2]]

    def work(own: list[int]) -> None:
        with worker_connection(shop.database) as connection:
            for _ in itertools.count():
                report = batch.drain_once(connection, own, 20)
                crossing = {one for each in report.crossings for one in each.partitions}
                if crossing:
                    report = batch.drain_once(connection, crossing, 20, needs_all=True)
                with worker_connection(shop.database) as reader:
                    if reader.execute("SELECT count(*) FROM inbox").fetchone() == (0,):
                        return

    at_once(*(functools.partial(work, half) for half in halves))

    statuses = shop.statuses(asked)
    assert set(statuses) <= {"completed", "out_of_stock"}
    redeemed = sum(status == "completed" for status in statuses[1::2])
    assert sum(shop.available(name) for name in names) == 50 * len(names) - redeemed
    shop.check_ledger()
    assert list(verify(shop.owner)) == []
