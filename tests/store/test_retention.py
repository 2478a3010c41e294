"""
Deliveries and attempts have a retention of their own, which the courier keeps without a command.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from processor.outbox import retention
from processor.storage import connections
from tests.waiting import TIMEOUT_SECONDS
from workers.courier.database_thread import DatabaseThread
from workers.courier.retention import keep

if TYPE_CHECKING:
    import pytest

    from tests.store.store import Store

DAYS = 30
#: Deliveries that were made this many days ago, with their status.
DELIVERIES = (
    *((40, "delivered"), (40, "failed"), (40, "pending"), (31, "delivered")),
    *((29, "delivered"), (0, "pending"), (0, "failed")),
)


def fill(store: Store) -> None:
    for days, status in DELIVERIES:
        store.owner.execute(
            "INSERT INTO deliveries (request_id, version, type, email, status, due_at, created_at)"
            " VALUES (gen_random_uuid(), 2, %s, 'a@b.example', %s, CASE WHEN %s = 'pending' THEN now() END,"
            " now() - make_interval(days => %s))",
            (f"{days} {status}", status, status, days),
        )
    for days in (40, 31, 29, 0):
        head = f"to_hex(((extract(epoch FROM now()) - {days} * 86400) * 1000)::bigint)"
        store.owner.execute(
            "INSERT INTO attempts (request_id, token, started_at)"  # noqa: S608  # numbers from above
            f" SELECT (lpad({head}, 12, '0') || '70008000' || lpad(n::text, 12, '0'))::uuid, gen_random_uuid(),"
            f" now() - make_interval(days => {days}) FROM generate_series(1, 5) AS n".encode()
        )


def run_courier(store: Store) -> None:
    """Let a courier keep the retention until nothing is left to remove."""

    async def rounds() -> None:
        stop = asyncio.Event()
        connect = functools.partial(
            connections.connect, store.database.courier_url, application_name="test courier"
        )
        thread = DatabaseThread(connect)
        kept = asyncio.create_task(keep(thread, DAYS, stop))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while store.one(  # noqa: ASYNC110 - another task removes them
                "SELECT count(*) FROM attempts WHERE started_at < now() - interval '30 days'"
            ):
                await asyncio.sleep(0.01)
        stop.set()
        await kept
        thread.close()

    asyncio.run(rounds())


def test_old_deliveries_and_attempts_are_removed_and_no_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Rows older than the retention are removed, part by part. Pending deliveries and younger rows stay.
    """
    monkeypatch.setattr(retention, "PART_ROWS", 2)
    fill(store)

    run_courier(store)

    types = [one for (one,) in store.owner.execute("SELECT type FROM deliveries ORDER BY id")]
    assert types == ["40 pending", "29 delivered", "0 pending", "0 failed"]
    assert store.owner.execute(
        "SELECT extract(day FROM now() - started_at)::integer, count(*) FROM attempts GROUP BY 1 ORDER BY 1"
    ).fetchall() == [(0, 5), (29, 5)]


def test_a_part_looks_at_a_limited_number_of_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A part ends after its rows, and says where the next one goes on. It ends for good at the first young row.
    """
    monkeypatch.setattr(retention, "PART_ROWS", 3)
    fill(store)
    ids = [one for (one,) in store.owner.execute("SELECT id FROM deliveries ORDER BY id")]

    assert retention.remove_deliveries(store.owner, DAYS, 0) == (2, ids[2])
    assert retention.remove_deliveries(store.owner, DAYS, ids[2]) == (1, None)  # it reached a young row
    assert retention.remove_deliveries(store.owner, DAYS, ids[-1]) == (0, None)
