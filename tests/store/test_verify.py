"""
Verifying: a system in which everything has happened is found right, while it goes on; and what is wrong is told so
that a person finds it. That every single value is looked at is shown in `test_verify_values.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from processor.domain import ledger
from processor.domain.partitioning import partition_of
from processor.intake import commands
from processor.storage import connections as postgres
from processor.verify.checks import verify
from tests.store.history import broken, play
from tests.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.verify.checks import Discrepancy
    from tests.servers import Database
    from tests.store.store import Store


@pytest.fixture
def history(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A system in which everything has happened."""
    play(store, monkeypatch)
    return store


@pytest.fixture
def books(database: Database) -> Iterator[Store]:
    """A store whose books a test may spoil."""
    with open_store(database) as opened:
        yield opened


# ---------------------------------------------------------------- what is right


def test_a_system_in_which_everything_has_happened_is_right(history: Store) -> None:
    """
    Nothing is found where nothing is wrong; every status and every kind of entry was there to be looked at.
    """
    assert list(verify(history.owner)) == []
    statuses = history.owner.execute("SELECT DISTINCT coalesce(stage, status) FROM decisions WHERE current")
    kinds = history.owner.execute("SELECT DISTINCT kind FROM entries")
    assert {row[0] for row in statuses} == {
        "completed",
        "rejected",
        "refunded",
        "cancelled",
        "failed",
        "settling",
    }
    assert {row[0] for row in kinds} == set(ledger.MOVES)


def test_an_empty_system_is_right(books: Store) -> None:
    """
    Nothing has happened yet, and nothing is wrong.
    """
    assert list(verify(books.owner)) == []


def test_the_role_of_the_api_may_verify(history: Store) -> None:
    """
    Whoever may read everything can verify: it writes nothing.
    """
    before = history.contents()

    with postgres.connect(history.database.api_url, application_name="test verify") as reader:
        assert list(verify(reader)) == []

    assert history.contents() == before


def test_it_counts_what_it_looks_at_and_says_how_far_it_is(history: Store) -> None:
    """
    Progress only ever grows, and ends at the total.
    """
    seen: list[tuple[int, int]] = []
    verification = verify(history.owner, lambda done, total: seen.append((done, total)))

    assert list(verification) == []

    assert verification.counts is not None
    assert verification.counts.entries == history.one("SELECT count(*) FROM entries")
    assert verification.counts.waiting == history.waiting() > 0
    assert verification.found == 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {seen[-1][0]}


def test_it_sees_one_moment_while_the_system_goes_on(history: Store) -> None:
    """
    Between any two of its steps requests are accepted and decided, and it finds nothing: what it looks at is as
    it was when it began.
    """

    def go_on(done: int, total: int) -> None:
        history.accept(history.redeems("stock", f"u{done}"), history.redeems("points", f"u{done}"))
        history.drain("stock")
        history.drain("points")

    with postgres.connect(history.database.url, application_name="test verify") as owner:
        assert list(verify(owner, go_on)) == []


@pytest.mark.parametrize("partitions", [1, 7, 64, 997, 1024])
def test_the_database_knows_the_partition_of_a_resource_as_we_do(books: Store, partitions: int) -> None:
    """
    PostgreSQL derives partitions by other means than `partition_of`: of 300 resources, the same for each.
    """
    books.owner.execute("UPDATE installation SET partitions = %s", (partitions,))
    placed = [(f"thing:{n}", partition_of(f"thing:{n}", partitions)) for n in range(300)]
    with books.owner.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition,"
            "                      resource_id)"
            " SELECT gen_random_uuid(), 'c', gen_random_uuid(), v.id, sha256('x'), 'closing', v.home, v.id"
            " FROM (VALUES (%s, %s)) AS v(id, home)",
            placed,
        )

    assert [one for one in verify(books.owner) if one.code == "partition_wrong"] == []


def test_amendments_of_one_batch_may_have_come_in_either_order_when_one_was_replayed(
    books: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A replayed amendment keeps its old number, so the number cannot say whether it came before or after a fresh one
    of the same batch: both results are right, a third one is not.
    """
    books.open("stock")
    with broken("amendment", monkeypatch):
        [parked] = books.accept(books.asks("amendment", "stock", details={"unit": "box", "overdraft": 3}))
        books.drain("stock")
    books.accept(books.asks("amendment", "stock", details={"unit": "crate"}))
    commands.record_command(books.owner, parked, "replay", "admin")
    books.drain("stock")

    assert books.one("SELECT unit FROM resources") == "box"
    assert found(books) == []
    assert found(books, "UPDATE resources SET unit = 'crate'") == []
    assert [one.code for one in found(books, "UPDATE resources SET unit = 'sack'")] == [
        "resource_rules_wrong"
    ]


# ---------------------------------------------------------------- what is wrong


def found(store: Store, *forgeries: str) -> list[Discrepancy]:
    """What is found after a superuser has changed something where no trigger sees it."""
    with store.owner.transaction():
        store.owner.execute("SET LOCAL session_replication_role = replica")
        for forgery in forgeries:
            assert store.owner.execute(forgery.encode()).rowcount > 0, forgery
    return list(verify(store.owner))


def seal(store: Store, resource: str) -> None:
    """What a careful forger does: the digests of the only ledger, and the resource, are made to fit."""
    digest = bytes(32)
    with store.owner.transaction():
        store.owner.execute("SET LOCAL session_replication_role = replica")
        for version, kind, request, account, amount, available, held, at, _ in store.entries(resource):
            digest = ledger.digest_of(
                digest, resource, version, kind, request, account, amount, available, held, at
            )
            store.owner.execute(
                "UPDATE entries SET digest = %s WHERE resource_id = %s AND version = %s",
                (digest, resource, version),
            )
        store.owner.execute(
            "UPDATE resources r SET version = e.version, available = e.available, held = e.held, digest = e.digest,"
            " last_entry_at = e.created_at FROM (SELECT * FROM entries ORDER BY version DESC LIMIT 1) AS e"
            " WHERE r.id = e.resource_id",
        )


def test_a_changed_entry_is_named_and_those_after_it_are_not(books: Store) -> None:
    """
    Who makes the second of four entries one of his own account shows as that entry alone; what the accounts have
    used says so as well.
    """
    books.open("stock", available=10, per_account_limit=5)
    books.accept(*(books.redeems("stock", f"u{n}") for n in range(3)))
    books.drain("stock")

    wrong = found(books, "UPDATE entries SET account = 'thief' WHERE version = 2")

    assert sorted((one.code, one.id) for one in wrong) == [
        ("entry_digest_wrong", "stock/2"),
        ("entry_unexplained", "stock/2"),
        ("usage_wrong", "stock shop/thief"),
        ("usage_wrong", "stock shop/u0"),
    ]


def test_a_balance_that_was_helped_is_told_with_both_numbers(books: Store) -> None:
    """
    The line says what is there and what must be.
    """
    books.open("purse", "balance", 100)

    wrong = found(books, "UPDATE resources SET available = 1000000")

    assert [str(one) for one in wrong] == ["resource_state_wrong purse: available is 1000000, not 100"]


def test_a_value_that_cannot_be_read_is_a_discrepancy_and_no_traceback(books: Store) -> None:
    """
    PostgreSQL knows times that nobody else does; everything else is verified all the same.
    """
    books.open("purse", "balance", 100)

    wrong = found(books, "UPDATE resources SET created_at = 'infinity', available = 7")

    assert [(one.code, one.id) for one in wrong] == [
        ("unreadable", "resource_rules_wrong"),
        ("resource_state_wrong", "purse"),
    ]


@pytest.mark.parametrize(
    ("forgery", "code"),
    [
        # The second is made to have been the first: only the ledger remembers.
        (
            "UPDATE decisions SET sequence = CASE sequence WHEN 3 THEN 4 ELSE 3 END WHERE sequence IN (3, 4)",
            "entry_out_of_order",
        ),
        # It was overdrawn once, by more than anybody ever allowed.
        (
            """WITH resource AS (UPDATE resources SET overdraft = 5)
               UPDATE requests SET details = details || '{"overdraft": 5}' WHERE kind = 'opening'""",
            "entry_below_overdraft",
        ),
        ("UPDATE entries SET created_at = '2020-01-01' WHERE version = 3", "entry_time_wrong"),
        ("UPDATE entries SET available = available + 1 WHERE version = 4", "entry_sum_wrong"),
        ("UPDATE entries SET version = 5 WHERE version = 4", "entry_version_wrong"),
        (
            "INSERT INTO inbox (partition, request_id, verb) SELECT partition, id, 'decide' FROM requests LIMIT 1",
            "inbox_decided_already",
        ),
        # Somebody reopened what was refused.
        (
            """WITH before AS (UPDATE decisions SET current = false WHERE status = 'rejected' RETURNING *)
               INSERT INTO decisions (request_id, version, status, code, sequence, decided_at, at, actor)
               SELECT request_id, 3, 'failed', 'processor_error', sequence, decided_at, at, actor FROM before""",
            "decision_after_the_end",
        ),
    ],
)
def test_a_careful_forgery_with_right_digests_is_found_as_what_it_is(
    books: Store, forgery: str, code: str
) -> None:
    """
    Whoever recomputes all digests after a change is given away by what else must hold, and by that alone.
    """
    books.open("purse", "balance", 10, overdraft=50)
    books.accept(
        books.asks("withdrawal", "purse", "ada", 30),
        books.asks("withdrawal", "purse", "bob", 10),
        books.asks("deposit", "purse", None, 50),
        books.asks("withdrawal", "purse", "eve", 1_000),
    )
    books.drain("purse")

    found(books, forgery)
    seal(books, "purse")

    assert {one.code for one in verify(books.owner)} == {code}
