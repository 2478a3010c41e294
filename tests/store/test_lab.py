"""
The race lab on a real database: protections hold, the unprotected code does not, and nothing remains.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from lab import arena, paused_holder, stored_results, strategies, tellers_queue
from lab.strategies import STRATEGIES
from processor.batch import run as batch
from processor.errors import TellerError
from processor.storage import connections
from processor.verify.checks import verify
from tests.servers import PARTITIONS
from tests.store.store import intake_of, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lab.arena import Arena
    from lab.outcomes import Outcome
    from lab.strategies import Turn
    from processor.intake.intake import Receipt, Submission
    from processor.settings import Settings
    from processor.storage.connections import Connection
    from tests.servers import Database

USERS = 20
#: A race depends on luck. This many tries without one count as none.
TRIES = 20
LOCAL = [name for name, strategy in STRATEGIES.items() if strategy.holds and strategy.turn]


@pytest.fixture
def opened(settings: Settings) -> Iterator[Arena]:
    """
    An arena as the page has it, connected as `teller_api`.
    """
    with arena.opened(settings.api_database_url, settings.redis_url) as ready:
        yield ready


@pytest.fixture
def owner(database: Database) -> Iterator[Connection]:
    """
    The owner's connection, which may read everything.
    """
    with contextlib.closing(_connect(database.url)) as connection:
        yield connection


def _connect(url: str) -> Connection:
    return connections.connect(url, application_name="test")


def run(opened: Arena, name: str, users: int = USERS, stock: int = 1) -> Outcome:
    """Run one race of a strategy that has a turn."""
    turn = STRATEGIES[name].turn
    assert turn is not None
    return opened.race(name, [turn] * users, stock)


def rows_left(owner: Connection) -> list[tuple[int, int]]:
    """Return the numbers of rows in the tables of the races."""
    return owner.execute(
        "SELECT (SELECT count(*) FROM lab_things), (SELECT count(*) FROM lab_approvals)"
    ).fetchall()


@pytest.mark.parametrize("stock", [1, 7, USERS + 5])
@pytest.mark.parametrize("name", LOCAL)
def test_a_protection_approves_exactly_the_stock(opened: Arena, name: str, stock: int) -> None:
    """
    Approvals, answers and the rest agree, and each user got an answer.
    """
    outcome = run(opened, name, stock=stock)

    assert (outcome.approved, outcome.final, outcome.race) == (
        min(USERS, stock),
        stock - min(USERS, stock),
        False,
    )
    assert [result.error for result in outcome.results] == [None] * USERS
    assert sum(result.approved for result in outcome.results) == outcome.approved
    assert outcome.moment() is None


def test_the_textbook_sells_the_last_one_more_than_once(opened: Arena) -> None:
    """
    Read, check, write, with a barrier and nothing staged. The database's count equals the users' answers.
    """
    outcome = next((one for one in (run(opened, "naive") for _ in range(TRIES)) if one.race), None)

    assert outcome is not None
    assert outcome.approved > 1
    assert outcome.approved == sum(result.approved for result in outcome.results)
    moment = outcome.moment()
    assert moment is not None
    assert moment.value == 1
    # Users that read before the first write have read the value before it.
    assert all(
        result.seen == 1
        for result in outcome.results
        if (read := result.step("read")) and read.end_ms < moment.written_ms and result.approved
    )
    assert outcome.verdict().startswith(f"RACE: {outcome.approved} approved")


def test_the_textbook_loses_writes_too(opened: Arena) -> None:
    """
    With more pieces than users, no user is approved wrongly, and still the remaining quantity is wrong.
    """
    outcomes = [run(opened, "naive", stock=100) for _ in range(TRIES)]

    lost = next((one for one in outcomes if one.final != 100 - one.approved), None)
    assert lost is not None
    assert lost.race
    assert lost.approved == USERS
    assert "left" in lost.verdict()


@pytest.mark.parametrize(
    ("name", "query", "broken"),
    [
        ("rowlock", "read_quantity_for_update", "read_quantity"),
        ("atomic", "take_one", "write_quantity"),
    ],
)
def test_a_broken_protection_is_detected(
    opened: Arena, monkeypatch: pytest.MonkeyPatch, name: str, query: str, broken: str
) -> None:
    """
    Without FOR UPDATE, or without the condition, the strategy fails like the textbook, and the verdict shows
    it.
    """
    text = strategies.SQL[broken].replace("%(quantity)s", "quantity - 1")
    monkeypatch.setitem(strategies.SQL, query, text)

    assert any(run(opened, name).race for _ in range(TRIES))


def test_a_redis_lock_that_is_not_taken_protects_nothing(
    opened: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The lock protects, and not the time that it costs.
    """
    monkeypatch.setattr("redis.lock.Lock.acquire", lambda *_, **__: True)
    monkeypatch.setattr("redis.lock.Lock.release", lambda *_: None)

    assert any(run(opened, "redislock").race for _ in range(TRIES))


def test_a_redis_lock_fails_when_its_holder_is_paused(opened: Arena) -> None:
    """
    The second user gets the lock after it has expired. The first continues, and does not release the other's
    lock.
    """
    outcome = paused_holder.demonstrate(opened)

    assert outcome.race
    assert (outcome.approved, outcome.final) == (2, 0)
    assert [result.seen for result in outcome.results] == [1, 1]
    assert [result.error for result in outcome.results] == [None, None]
    holder, other = outcome.results
    pause, taken = holder.step("pause"), other.step("commit")
    assert pause is not None
    assert taken is not None
    assert pause.start_ms < taken.end_ms <= pause.end_ms


def test_steps_are_in_order_on_one_clock(opened: Arena) -> None:
    """
    No step begins before all users are released, and each user's steps follow each other.
    """
    outcome = run(opened, "redislock", users=3)

    for result in outcome.results:
        times = [at for step in result.steps for at in (step.start_ms, step.end_ms)]
        assert times == sorted(times)
        assert times[0] >= 0
    assert {step.name for step in outcome.results[0].steps} >= {"wait", "read", "check", "commit"}


def test_no_rows_remain(opened: Arena, owner: Connection) -> None:
    """
    A finished race leaves no rows. The rows of a killed one are removed by the next.
    """
    owner.execute(
        "INSERT INTO lab_things (id, quantity, created_at)"
        " VALUES (gen_random_uuid(), 1, now() - interval '2 hours'), (gen_random_uuid(), 1, now())"
    )
    owner.execute("INSERT INTO lab_approvals SELECT id, 1 FROM lab_things")

    run(opened, "naive", users=3)

    assert rows_left(owner) == [(1, 1)]  # rows of a race that may still run


def test_an_interrupted_race_ends_all_users_and_leaves_nothing(
    opened: Arena, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Ctrl-C ends the race while one user waits in PostgreSQL and another for a lock in Redis.
    """
    busy = threading.Semaphore(0)
    waiting = []

    def in_postgres(turn: Turn) -> None:
        waiting.append(turn.result)
        busy.release()
        turn.connection.execute("SELECT pg_sleep(60)")

    def in_redis(turn: Turn) -> None:
        assert turn.redis.lock(f"teller:lab:{turn.thing}", timeout=60).acquire(blocking=False)
        busy.release()
        strategies.redislock(turn)

    def interrupt(_: object) -> None:
        assert busy.acquire(timeout=30)
        assert busy.acquire(timeout=30)
        raise KeyboardInterrupt

    monkeypatch.setattr(arena.Crowd, "join", interrupt)
    monkeypatch.setattr(arena, "LEAVE_SECONDS", 30.0)  # the machine may be slow

    with pytest.raises(KeyboardInterrupt):
        opened.race("none", [in_postgres, in_redis], 1)

    assert [result.error for result in waiting] == ["canceling statement due to user request"]
    assert rows_left(owner) == [(0, 0)]
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("user-")] == []


def test_more_users_than_connections_is_one_line(opened: Arena) -> None:
    """
    No user is released if not all can connect, and the message has the possible number.
    """
    with pytest.raises(arena.TooManyUsers, match=r"^1000 users need .* PostgreSQL has \d+ left"):
        opened.race("none", [lambda _: None] * 1_000, 1)


def test_users_that_were_never_released_give_no_verdict(
    opened: Arena, counter: tellers_queue.QueueAccess, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A machine too busy for this many users reports it. It does not report success because no user started.
    """
    monkeypatch.setattr(arena, "READY_SECONDS", 0)

    with pytest.raises(arena.NotReady):
        run(opened, "atomic")
    with pytest.raises(arena.NotReady):
        tellers_queue.race(counter, USERS, 1)

    assert rows_left(owner) == [(0, 0)]


def test_a_user_refused_by_the_database_gets_the_error(opened: Arena) -> None:
    """
    The error is that user's answer. The others continue, and nothing was approved for it.
    """

    def refused(turn: Turn) -> None:
        with turn.transaction():
            turn.approve()
            turn.connection.execute("SELECT 1 / 0")

    outcome = opened.race("atomic", [refused, strategies.atomic], 1)

    assert (outcome.approved, outcome.final, outcome.race, outcome.failed) == (1, 0, False, 1)
    assert [result.approved for result in outcome.results] == [False, True]
    assert outcome.results[0].error == "division by zero"


def test_without_redis_the_message_names_it(settings: Settings) -> None:
    """
    No user is released without a reachable Redis.
    """
    with (
        arena.opened(settings.api_database_url, "redis://127.0.0.1:1") as ready,
        pytest.raises(arena.RedisUnavailable, match=r"^Redis does not answer"),
    ):
        ready.need_redis()


# ---------------------------------------------------------------- Teller's own queue


@pytest.fixture
def counter(settings: Settings, database: Database) -> Iterator[tellers_queue.QueueAccess]:
    """
    A queue where users submit requests, and only this fixture decides.
    """
    with (
        started(intake_of(database)) as [intake],
        contextlib.closing(_connect(settings.api_database_url)) as control,
        contextlib.closing(_connect(settings.worker_database_url)) as worker,
    ):
        drain: Callable[[int], object] = lambda partition: batch.drain_once(worker, [partition])  # noqa: E731
        yield tellers_queue.QueueAccess(intake.accept, control, PARTITIONS, drain)


@pytest.mark.parametrize("stock", [1, 7])
def test_tellers_queue_approves_exactly_the_stock(
    counter: tellers_queue.QueueAccess, owner: Connection, stock: int
) -> None:
    """
    The first in the queue get the items. The requests are real and in the ledger, and none waits afterwards.
    """
    outcome = tellers_queue.race(counter, USERS, stock)

    assert (outcome.approved, outcome.final, outcome.race) == (stock, 0, False)
    in_turn = sorted(outcome.results, key=lambda result: result.sequence or 0)
    assert [result.approved for result in in_turn] == [True] * stock + [False] * (USERS - stock)
    assert {result.code for result in in_turn[stock:]} == {"out_of_stock"}
    assert owner.execute("SELECT closed_at IS NOT NULL, client_id FROM resources").fetchall() == [
        (True, tellers_queue.CLIENT)
    ]
    assert owner.execute("SELECT count(*) FROM inbox").fetchall() == [(0,)]
    assert list(verify(owner)) == []


def test_a_queue_without_a_worker_is_abandoned(
    counter: tellers_queue.QueueAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A paused partition, or no worker, ends in one line without a verdict.
    """
    monkeypatch.setattr(tellers_queue, "DECISION_TIMEOUT_SECONDS", 0.1)
    undecided = tellers_queue.QueueAccess(counter.accept, counter.connection, counter.partitions)

    with pytest.raises(tellers_queue.NotDecided, match="is it paused, or is no worker running"):
        tellers_queue.race(undecided, 2, 1)


def test_a_user_refused_by_intake_gets_the_error(counter: tellers_queue.QueueAccess) -> None:
    """
    The others are decided, and the verdict counts the users without an answer.
    """
    accept = counter.accept

    def refusing(submissions: Sequence[Submission]) -> list[Receipt]:
        if submissions[0].account == "user-2":
            raise TellerError("no room")
        return accept(submissions)

    outcome = tellers_queue.race(
        tellers_queue.QueueAccess(refusing, counter.connection, counter.partitions, counter.drain), 3, 5
    )

    assert (outcome.approved, outcome.final, outcome.failed) == (2, 3, 1)
    assert outcome.results[1].error == "no room"
    assert outcome.verdict() == "holds: 2 approved, 3 left, 1 got no answer"


# ---------------------------------------------------------------- results of the page


def test_only_the_latest_results_are_kept(
    settings: Settings, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The oldest results are removed, and the others read back as saved.
    """
    monkeypatch.setattr(stored_results, "RESULTS_MAX", 3)
    with contextlib.closing(_connect(settings.api_database_url)) as connection:
        saved = [stored_results.save(connection, {"n": number}) for number in range(5)]
        found = [stored_results.read(connection, one) for one in saved]

    assert [one and one.document for one in found] == [None, None, {"n": 2}, {"n": 3}, {"n": 4}]
    assert owner.execute("SELECT count(*) FROM lab_results").fetchall() == [(3,)]
