"""
Accepting requests on PostgreSQL: durable, once for each key, in order, and with an answer for each caller.
"""

from __future__ import annotations

import itertools
import random
import re
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from processor.batch import run as batch
from processor.domain.partitioning import partition_of
from processor.errors import DatabaseUnavailable, IdempotencyKeyReused, PartitionSaturated, RequestNotFound
from processor.intake import commands, intake, saturation
from processor.intake.intake import Intake
from processor.records.audit import AuditLine
from processor.storage import connections
from tests.servers import PARTITIONS
from tests.store.store import NO_LIMIT, OPERATOR, accepted_id, at_once, intake_of, started, worker_connection
from tests.waiting import TIMEOUT_SECONDS, Deadline, eventually

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable

    from processor.intake.commands import Recorded
    from processor.intake.intake import Receipt, Submission
    from processor.storage.connections import Connection
    from tests.store.store import Store

#: Time limit for the answer that the database is unavailable, in seconds.
ANSWER_SECONDS = 3.0


def test_two_hundred_at_once_are_all_durable_and_grouped(store: Store) -> None:
    """
    Each of 200 simultaneous callers gets its own request. There are no others, and they shared their INSERTs.
    """
    asked = [store.redeems("sneaker", f"u{n}") for n in range(200)]

    receipts = at_once(*(_accepting(store.intake, one) for one in asked))

    ids = [accepted_id(_only(receipt)) for receipt in receipts]
    stored = store.owner.execute("SELECT account, id FROM requests").fetchall()
    assert dict(stored) == {one.account: given for one, given in zip(asked, ids, strict=True)}
    assert (len(stored), store.waiting()) == (200, 200)
    assert store.intake.groups < 200


def test_the_same_key_at_once_makes_one_request(store: Store) -> None:
    """
    50 threads and two processes send the same request. One is new, and 49 get the same id as a repetition.
    """
    with started(intake_of(store.database)) as [other]:
        same = [store.redeems("sneaker", "ada", key="the one") for _ in range(50)]

        receipts = at_once(
            *(_accepting(one, asked) for one, asked in zip(itertools.cycle([store.intake, other]), same))
        )

    answers = [_only(receipt) for receipt in receipts]
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 49
    assert len({accepted_id(answer) for answer in answers}) == 1
    assert (store.one("SELECT count(*) FROM requests"), store.waiting()) == (1, 1)


def test_an_audit_line_is_written_with_its_request_and_not_with_a_repetition(store: Store) -> None:
    """
    In a group with requests that carry none. The detail names the new request by its kind.
    """
    store.open("sneaker")
    [taken] = store.accept(store.redeems("sneaker", "ada"))
    store.drain("sneaker")
    line = AuditLine(OPERATOR.actor, "refund", taken, "a mistake", {"amount": 1})
    refund = store.asks("refund", "sneaker", None, 1, key="r")._replace(refund_of=taken, audit=line)

    receipts = store.intake.accept([store.redeems("sneaker", "bob"), refund, refund])
    again = store.intake.accept([refund])

    assert [receipt.replayed for receipt in (*receipts, *again)] == [False, False, True, True]
    made = accepted_id(receipts[1])
    lines = store.owner.execute("SELECT actor, action, request_id, reason, detail FROM audit").fetchall()
    assert lines == [(*line[:4], {"refund": str(made), "amount": 1})]


def test_a_group_without_audit_lines_has_no_statement_for_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Ordinary requests pay nothing for the audit.
    """
    monkeypatch.setattr(intake, "ACCEPT_AND_AUDIT", "refused by PostgreSQL")

    [accepted] = store.intake.accept([store.redeems("sneaker", "ada")])

    assert accepted.request is not None


def test_a_repetition_returns_its_request_as_it_is_now(store: Store) -> None:
    """
    The same key and body return the request as it is now, without a second effect.
    """
    store.open("sneaker")
    [first] = store.accept(store.redeems("sneaker", "ada", key="k"))
    store.drain("sneaker")

    [answer] = store.intake.accept([store.redeems("sneaker", "ada", key="k")])

    assert answer.replayed
    assert answer.request is not None
    assert (answer.request.id, answer.request.status) == (first, "completed")
    assert store.waiting() == 0


def test_a_key_with_another_body_is_refused_and_stores_nothing(store: Store) -> None:
    """
    A key is refused with another body or kind, also within one call.
    """
    [first] = store.accept(store.redeems("sneaker", "ada", key="k"))

    receipts = store.intake.accept(
        [
            store.redeems("sneaker", "ada", 2, key="k"),
            store.asks("withdrawal", "sneaker", "ada", 1, key="k"),
            store.redeems("sneaker", "ada", key="k"),
            store.redeems("sneaker", "bob", key="k", client="other"),
            store.redeems("sneaker", "eve", key="twice"),
            store.redeems("sneaker", "eve", 3, key="twice"),
            store.redeems("sneaker", "eve", key="twice"),
        ]
    )

    problems = [type(receipt.problem) for receipt in receipts if receipt.problem is not None]
    assert problems == [IdempotencyKeyReused] * 3
    assert [receipt.request is None for receipt in receipts] == [True, True, False, False, False, True, False]
    assert accepted_id(receipts[2]) == first
    assert accepted_id(receipts[4]) == accepted_id(receipts[6])
    assert store.one("SELECT count(*) FROM requests") == store.waiting() == 3


@pytest.mark.parametrize("commit_delay", [0, 5_000])
def test_two_processes_with_the_same_keys_in_different_order_lose_nothing(
    store: Store, commit_delay: int
) -> None:
    """
    Groups that share keys in opposite orders cause no deadlock, and each key makes one request, also with
    slow commits.
    """

    def connect() -> connections.Connection:
        connection = connections.connect(store.database.url, application_name="test intake")
        connection.execute(f"SET commit_delay = {commit_delay}; SET commit_siblings = 0")
        return connection

    intakes = [intake.Intake(connect, PARTITIONS, NO_LIMIT, lambda _: None) for _ in range(3)]
    with started(*intakes):
        for round_number in range(12):
            keys = [f"{round_number}-{n}" for n in range(60)]
            orders = [keys, keys[::-1], random.Random(round_number).sample(keys, len(keys))]
            calls = [[store.redeems("sneaker", "ada", key=key) for key in order] for order in orders]

            results = at_once(
                *(
                    (lambda one=one, call=call: one.accept(call))
                    for one, call in zip(intakes, calls, strict=True)
                )
            )

            ids = [
                {key: accepted_id(receipt) for key, receipt in zip(order, _receipts(result), strict=True)}
                for order, result in zip(orders, results, strict=True)
            ]
            assert ids[0] == ids[1] == ids[2]
    assert store.one("SELECT count(*) FROM requests") == store.waiting() == 12 * 60


def test_an_earlier_request_has_the_smaller_number_through_any_process(store: Store) -> None:
    """
    If A was answered before B was sent, A stands before B in the inbox.

    This holds through several processes, and while others are busy.
    """
    with started(*(intake_of(store.database) for _ in range(4))) as intakes:
        noise_ends = threading.Event()

        def make_noise(one: Intake) -> None:
            while not noise_ends.is_set():
                one.accept([store.redeems("sneaker", "noise")])

        noises = [threading.Thread(target=make_noise, args=(one,), daemon=True) for one in intakes]
        for noise in noises:
            noise.start()
        chain = [
            accepted_id(one.accept([store.redeems("sneaker", "chain")])[0])
            for one, _ in zip(itertools.cycle(intakes), range(60))
        ]
        noise_ends.set()
        for noise in noises:
            noise.join(TIMEOUT_SECONDS)

    numbers: dict[uuid.UUID, int] = dict(store.owner.execute("SELECT request_id, seq FROM inbox").fetchall())
    assert [numbers[one] for one in chain] == sorted(numbers[one] for one in chain)


def test_accepting_and_deciding_at_once_loses_and_doubles_nothing(store: Store) -> None:
    """
    Three processes accept while two workers drain, with an open snapshot and slow commits.

    Each accepted request is decided once.
    """
    partition = store.open("sneaker", available=10**6)
    store.owner.execute(
        sql.SQL("ALTER DATABASE {} SET commit_delay = 2000").format(sql.Identifier(store.database.name))
    )
    accepted_all = threading.Event()
    workers = [worker_connection(store.database) for _ in range(2)]

    def accept(one: Intake) -> list[uuid.UUID]:
        return [
            accepted_id(receipt)
            for _ in range(15)
            for receipt in one.accept([store.redeems("sneaker", f"u{n}") for n in range(10)])
        ]

    def drain(connection: connections.Connection) -> None:
        while not accepted_all.is_set() or store_waits():
            batch.drain_once(connection, [partition], 40)

    def store_waits() -> bool:
        with worker_connection(store.database) as looking:
            return looking.execute("SELECT FROM inbox LIMIT 1").fetchone() is not None

    with (
        worker_connection(store.database) as reader,
        reader.transaction(),
        started(*(intake_of(store.database) for _ in range(3))) as intakes,
    ):
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT FROM inbox")
        draining = [threading.Thread(target=drain, args=(one,), daemon=True) for one in workers]
        for thread in draining:
            thread.start()
        results = at_once(*((lambda one=one: accept(one)) for one in intakes))
        accepted_all.set()
        for thread in draining:
            thread.join(TIMEOUT_SECONDS)
            assert not thread.is_alive()

    for connection in workers:
        connection.close()
    asked = [one for result in results if isinstance(result, list) for one in result]
    assert len(asked) == 450
    assert store.statuses(asked) == ["completed"] * 450
    assert store.available("sneaker") == 10**6 - 450
    by_time = store.owner.execute("SELECT id FROM requests ORDER BY created_at, id").fetchall()
    assert by_time == sorted(by_time), "lists are ordered by id, which is the order of (created_at, id)"


# ---------------------------------------------------------------- refusals by PostgreSQL


@pytest.mark.parametrize(
    ("account", "amount"),
    [("no spaces allowed", 1), ("ada", 0), ("ada", 2**53), ("ada", 2**70), ("nul\0", 1), ("half \ud800", 1)],
)
def test_a_row_that_the_database_refuses_affects_no_other(store: Store, account: str, amount: int) -> None:
    """
    PostgreSQL refuses an invalid row, or psycopg cannot send it. Only its caller gets an error, and the rest
    is stored.
    """
    receipts = store.intake.accept(
        [
            store.redeems("sneaker", "ada"),
            store.redeems("sneaker", account, amount),
            store.redeems("sneaker", "bob"),
        ]
    )

    assert [receipt.problem is None for receipt in receipts] == [True, False, True]
    assert store.owner.execute("SELECT account FROM requests ORDER BY id").fetchall() == [("ada",), ("bob",)]
    assert store.waiting() == 2
    assert store.intake.alive()
    assert store.accept(store.redeems("sneaker", "eve"))


def test_metadata_that_jsonb_cannot_hold_is_refused_alone(store: Store) -> None:
    """
    JSON that PostgreSQL cannot store is refused, and the writer goes on.
    """
    for value in ("\0", "\ud800", float("nan")):
        [receipt] = store.intake.accept([store.asks("redemption", "x", "ada", 1, details={"v": value})])
        assert receipt.problem is not None
    assert store.accept(store.redeems("sneaker", "ada"))


# ---------------------------------------------------------------- PostgreSQL is unavailable


def test_an_unavailable_database_is_reported_at_once_and_found_again(store: Store) -> None:
    """
    Without a connection the caller gets DatabaseUnavailable in time. Afterwards the intake works again.
    """
    store.accept(store.redeems("sneaker", "ada"))
    name = sql.Identifier(store.database.name)
    server = re.sub(r"/teller_test_\w+", "/postgres", store.database.url)
    with psycopg.connect(server, autocommit=True) as elsewhere:
        elsewhere.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        elsewhere.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND application_name = 'test intake'",
            (store.database.name,),
        )
        for _ in range(3):
            limit = Deadline(ANSWER_SECONDS)
            with pytest.raises(DatabaseUnavailable):
                store.accept(store.redeems("sneaker", "bob"))
            limit.check()
        elsewhere.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))

    assert store.intake.alive()
    assert store.accept(store.redeems("sneaker", "eve", key="after"))


def test_a_database_that_does_not_answer_is_reported_in_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    PostgreSQL receives the statement and does not answer, so callers learn that the outcome is unknown.

    Abandoned requests do not pile up. Once PostgreSQL answers, only those that it had received are written.
    """
    assert intake.ANSWER_TIMEOUT_SECONDS < ANSWER_SECONDS
    monkeypatch.setattr(intake, "ANSWER_TIMEOUT_SECONDS", 0.2)
    abandoned = [store.redeems("sneaker", f"u{n}", key=f"gone-{n}") for n in range(5)]
    with store.owner.transaction():
        store.owner.execute("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE")
        for one in abandoned:
            with pytest.raises(DatabaseUnavailable):
                store.intake.accept([one])

    monkeypatch.undo()
    assert store.accept(store.redeems("sneaker", "ada", key="next"))
    stored = {key for (key,) in store.owner.execute("SELECT idempotency_key FROM requests").fetchall()}
    assert stored == {"gone-0", "next"}


def test_stopping_finishes_submitted_requests(store: Store) -> None:
    """
    Each caller that submitted before the stop gets its answer, and the connection is closed.
    """
    made: list[Connection] = []

    def connect() -> Connection:
        made.append(connections.connect(store.database.api_url, application_name="test intake"))
        return made[-1]

    one = Intake(connect, PARTITIONS, NO_LIMIT, lambda _: None)
    one.start()
    results = at_once(*(_accepting(one, store.redeems("sneaker", f"u{n}")) for n in range(20)))

    one.stop()

    assert all(_only(result).request for result in results)
    assert not one.alive()
    assert made
    assert all(connection.closed for connection in made)


# ---------------------------------------------------------------- doorbells, commands, saturation


def test_partitions_with_new_work_are_announced_after_the_commit(store: Store) -> None:
    """
    The callback gets the partitions with work, and only after that work is visible to others.
    """
    seen: list[tuple[set[int], int]] = []

    def accepted(partitions: Iterable[int]) -> None:
        with connections.connect(store.database.url, application_name="test bell") as looking:
            [(waiting,)] = looking.execute("SELECT count(*) FROM inbox").fetchall()
        seen.append((set(partitions), waiting))

    with started(intake_of(store.database, accepted=accepted)) as [one]:
        one.accept([store.redeems("sneaker", "ada"), store.redeems("coupon", "ada")])

    assert seen == [({partition_of("sneaker", PARTITIONS), partition_of("coupon", PARTITIONS)}, 2)]


def test_a_partition_with_too_much_waiting_is_saturated_and_the_others_are_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Above the limit of waiting rows a partition accepts nothing more, and other partitions do.

    Repetitions of accepted requests are still answered. Once drained, the partition accepts again.
    """
    monkeypatch.setattr(saturation, "INTERVAL_SECONDS", 0.02)
    with started(intake_of(store.database, backlog_limit=200)) as [one]:
        before = [store.redeems("sneaker", f"u{n}") for n in range(250)]
        accepted = one.accept(before)

        refused = _until(one, lambda: store.redeems("sneaker", "late"), lambda receipt: receipt.problem)

        assert isinstance(refused.problem, PartitionSaturated)
        mixed = one.accept([store.redeems("sneaker", "late"), store.redeems("coupon", "ada")])
        assert [receipt.problem is None for receipt in mixed] == [False, True]
        [repeated] = one.accept(before[:1])
        assert (repeated.replayed, accepted_id(repeated)) == (True, accepted_id(accepted[0]))
        store.drain("sneaker")
        again = _until(one, lambda: store.redeems("sneaker", "again"), lambda receipt: receipt.request)
        assert again.problem is None


def test_the_size_of_the_inbox_never_hides_its_rows(store: Store) -> None:
    """
    Rows are counted only if the size of the inbox allows for enough of them, so the estimate must never be
    too low.
    """
    store.owner.execute(
        "INSERT INTO inbox (partition, request_id, verb) SELECT 1, gen_random_uuid(), 'deny'"
        "  FROM generate_series(1, 20000)"
    )

    at_most = store.owner.execute(
        saturation.SQL["estimate_inbox"], {"row_bytes": saturation.SMALLEST_INBOX_ROW_BYTES}
    ).fetchall()[0][0]

    assert 20_000 <= at_most < 25_000


def test_a_command_for_a_missing_request_is_an_error(store: Store) -> None:
    """
    A command needs a request, else nothing is written.
    """
    with pytest.raises(RequestNotFound):
        commands.record_command(store.owner, store.one("SELECT gen_random_uuid()"), "cancel", "ada")
    assert store.waiting() == 0


def test_a_command_goes_to_the_home_of_its_request_once(store: Store) -> None:
    """
    The API's role may record it. Ten at once are one, and one of the callers is the first.
    """
    [asked] = store.accept(store.redeems("sneaker", "ada"))

    def cancel() -> Recorded:
        with connections.connect(store.database.api_url, application_name="test cancel") as connection:
            return commands.record_command(connection, asked, "cancel", "ada")

    home = partition_of("sneaker", PARTITIONS)
    assert sorted(at_once(*[cancel] * 10)) == [(home, False)] * 9 + [(home, True)]  # type: ignore[type-var]
    assert store.owner.execute("SELECT count(*) FROM inbox WHERE verb = 'cancel'").fetchall() == [(1,)]


# ---------------------------------------------------------------- helpers


def _accepting(one: Intake, submission: Submission) -> Callable[[], list[Receipt]]:
    return lambda: one.accept([submission])


def _receipts(result: object) -> list[Receipt]:
    assert isinstance(result, list), result
    return result


def _only(result: object) -> Receipt:
    [receipt] = _receipts(result)
    return receipt


def _until(one: Intake, ask: Callable[[], Submission], wanted: Callable[[Receipt], object]) -> Receipt:
    """Submit a new request each time, until the receipt satisfies `wanted`."""
    receipts: list[Receipt] = []

    def is_wanted() -> object:
        receipts[:] = one.accept([ask()])
        return wanted(receipts[0])

    eventually(is_wanted)
    return receipts[0]
