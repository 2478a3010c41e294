"""
Promises of a batch that ordinary outcomes do not show: its order, one transaction, and the scope of each
fault.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from processor import ids
from processor.batch import inbox
from processor.batch import run as batch
from processor.errors import DatabaseUnavailable
from processor.gateways.protocol import Answer
from processor.intake import intake
from processor.outbox import gateway_calls
from processor.outbox.gateway_calls import CallResult
from processor.storage import arrays, connections

if TYPE_CHECKING:
    from tests.store.store import Store


def test_the_inbox_is_ordered_by_its_own_numbers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Neither the ids of requests nor any times count, because the clock of their maker may be wrong or run
    backwards.
    """
    store.open("sneaker", available=3)
    monkeypatch.setattr(intake, "new_tails", lambda count: ids.new_tails(count)[::-1])
    asked = store.accept(*(store.redeems("sneaker", f"u{n}") for n in range(6)))
    store.owner.execute("UPDATE inbox SET created_at = now() - seq * interval '1 minute'")
    assert asked == sorted(asked, reverse=True)

    store.drain("sneaker", limit=2)

    assert store.statuses(asked) == ["completed"] * 3 + ["out_of_stock"] * 3
    assert [entry[2] for entry in store.entries("sneaker")[1:]] == asked[:3]


def test_a_row_with_an_earlier_number_and_a_later_commit_is_decided(store: Store) -> None:
    """
    A number is assigned at the INSERT and visible at the COMMIT. A row that appears behind others is decided,
    too.
    """
    partition = store.open("sneaker", available=3)
    [late] = store.accept(store.redeems("sneaker", "late"))
    with psycopg.connect(store.database.url) as slow:  # as if its transaction were still open
        slow.execute("DELETE FROM inbox WHERE request_id = %s", (late,))
        slow.commit()
        slow.execute(
            "INSERT INTO inbox (partition, request_id, verb) VALUES (%s, %s, 'decide')", (partition, late)
        )
        [quick] = store.accept(store.redeems("sneaker", "quick"))
        store.drain("sneaker")
        assert store.statuses([late, quick]) == [None, "completed"]
        slow.commit()

    store.drain("sneaker")

    assert store.statuses([late, quick]) == ["completed", "completed"]


def test_a_place_that_another_row_has_now_ends_no_batch(store: Store) -> None:
    """
    Rows are deleted by their place. If a row was deleted and its place used again, the batch is rolled back.
    """
    partition = store.open("sneaker", available=3)
    store.accept(*(store.redeems("sneaker", f"u{number}") for number in range(3)))
    execute = arrays.executor(store.worker, inbox.SQL)

    with store.worker.transaction(force_rollback=True):
        taken = inbox.take(execute, [partition], 10)
        first, second, third = taken.rows
        check = inbox.finish(
            execute,
            taken,
            [first, second._replace(ctid=third.ctid)],
            {partition: taken.sequences[partition] + 2},
        )

        with pytest.raises(DatabaseUnavailable, match="changed"):
            check()


def test_all_that_a_batch_writes_is_written_by_one_transaction(store: Store) -> None:
    """
    States, entries, usages, effects and notifications have the same writing transaction in PostgreSQL.
    """
    store.open("cash", "balance", 100, gateway="bank", per_account_limit=9, per_account_daily_limit=9)
    store.owner.execute(
        "INSERT INTO webhooks (id, client_id, url, secret)"
        " VALUES (gen_random_uuid(), 'shop', 'https://example.com', decode(repeat('00', 24), 'hex'))"
    )
    store.owner.execute(
        "INSERT INTO accounts (client_id, name, email) VALUES ('shop', 'ada', 'ada@example.com')"
    )
    store.accept(store.asks("withdrawal", "cash", "ada", 1), store.asks("withdrawal", "cash", "ada", 1_000))

    [report] = store.drain("cash")

    assert report.taken == 2
    rows = {
        "decisions": "version = 2 AND request_id IN (SELECT id FROM requests WHERE kind = 'withdrawal')",
        "entries": "kind = 'hold'",
        "resources": "true",
        "usages": "true",
        "daily_usages": "true",
        "effects": "true",
        "fanouts": "true",
        "deliveries": "true",
        "partitions": "sequence > 0",
    }
    writers = {name: _writers(store, name, where) for name, where in rows.items()}
    assert len(writers["decisions"]) == 1
    assert writers == dict.fromkeys(rows, writers["decisions"])


def test_an_answer_of_a_gateway_and_its_consequences_are_one_transaction(store: Store) -> None:
    """
    A courier that dies after recording an answer has already put `settle` into the inbox.
    """
    store.open("cash", "balance", 100, gateway="bank")
    store.accept(store.asks("withdrawal", "cash", "ada", 1))
    store.drain("cash")
    with closing(connections.connect(store.database.courier_url, application_name="test courier")) as courier:
        gateway_calls.introduce(courier, "bank")
        [claimed] = gateway_calls.claim(
            courier, "bank", ["shop"], room=10, calls_at_once=64, tries=3, timeout_seconds=10.0
        ).effects
        gateway_calls.record(courier, [CallResult(claimed, Answer("done", reference="r"), None)])

    writers = [_writers(store, name, "true") for name in ("effects", "attempts", "inbox")]

    assert len(writers[0]) == 1
    assert writers == writers[:1] * 3
    store.drain("cash")


def _writers(store: Store, table: str, where: str) -> set[str]:
    """Return the transactions that wrote these rows."""
    rows = store.owner.execute(f"SELECT DISTINCT xmin::text FROM {table} WHERE {where}")  # noqa: S608
    return {writer for (writer,) in rows}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("53100", "disk full"),
        ("53200", "out of memory"),
        ("40P01", "deadlock"),
        ("40001", "not serializable"),
        ("55P03", "a lock is not available"),
        ("57P01", "the server is going down"),
        ("58030", "a disk that cannot be read"),
    ],
)
def test_a_fault_of_the_infrastructure_fails_no_request(store: Store, state: str, message: str) -> None:
    """
    The fault stops the batch, which is retried unchanged. No request fails.
    """
    partition = store.open("sneaker", available=3)
    asked = store.accept(*(store.redeems("sneaker", f"u{n}") for n in range(5)))
    before = store.contents()
    store.owner.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = '{state}'; END$$"
    )
    store.owner.execute("CREATE TRIGGER fail BEFORE INSERT ON entries EXECUTE FUNCTION fail()")

    with pytest.raises(DatabaseUnavailable, match=message):
        batch.drain_once(store.worker, [partition])

    assert store.contents() == before
    store.owner.execute("DROP TRIGGER fail ON entries")
    store.reconnect()
    store.drain("sneaker")
    assert store.statuses(asked) == ["completed"] * 3 + ["out_of_stock"] * 2
