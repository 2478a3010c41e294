"""
Reservations with legs on PostgreSQL: all legs are held or none, and they end together.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from processor.batch import run as batch
from processor.batch.worksheet import Worksheet
from processor.domain import ledger
from processor.domain.partitioning import partition_of
from processor.domain.rules import reservations as rules
from processor.operations import failed_requests, reservations
from processor.operations.failed_requests import Refunder
from processor.operations.reservations import LegsAreCapturedWhole
from processor.reading import requests
from processor.storage import connections
from processor.verify.checks import verify
from tests.servers import PARTITIONS
from tests.store.holds import SHOP, command, lapse, quantities
from tests.store.store import KEY_ID, at_once, worker_connection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from uuid import UUID

    from processor.batch.run import BatchReport
    from processor.batch.snapshot import Decided
    from tests.store.store import Store

#: Seats of three partitions.
NAMES: Final = ("points", "sneaker", "seat")
HERE, THERE, YONDER = ALL = tuple(partition_of(name, PARTITIONS) for name in NAMES)
EVERY: Final = range(PARTITIONS)
SIDE_BY_SIDE: Final = tuple((name, 2) for name in NAMES)


@pytest.fixture
def shop(store: Store) -> Iterator[Store]:
    """
    A store with ten seats in each of three partitions. At the end `verify` must find no discrepancy.
    """
    assert len(set(ALL)) == len(ALL)
    for name in NAMES:
        store.open(name, "seat", 10, per_account_limit=6)
    yield store
    store.check_ledger()
    assert [str(found) for found in verify(store.owner)] == []


def drain(store: Store, partitions: Iterable[int] = ALL, **more: Any) -> BatchReport:
    return batch.drain_once(store.worker, sorted(partitions), **more)


def reserve(store: Store, account: str = "ada", *legs: tuple[str, int]) -> UUID:
    """Submit a reservation and decide it. Returns its id."""
    [asked] = store.accept(store.reserves(account, *(legs or SIDE_BY_SIDE)))
    drain(store, EVERY)
    return asked


def expire(store: Store, partitions: Iterable[int] = EVERY, **more: Any) -> list[UUID]:
    """End what is over, with the locks of these partitions. Returns the requests."""
    return batch.expire_once(store.worker, list(partitions), **more).decided


def state(store: Store) -> list[tuple[int, int]]:
    """Return what is available and held of each seat."""
    return [quantities(store, name) for name in NAMES]


def kinds(store: Store, request: UUID) -> set[tuple[int, tuple[str, ...]]]:
    """Return the kinds of the entries of each leg."""
    rows = store.owner.execute(
        "SELECT leg, array_agg(kind ORDER BY version) FROM entries WHERE request_id = %s GROUP BY leg",
        (request,),
    )
    return {(leg, tuple(moves)) for leg, moves in rows}


def of_all_legs(*moves: str) -> set[tuple[int, tuple[str, ...]]]:
    return {(leg, moves) for leg in range(len(NAMES))}


@pytest.mark.parametrize(
    ("verb", "end", "left"), [("capture", "completed", (8, 0)), ("release", "released", (10, 0))]
)
def test_all_legs_are_held_and_end_together(shop: Store, verb: str, end: str, left: tuple[int, int]) -> None:
    """
    The limit of each account counts what is held. One row has the hold, with the partitions of all legs.
    """
    asked = reserve(shop)
    assert shop.one("SELECT stage FROM decisions WHERE request_id = %s AND current", asked) == "held"
    assert (state(shop), [shop.used(name) for name in NAMES]) == ([(8, 2)] * 3, [{"ada": 2}] * 3)
    assert shop.owner.execute("SELECT held, partition, partitions FROM reservations").fetchall() == [
        (6, HERE, sorted(ALL))
    ]

    assert command(shop, verb, asked)
    assert not command(shop, "release", asked)
    drain(shop)

    assert shop.statuses([asked]) == [end]
    assert state(shop) == [left] * 3
    assert kinds(shop, asked) == of_all_legs("hold", verb)
    assert [shop.used(name) for name in NAMES] == [{"ada": 2 if verb == "capture" else 0}] * 3
    assert shop.one("SELECT count(*) FROM reservations") == 0


@pytest.mark.parametrize(
    ("legs", "code", "leg"),
    [
        ([("points", 1), ("sneaker", 11)], "limit_reached", "sneaker"),
        ([("sold", 3), ("sneaker", 11)], "out_of_stock", "sold"),
        ([("points", 1), ("nowhere", 1)], "resource_not_found", "nowhere"),
        ([("points", 1), ("bank", 1)], "not_exchangeable", "bank"),
        ([("closed", 1), ("points", 1)], "resource_closed", "closed"),
        ([("points", 1), ("others", 1)], "resource_not_found", "others"),
        ([("points", 1), ("daily", 3)], "daily_limit_reached", "daily"),
        ([("points", 1), ("deep", 2**53 - 1)], "too_large", "deep"),
    ],
)
def test_nothing_is_held_if_one_leg_is_refused(
    shop: Store, legs: list[tuple[str, int]], code: str, leg: str
) -> None:
    """
    The code is that of the first leg that fails, in the order sent, and the error names its resource.
    """
    shop.open("sold", "seat", 2)
    shop.open("bank", "balance", 100, gateway="sandbox")
    shop.open("closed", "stock", 100)
    shop.accept(shop.asks("closing", "closed"))
    shop.open("others", "stock", 100, client="another")
    shop.open("daily", "stock", 100, per_account_daily_limit=2)
    shop.open("deep", "balance", 100, overdraft=2**53 - 1)
    drain(shop, EVERY)
    if code == "too_large":
        shop.accept(shop.asks("reservation", "deep", "bob", 1, details={"ttl_seconds": 600}))
        drain(shop, EVERY)

    asked = reserve(shop, "ada", *legs)

    record, _ = requests.read_request(shop.owner, asked, "shop")
    assert record.document()["error"] == {"code": code, "resource": leg}
    assert kinds(shop, asked) == set()
    assert state(shop) == [(10, 0)] * 3
    assert shop.waiting() == 0


def test_a_fault_in_a_later_leg_holds_nothing_and_ends_nothing(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The request fails as a whole. A replay holds all legs, or carries out the release that was accepted.
    """
    real = ledger.post

    def post(resource: Any, *rest: Any) -> Any:
        if resource.id == "sneaker":
            raise RuntimeError("a fault")
        return real(resource, *rest)

    [asked] = shop.accept(shop.reserves("ada", *SIDE_BY_SIDE))
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "post", post)
        drain(shop)
    assert (shop.statuses([asked]), kinds(shop, asked)) == (["processor_error"], set())
    failed_requests.replay_each(shop.owner, [asked], "olga", "a test")
    drain(shop)
    assert kinds(shop, asked) == of_all_legs("hold")

    assert command(shop, "release", asked)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "post", post)
        drain(shop)
    assert (shop.statuses([asked]), kinds(shop, asked)) == (["processor_error"], of_all_legs("hold"))
    assert list(verify(shop.owner)) == []
    failed_requests.replay_each(shop.owner, [asked], "olga", "a test")
    drain(shop)
    assert (shop.statuses([asked]), kinds(shop, asked)) == (["released"], of_all_legs("hold", "release"))


@pytest.mark.parametrize("kind", ["hold", "release"])
def test_postgresql_refuses_a_half_and_only_its_request_fails(
    shop: Store, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """
    A worksheet that forgets an entry of the last leg. The other requests of the batch are decided.
    """
    real = Worksheet.flush

    def forget(sheet: Worksheet) -> Decided:
        decided = real(sheet)
        kept = [one for one in decided.entries if (one.kind, one.account, one.leg) != (kind, "ada", 2)]
        return decided._replace(entries=kept)

    wanted = [shop.reserves(name, *SIDE_BY_SIDE) for name in ("eve", "ada", "bob")]
    with monkeypatch.context() as patch:
        patch.setattr(Worksheet, "flush", forget)
        before, asked, behind = shop.accept(*wanted)
        drain(shop)
        if kind == "release":
            assert all(command(shop, "release", one) for one in (before, asked, behind))
            drain(shop)
    others = "released" if kind == "release" else "processing"
    assert shop.statuses([before, asked, behind]) == [others, "processor_error", others]
    assert kinds(shop, asked) == (of_all_legs("hold") if kind == "release" else set())


def test_a_refund_releases_a_failed_one_and_gives_a_captured_one_back(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    All legs at once, and once. A failed one is released, and the accepted capture no longer changes anything.
    """
    failed, captured = reserve(shop, "ada"), reserve(shop, "bob")
    for one in (failed, captured):
        assert command(shop, "capture", one)

    def end(verb: str, before: Any, *rest: Any) -> Any:
        if before.request_id == failed:
            raise RuntimeError("a fault")
        return real(verb, before, *rest)

    real = rules.end
    with monkeypatch.context() as patch:
        patch.setattr(rules, "end", end)
        drain(shop)
    assert shop.statuses([failed, captured]) == ["processor_error", "completed"]

    refunds = []
    for original in failed_requests.read_originals(shop.owner, [failed, captured, failed]):
        refunder = Refunder("staff", KEY_ID, "root")
        refunds += shop.accept(
            failed_requests.refund_of(original, None, "a test", refunder, f"refund {next(shop.keys)}")
        )
    drain(shop)

    assert shop.statuses(refunds) == ["completed", "completed", "nothing_to_refund"]
    assert shop.statuses([failed, captured]) == ["refunded_by_admin"] * 2
    assert kinds(shop, failed) == of_all_legs("hold", "release")
    assert kinds(shop, captured) == of_all_legs("hold", "capture")
    assert kinds(shop, refunds[1]) == of_all_legs("credit")
    assert state(shop) == [(10, 0)] * 3
    assert [shop.used(name) for name in NAMES] == [{"ada": 0, "bob": 0}] * 3


def test_a_capture_of_legs_has_no_amount(shop: Store) -> None:
    """
    All legs are captured whole. The API, and PostgreSQL behind it, refuse a part.
    """
    asked = reserve(shop)
    with connections.connect(shop.database.api_url, application_name="test api") as api:
        with pytest.raises(LegsAreCapturedWhole):
            reservations.capture(api, asked, SHOP, 1)
        with pytest.raises(psycopg.errors.CheckViolation, match="reservations_whole"):
            api.execute("UPDATE reservations SET command = 'capture', accepted_at = now(), amount = 1")


# ---------------------------------------------------------------- the expiry


def test_the_expiry_ends_all_legs_and_needs_all_locks(shop: Store) -> None:
    """
    A batch without one of the partitions, or without its lock, leaves the hold. One with all of them ends it once.
    """
    asked = reserve(shop)
    lapse(shop, asked)
    assert reservations.expired(shop.worker, [HERE]) == {frozenset(ALL)}
    assert reservations.expired(shop.worker, [THERE, YONDER]) == set()

    assert expire(shop, [HERE, THERE]) == []
    with worker_connection(shop.database) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s, %s)", (connections.LOCK_CLASS, THERE))
        assert expire(shop) == []
        assert batch.expire_once(shop.worker, ALL, needs_all=True).locked == set(ALL)
    assert state(shop) == [(8, 2)] * 3

    assert expire(shop, ALL, needs_all=True) == [asked]
    assert expire(shop) == []
    assert shop.statuses([asked]) == ["reservation_expired"]
    assert kinds(shop, asked) == of_all_legs("hold", "release")
    assert [shop.used(name) for name in NAMES] == [{"ada": 0}] * 3


def test_a_paused_partition_of_one_leg_lets_all_legs_wait(shop: Store) -> None:
    """
    Reservations of the other partitions expire meanwhile, also behind many that wait.
    """
    waiting = [reserve(shop, f"u{n}", ("points", 1), ("sneaker", 1)) for n in range(3)]
    single = reserve(shop, "eve", ("points", 1), ("seat", 1))
    shop.owner.execute("UPDATE reservations SET expires_at = clock_timestamp()")
    shop.owner.execute("INSERT INTO pauses (partition, actor) VALUES (%s, 'olga')", (THERE,))

    assert reservations.expired(shop.worker, EVERY) == {frozenset({HERE, YONDER})}
    assert expire(shop, limit=1) == [single]
    assert expire(shop) == []

    shop.owner.execute("DELETE FROM pauses")
    assert sorted(expire(shop)) == sorted(waiting)


@pytest.mark.parametrize(("verb", "end"), [("capture", "completed"), ("release", "released")])
def test_an_accepted_command_beats_the_expiry_of_all_legs(shop: Store, verb: str, end: str) -> None:
    """
    The command was accepted before the expiry, and a later leg is behind other work.
    """
    asked = reserve(shop)
    assert command(shop, verb, asked)
    shop.accept(shop.redeems("seat", "bob"))
    with shop.owner.transaction():
        shop.owner.execute("ALTER TABLE reservations DISABLE TRIGGER command")
        lapse(shop, asked, -60)
        shop.owner.execute("ALTER TABLE reservations ENABLE TRIGGER command")

    assert reservations.expired(shop.worker, EVERY) == set()
    assert expire(shop) == []
    drain(shop)
    assert shop.statuses([asked]) == [end]


def test_the_order_holds_for_every_leg(shop: Store) -> None:
    """
    A hold comes between the requests before and behind it in each of its partitions. So does its release.
    """
    before = shop.accept(*(shop.redeems(name, "before", 1) for name in NAMES))
    [asked] = shop.accept(shop.reserves("ada", *SIDE_BY_SIDE))
    behind = shop.accept(*(shop.redeems(name, "behind", 1) for name in NAMES))
    for partitions in ([HERE], [THERE], [YONDER], [HERE, THERE]):
        drain(shop, partitions)
    assert shop.statuses([*before, asked, *behind]) == ["completed"] * 3 + [None] * 4
    drain(shop)
    assert command(shop, "release", asked)
    last = shop.accept(*(shop.redeems(name, "last", 1) for name in NAMES))
    for partition in ALL:
        drain(shop, [partition])
    assert shop.statuses(last) == [None] * 3
    drain(shop)

    for name in NAMES:
        moves = [(entry[1], entry[3]) for entry in shop.entries(name)[1:]]
        assert moves == [
            ("debit", "before"),
            ("hold", "ada"),
            ("debit", "behind"),
            ("release", "ada"),
            ("debit", "last"),
        ]


def test_two_workers_hold_and_end_reservations_of_each_other(shop: Store) -> None:
    """
    Two connections with half of the partitions each. Some holds are captured, some released, and the rest expire.
    """
    names = [f"row:{n}" for n in range(6)]
    for name in names:
        shop.open(name, "seat", 200)
    submissions = [
        shop.reserves(f"u{n}", *((names[(n + step) % 6], 1) for step in range(2 + n % 4)), ttl=600)
        for n in range(90)
    ]
    asked = shop.accept(*submissions)
    homes = sorted({partition_of(name, PARTITIONS) for name in names})
    halves = [homes[::2], homes[1::2]]

    def work(own: list[int]) -> None:
        with worker_connection(shop.database) as connection:
            for _ in itertools.count():
                report = batch.drain_once(connection, own, 20)
                crossing = {one for each in report.crossings for one in each.partitions}
                if crossing:
                    batch.drain_once(connection, crossing, 20, needs_all=True)
                due = {one for each in reservations.expired(connection, own) for one in each}
                if due:
                    batch.expire_once(connection, due, 7, needs_all=True)
                elif connection.execute("SELECT count(*) FROM inbox").fetchone() == (0,):
                    return

    at_once(*(functools.partial(work, half) for half in halves))
    stages = "SELECT count(*) FROM decisions WHERE current AND stage = 'held'"
    assert shop.one(stages) == len(asked)
    for number, request in enumerate(asked):
        if number % 3 < 2:
            assert command(shop, ("capture", "release")[number % 3], request)
        else:
            lapse(shop, request)
    at_once(*(functools.partial(work, half) for half in halves))

    assert shop.statuses(asked) == ["completed", "released", "reservation_expired"] * 30
    assert shop.one("SELECT sum(held) FROM resources WHERE id LIKE 'row:%%'") == 0
