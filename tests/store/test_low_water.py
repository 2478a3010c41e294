"""
The low-water mark of a partition: rows below it are skipped, so no live row may ever be, or become visible, below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.pq import TransactionStatus

from processor.batch import run as batch
from processor.batch import worksheet
from processor.storage import connections as postgres

if TYPE_CHECKING:
    from uuid import UUID

    import pytest

    from processor.batch.snapshot import Row
    from processor.batch.worksheet import Worksheet
    from tests.store.store import Store

ENQUEUE = "INSERT INTO inbox (partition, request_id, verb) VALUES (%s, %s, 'decide') RETURNING seq"


def low_water(store: Store, partition: int) -> int:
    """
    Return the low-water mark: takes of this partition begin above it.
    """
    value: int = store.one("SELECT low_water FROM partitions WHERE id = %s", partition)
    return value


def sneaker_for(store: Store, account: str) -> UUID:
    """
    Hand in one more request, and decide it at once.
    """
    [asked] = store.accept(store.redeems("sneaker", account))
    store.drain("sneaker")
    assert store.statuses([asked]) == ["completed"]
    return asked


def test_a_row_that_becomes_visible_late_is_taken_however_far_the_others_are(store: Store) -> None:
    """
    A row has its seq before its transaction commits, and others overtake it: the low-water mark waits for it.
    """
    partition = store.open("sneaker", available=100)
    [late] = store.accept(store.redeems("sneaker", "late"))
    store.owner.execute("DELETE FROM inbox WHERE request_id = %s", (late,))
    with store.owner.transaction():
        [(seq,)] = store.owner.execute(ENQUEUE, (partition, late)).fetchall()
        with postgres.connect(store.database.url, application_name="test look") as looking:
            for number in range(5):
                sneaker_for(store, f"quick-{number}")
                [(reached,)] = looking.execute(
                    "SELECT low_water FROM partitions WHERE id = %s", (partition,)
                ).fetchall()
                assert reached < seq

    store.drain("sneaker")

    assert store.statuses([late]) == ["completed"]


def test_a_row_that_becomes_visible_between_the_take_and_the_end_of_a_batch_is_not_skipped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The batch did not see the row. The mark may pass only rows of transactions that had ended before the take.
    """
    partition = store.open("sneaker", available=100)
    sneaker_for(store, "ada")
    [late] = store.accept(store.redeems("sneaker", "late"))
    store.owner.execute("DELETE FROM inbox WHERE request_id = %s", (late,))
    slow = postgres.connect(store.database.url, application_name="test slow")
    slow.execute("BEGIN")
    slow.execute(ENQUEUE, (partition, late))
    sneaker_for(store, "bob")  # the mark may pass it only after the slow transaction ended
    decide = worksheet.Worksheet.decide

    def decide_meanwhile(sheet: Worksheet, row: Row) -> None:
        if slow.info.transaction_status == TransactionStatus.INTRANS:
            slow.execute("COMMIT")
        decide(sheet, row)

    monkeypatch.setattr(worksheet.Worksheet, "decide", decide_meanwhile)
    sneaker_for(store, "eve")
    slow.close()

    store.drain("sneaker")

    assert store.statuses([late]) == ["completed"]


def test_a_transaction_is_numbered_before_it_has_a_seq(store: Store) -> None:
    """
    A transaction has its xid before any seq, even if it inserts nothing: a later xid cannot have a lower seq.
    """
    with store.owner.transaction():
        store.owner.execute(
            "INSERT INTO inbox (partition, request_id, verb) SELECT 0, NULL, 'decide' WHERE false"
        )

        assert store.one("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")


def test_decided_rows_are_below_the_low_water_mark_two_batches_later(store: Store) -> None:
    """
    So no batch steps over the dead rows of a long day, even while an old snapshot keeps them.
    """
    partition = store.open("sneaker", available=100)
    with postgres.connect(store.database.url, application_name="test snapshot") as holding:
        holding.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holding.execute("SELECT count(*) FROM inbox")
        for number in range(4):
            sneaker_for(store, f"buyer-{number}")
        [asked] = store.accept(store.redeems("sneaker", "last"))
        before = store.one("SELECT seq FROM inbox WHERE request_id = %s", asked)
        batch.drain_once(store.worker, [partition])

        assert before - 2 <= low_water(store, partition) < before
