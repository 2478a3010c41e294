"""
A database after a move: sequences, low-water marks, roles and rights that do not match the data are repaired.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from unittest.mock import create_autospec

import psycopg
import pytest
from structlog.testing import capture_logs

from processor.batch import run as batch
from processor.cluster import ownership
from processor.errors import SchemaError
from processor.storage import migrations
from tests.servers import PARTITIONS
from tests.store.rights import ROLES
from tests.store.store import worker_connection
from tests.waiting import TIMEOUT_SECONDS, eventually
from workers.doorbell.check import RedisCheck
from workers.doorbell.ring import Doorbell
from workers.metrics import WorkerMetrics
from workers.worker.assignments import Assignments
from workers.worker.drain import Drainer
from workers.worker.sweep import Sweep

if TYPE_CHECKING:
    from uuid import UUID

    from tests.servers import Clones
    from tests.store.store import Store

#: Requests of the story before and after the move.
DECIDED = 20
WAITING = 5


def _repaired(store: Store) -> list[str]:
    """Run `teller migrate`. Returns its lines about repairs, but those about settings of roles."""
    lines: list[str] = []
    migrations.migrate(store.database.url, PARTITIONS, on_repaired=lines.append)
    return [line for line in lines if "the settings of the role" not in line]


def _lose_sequences(store: Store) -> None:
    """Leave all sequences as logical replication leaves them."""
    for table in ("inbox", "entries", "audit", "deliveries", "fanouts", "attempts"):
        store.owner.execute(
            "SELECT setval(pg_get_serial_sequence(attrelid::regclass::text, attname), 1, false) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attidentity <> ''",
            (table,),
        )


def _with_history(store: Store) -> int:
    """Decide some requests, so that the low-water mark is above them. Returns the partition."""
    partition = store.open("sneaker", available=1_000)
    for number in range(DECIDED):
        store.accept(store.redeems("sneaker", f"early-{number}"))
        store.drain("sneaker")
    assert int(store.one("SELECT low_water FROM partitions WHERE id = %s", partition)) > WAITING
    return partition


def _accept(store: Store, *names: str) -> list[UUID]:
    return [accepted for name in names for accepted in store.accept(store.redeems("sneaker", name))]


def test_a_database_without_its_sequences_is_refused_until_it_is_migrated(store: Store) -> None:
    """
    New requests would lie below the low-water mark, where no batch looks. Every process refuses to start.
    """
    _with_history(store)
    _lose_sequences(store)

    for url in store.database.role_urls[:3]:
        with (
            psycopg.connect(url, autocommit=True) as connection,
            pytest.raises(SchemaError, match="run `teller migrate`"),
        ):
            migrations.read_installation(connection)
    assert [line.split(" from ")[0] for line in _repaired(store)] == ["advanced the numbers of inbox"]
    migrations.read_installation(store.worker)
    asked = _accept(store, "ada", "bob")
    store.drain("sneaker")

    assert store.statuses(asked) == ["completed"] * 2
    assert _repaired(store) == []


def test_requests_that_were_hidden_are_decided_in_the_order_of_acceptance(store: Store) -> None:
    """
    Some were accepted before the move and some, with low numbers, after it. None is lost, and none overtakes.
    """
    partition = _with_history(store)
    before = _accept(store, *(f"before-{number}" for number in range(WAITING)))
    _lose_sequences(store)
    hidden = _accept(store, *(f"hidden-{number}" for number in range(WAITING)))
    assert ownership.hidden(store.worker, [partition]) == [partition]
    assert store.drain("sneaker")
    assert store.waiting() == WAITING
    late = _accept(store, "late")

    lines = _repaired(store)
    store.drain("sneaker")

    assert (
        lines[-1] == f"reset the low-water marks of 1 partitions, which hid {WAITING + 1} rows of the inbox"
    )
    decided = store.owner.execute(
        "SELECT request_id FROM decisions WHERE request_id = ANY(%s) ORDER BY sequence",
        (before + hidden + late,),
    ).fetchall()
    assert [request for (request,) in decided] == before + hidden + late
    assert ownership.hidden(store.worker, [partition]) == []


def test_a_hidden_request_with_legs_keeps_one_number_in_all_of_its_partitions(store: Store) -> None:
    """
    It is hidden in one of its partitions. Its new number stands in both, so both have it behind the same requests.
    """
    _with_history(store)
    store.open("points", "points", 100)
    _lose_sequences(store)
    [request] = store.accept(store.exchanges("ada", ("points", -1), ("sneaker", 1)))

    _repaired(store)

    numbers = "SELECT count(*), count(DISTINCT seq) FROM inbox WHERE request_id = %s"
    assert store.owner.execute(numbers, (request,)).fetchall() == [(2, 1)]
    batch.drain_once(store.worker, range(PARTITIONS))
    assert store.statuses([request]) == ["completed"]


def test_a_mark_that_waits_for_a_transaction_of_another_cluster_is_reset(store: Store) -> None:
    """
    After dump and restore the ids of transactions begin anew. The mark would wait for years, and takes get slow.
    """
    partition = _with_history(store)
    store.owner.execute("UPDATE partitions SET next_xid = 1099511627776 WHERE id = %s", (partition,))

    assert _repaired(store) == ["reset the low-water marks of 1 partitions, which hid 0 rows of the inbox"]
    for number in range(4):
        _accept(store, f"late-{number}")
        store.drain("sneaker")

    assert int(store.one("SELECT low_water FROM partitions WHERE id = %s", partition)) > 0


def test_rights_that_a_restore_has_lost_are_made_again(store: Store) -> None:
    """
    Exactly those of a new database. Without them the intake accepts nothing.
    """
    before = _rights(store)
    for kind in ("TABLES", "SEQUENCES"):
        store.owner.execute(f"REVOKE ALL ON ALL {kind} IN SCHEMA public FROM {', '.join(ROLES)}".encode())

    assert _repaired(store) == ["made the missing roles and rights"]

    assert _rights(store) == before
    assert _accept(store, "ada")
    assert _repaired(store) == []


def _rights(store: Store) -> set[tuple[str, str]]:
    """Return what the roles may do with each table and sequence."""
    found = store.owner.execute(
        "SELECT relname, acl::text FROM pg_class CROSS JOIN unnest(relacl) acl"
        " WHERE relnamespace = 'public'::regnamespace AND acl::text LIKE 'teller\\_%'"
    )
    return {(table, right) for table, right in found}


def test_the_sweep_reports_rows_that_no_batch_looks_at(store: Store) -> None:
    """
    An error in the log names the partition and the remedy, so that the rows are not silent.
    """
    partition = _with_history(store)
    _lose_sequences(store)
    _accept(store, "ada")
    assignments = Assignments()
    assignments.hold({partition}, time.monotonic() + TIMEOUT_SECONDS)
    drainer = create_autospec(Drainer, instance=True)
    check = create_autospec(RedisCheck, instance=True, condition=None)
    sweep = Sweep(
        lambda: worker_connection(store.database),
        drainer,
        assignments,
        create_autospec(Doorbell, instance=True),
        check,
        WorkerMetrics(),
    )

    with capture_logs() as logs:
        sweep.start()
        eventually(lambda: any(line["event"] == "rows_below_low_water" for line in logs))
        sweep.stop()

    [line] = [line for line in logs if line["event"] == "rows_below_low_water"]
    assert (line["log_level"], line["partitions"]) == ("error", [partition])
    assert "teller migrate" in line["remedy"]


def test_a_copy_gets_an_id_of_its_own(postgres: Clones) -> None:
    """
    A copy of a database beside the first one must not share its names in Redis. A second run changes nothing.
    """
    with postgres.clone() as first:
        migrations.migrate(first.url, PARTITIONS)
        before = _id_and_place(first.url)
        with postgres.clone(first.name) as copy:
            assert _id_and_place(copy.url) == before
            lines: list[str] = []
            for _ in range(2):
                migrations.migrate(copy.url, PARTITIONS, on_repaired=lines.append)
            after = _id_and_place(copy.url)
        migrations.migrate(first.url, PARTITIONS)

        assert _id_and_place(first.url) == before
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert lines.count("gave this copy of a database names of its own in Redis") == 1


def _id_and_place(url: str) -> tuple[UUID, str]:
    with psycopg.connect(url, autocommit=True) as connection:
        [(found, place)] = connection.execute("SELECT id, made_in FROM installation").fetchall()
    return found, place
