"""
Verification: a system with every kind of event is right, also while it runs, and faults are reported clearly.

`test_verify_values.py` shows that each single value is checked.
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
    """A system with every kind of event."""
    play(store, monkeypatch)
    return store


@pytest.fixture
def unchecked(database: Database) -> Iterator[Store]:
    """A store whose ledger is not checked at the end, so that a test may corrupt it."""
    with open_store(database) as opened:
        yield opened


# ---------------------------------------------------------------- correct systems


def test_a_system_with_every_kind_of_event_is_right(history: Store) -> None:
    """
    Nothing is reported without a fault, and every status and kind of entry occurred.
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
        "held",
    }
    assert {row[0] for row in kinds} == set(ledger.MOVES)


def test_an_empty_system_is_right(unchecked: Store) -> None:
    """
    Before any event, nothing is wrong.
    """
    assert list(verify(unchecked.owner)) == []


def test_the_role_of_the_api_may_verify(history: Store) -> None:
    """
    Any role that may read everything can verify, because verification writes nothing.
    """
    before = history.contents()

    with postgres.connect(history.database.api_url, application_name="test verify") as reader:
        assert list(verify(reader)) == []

    assert history.contents() == before


def test_it_counts_rows_and_reports_its_progress(history: Store) -> None:
    """
    Progress only grows, and ends at the total.
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


def test_it_reads_one_moment_while_the_system_runs(history: Store) -> None:
    """
    Requests are accepted and decided between any two of its steps. It reads the state at its beginning and
    finds nothing.
    """

    def go_on(done: int, total: int) -> None:
        history.accept(history.redeems("stock", f"u{done}"), history.redeems("points", f"u{done}"))
        history.drain("stock")
        history.drain("points")

    with postgres.connect(history.database.url, application_name="test verify") as owner:
        assert list(verify(owner, go_on)) == []


@pytest.mark.parametrize("partitions", [1, 7, 64, 997, 1024])
def test_the_database_derives_the_same_partition_of_a_resource(unchecked: Store, partitions: int) -> None:
    """
    PostgreSQL derives partitions by other means than `partition_of`. Both agree on 300 resources.
    """
    unchecked.owner.execute("UPDATE installation SET partitions = %s", (partitions,))
    placed = [(f"thing:{n}", partition_of(f"thing:{n}", partitions)) for n in range(300)]
    with unchecked.owner.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition,"
            "                      resource_id)"
            " SELECT gen_random_uuid(), 'c', gen_random_uuid(), v.id, sha256('x'), 'closing', v.home, v.id"
            " FROM (VALUES (%s, %s)) AS v(id, home)",
            placed,
        )

    assert [one for one in verify(unchecked.owner) if one.code == "partition_wrong"] == []


def test_amendments_of_one_batch_may_have_come_in_either_order_when_one_was_replayed(
    unchecked: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A replayed amendment keeps its old number, so its order among fresh ones of the same batch is open.

    Both results are right, and a third one is not.
    """
    unchecked.open("stock")
    with broken("amendment", monkeypatch):
        [failed] = unchecked.accept(
            unchecked.asks("amendment", "stock", details={"unit": "box", "overdraft": 3})
        )
        unchecked.drain("stock")
    unchecked.accept(unchecked.asks("amendment", "stock", details={"unit": "crate"}))
    commands.record_command(unchecked.owner, failed, "replay", "admin")
    unchecked.drain("stock")

    assert unchecked.one("SELECT unit FROM resources") == "box"
    assert found(unchecked) == []
    assert found(unchecked, "UPDATE resources SET unit = 'crate'") == []
    assert [one.code for one in found(unchecked, "UPDATE resources SET unit = 'sack'")] == [
        "resource_rules_wrong"
    ]


# ---------------------------------------------------------------- faults


def found(store: Store, *forgeries: str) -> list[Discrepancy]:
    """Change values as a superuser, without triggers. Returns the discrepancies."""
    with store.owner.transaction():
        store.owner.execute("SET LOCAL session_replication_role = replica")
        for forgery in forgeries:
            assert store.owner.execute(forgery.encode()).rowcount > 0, forgery
    return list(verify(store.owner))


def seal(store: Store, resource: str) -> None:
    """Recompute the digests of the only ledger and its resource, as a careful forger would."""
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


def test_a_changed_entry_is_named_and_later_ones_are_not(unchecked: Store) -> None:
    """
    An entry moved to another account is reported alone, and the usages show it as well.
    """
    unchecked.open("stock", available=10, per_account_limit=5)
    unchecked.accept(*(unchecked.redeems("stock", f"u{n}") for n in range(3)))
    unchecked.drain("stock")

    wrong = found(unchecked, "UPDATE entries SET account = 'thief' WHERE version = 2")

    assert sorted((one.code, one.id) for one in wrong) == [
        ("entry_digest_wrong", "stock/2"),
        ("entry_unexplained", "stock/2"),
        ("usage_wrong", "stock shop/thief"),
        ("usage_wrong", "stock shop/u0"),
    ]


def test_a_changed_balance_is_reported_with_both_numbers(unchecked: Store) -> None:
    """
    The message has the actual and the expected value.
    """
    unchecked.open("purse", "balance", 100)

    wrong = found(unchecked, "UPDATE resources SET available = 1000000")

    assert [str(one) for one in wrong] == ["resource_state_wrong purse: available is 1000000, not 100"]


def test_an_unreadable_value_is_a_discrepancy_and_no_traceback(unchecked: Store) -> None:
    """
    PostgreSQL allows times that Python does not. Everything else is still verified.
    """
    unchecked.open("purse", "balance", 100)

    wrong = found(unchecked, "UPDATE resources SET created_at = 'infinity', available = 7")

    assert [(one.code, one.id) for one in wrong] == [
        ("unreadable", "resource_rules_wrong"),
        ("resource_state_wrong", "purse"),
    ]


@pytest.mark.parametrize(
    ("forgery", "code"),
    [
        # The second is made the first, and only the ledger shows it.
        (
            "UPDATE decisions SET sequence = CASE sequence WHEN 3 THEN 4 ELSE 3 END WHERE sequence IN (3, 4)",
            "entry_out_of_order",
        ),
        # The resource was overdrawn once, by more than was ever allowed.
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
        # A refused request was reopened.
        (
            """WITH before AS (UPDATE decisions SET current = false WHERE status = 'rejected' RETURNING *)
               INSERT INTO decisions (request_id, version, status, code, sequence, decided_at, at, actor)
               SELECT request_id, 3, 'failed', 'processor_error', sequence, decided_at, at, actor FROM before""",
            "decision_after_the_end",
        ),
    ],
)
def test_a_careful_forgery_with_right_digests_is_found(unchecked: Store, forgery: str, code: str) -> None:
    """
    A forgery with recomputed digests is found by one other rule, and by that alone.
    """
    unchecked.open("purse", "balance", 10, overdraft=50)
    unchecked.accept(
        unchecked.asks("withdrawal", "purse", "ada", 30),
        unchecked.asks("withdrawal", "purse", "bob", 10),
        unchecked.asks("deposit", "purse", None, 50),
        unchecked.asks("withdrawal", "purse", "eve", 1_000),
    )
    unchecked.drain("purse")

    found(unchecked, forgery)
    seal(unchecked, "purse")

    assert {one.code for one in verify(unchecked.owner)} == {code}
