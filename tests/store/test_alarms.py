"""
Workers notice attacks that PostgreSQL cannot refuse: work that the API did not write, and locks held against them.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from processor.batch import run as batch
from processor.cluster import alarms, ownership
from processor.domain.partitioning import partition_of
from processor.errors import DatabaseUnavailable
from processor.intake import commands
from processor.reading.health import read_health
from processor.storage import connections
from processor.verify.checks import verify
from tests.servers import PARTITIONS
from tests.waiting import eventually
from workers.worker import watch as watch_module
from workers.worker.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection
    from tests.servers import Database
    from tests.store.store import Store


@pytest.fixture
def api(database: Database) -> Iterator[Connection]:
    """
    The role of an API that was taken over.
    """
    with psycopg.connect(database.api_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A watch looks each time.
    """
    monkeypatch.setattr(watch_module, "INTERVAL_SECONDS", 0.0)


HOME = partition_of("coupon", PARTITIONS)
ELSEWHERE = (HOME + 1) % PARTITIONS


def drain(store: Store, *partitions: int) -> batch.BatchReport:
    return batch.drain_once(store.worker, partitions or (HOME, ELSEWHERE))


def enqueue(api: Connection, partition: int, request: uuid.UUID, verb: str = "decide") -> None:
    api.execute(
        "INSERT INTO inbox (partition, request_id, verb) VALUES (%s, %s, %s)", (partition, request, verb)
    )


def write_request(api: Connection, partition: int, resource: str, kind: str = "redemption") -> uuid.UUID:
    """Write a request as the API does, into any partition."""
    request = uuid.uuid4()
    api.execute(
        "INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition,"
        "                      resource_id, account, amount, details)"
        " VALUES (%s, 'shop', %s, %s, sha256('x'), %s, %s, %s, 'ada', 1, %s)",
        (request, uuid.uuid4(), str(request), kind, partition, resource, Jsonb({"kind": "stock"})),
    )
    enqueue(api, partition, request)
    return request


# ---------------------------------------------------------------- work that the API did not write


def test_rows_without_a_request_do_not_stop_a_partition(store: Store, api: Connection) -> None:
    """
    Two batches full of such rows are deleted. The request behind them is decided, and the alarm is raised.
    """
    store.open("coupon", available=5)
    api.execute(
        "INSERT INTO inbox (partition, request_id, verb)"
        " SELECT %s, gen_random_uuid(), 'cancel' FROM generate_series(1, 20)",
        (HOME,),
    )
    asked = store.accept(store.redeems("coupon", "ada"))

    first = batch.drain_once(store.worker, [HOME], limit=10)
    reports = [first, *(batch.drain_once(store.worker, [HOME], limit=10) for _ in range(2))]

    assert first.more == {HOME}
    assert sum(report.misplaced.total() for report in reports) == 20
    assert store.statuses(asked) == ["completed"]
    assert store.waiting() == 0
    assert alarms.current(store.worker) == ["misplaced"]
    assert [str(found) for found in verify(store.owner)] == []


def test_work_in_a_partition_of_another_request_is_deleted(store: Store, api: Connection) -> None:
    """
    A command in a foreign partition is not applied there, and the next command at home is.
    """
    store.open("coupon", available=5)
    [asked] = store.accept(store.redeems("coupon", "ada"))
    enqueue(api, ELSEWHERE, asked, "cancel")

    report = drain(store, ELSEWHERE)

    assert report.misplaced == {ELSEWHERE: 1}
    assert commands.record_command(api, asked, "cancel", "ada").is_new
    drain(store, HOME)
    assert store.statuses([asked]) == ["cancelled_by_client"]
    assert alarms.current(store.worker) == ["misplaced"]


@pytest.mark.parametrize("kind", ["redemption", "deposit", "amendment", "closing"])
def test_a_request_in_a_foreign_partition_changes_nothing(store: Store, api: Connection, kind: str) -> None:
    """
    Such a request fails, whatever it asks for. It is named by the alarm and by `verify`.
    """
    store.open("coupon", available=5)
    before = store.entries("coupon")
    foreign = write_request(api, ELSEWHERE, "coupon", kind)
    asked = store.accept(store.redeems("coupon", "ada"))

    report = drain(store)

    assert report.misplaced == {ELSEWHERE: 1}
    assert store.statuses([foreign, *asked]) == ["processor_error", "completed"]
    assert len(store.entries("coupon")) == len(before) + 1
    assert alarms.current(store.worker) == ["misplaced"]
    assert {found.code for found in verify(store.owner)} == {"partition_wrong"}


def test_a_resource_is_opened_in_its_own_partition(store: Store, api: Connection) -> None:
    """
    An opening in a foreign partition fails, although no resource exists yet.
    """
    foreign = write_request(api, ELSEWHERE, "coupon", "opening")

    drain(store)

    assert store.statuses([foreign]) == ["processor_error"]
    assert store.one("SELECT count(*) FROM resources") == 0


def test_rows_in_no_partition_are_deleted(store: Store, api: Connection) -> None:
    """
    No batch takes rows of a partition that does not exist, so the watch deletes them.
    """
    for partition in (-1, PARTITIONS, 999):
        enqueue(api, partition, uuid.uuid4())

    Watch().look(store.worker)

    assert store.waiting() == 0
    assert alarms.current(store.worker) == ["misplaced"]


@pytest.mark.parametrize(
    "payload",
    [[], "text", 7, {"actor": {"name": "ada"}}, {"actor": ["ada"], "reason": {}, "by": []}, {"reason": 7}],
)
def test_any_payload_leaves_the_partition_working(store: Store, api: Connection, payload: Any) -> None:
    """
    A command whose payload the API would not write is applied or fails. The request behind it is decided.
    """
    store.open("coupon", available=5)
    [asked] = store.accept(store.redeems("coupon", "ada"))
    api.execute(
        "INSERT INTO inbox (partition, request_id, verb, payload) VALUES (%s, %s, 'cancel', %s)",
        (HOME, asked, Jsonb(payload)),
    )
    after = store.accept(store.redeems("coupon", "bob"))

    store.drain("coupon")

    assert store.statuses(after) == ["completed"]
    assert store.waiting() == 0


# ---------------------------------------------------------------- locks


def look_twice(connection: Connection) -> Watch:
    watch = Watch()
    watch.look(connection)
    watch.look(connection)
    return watch


def test_a_held_lock_is_named(store: Store, database: Database, api: Connection) -> None:
    """
    The alarm names the role and the process that hold the lock of a partition, until it is released.
    """
    store.open("coupon", available=5)
    api.execute("SELECT pg_advisory_lock(%s, %s)", (connections.LOCK_CLASS, HOME))
    assert drain(store).locked == {HOME}

    watch = look_twice(store.worker)

    assert alarms.current(api) == ["locked"]
    assert [one for one in range(PARTITIONS) if watch.explains(one)] == [HOME]
    listed = {one.id: one.locked_by for one in ownership.list_partitions(api)}
    assert listed[HOME] == f"teller_api, process {api.info.backend_pid}"
    assert [one for one in listed if listed[one]] == [HOME]

    api.execute("SELECT pg_advisory_unlock_all()")
    watch.look(store.worker)
    assert not watch.explains(HOME)


def test_a_look_is_at_once_when_a_drain_stalls(
    store: Store, api: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The second look does not wait for the interval: it may explain the stall, and the worker keeps its lease.
    """
    monkeypatch.setattr(watch_module, "INTERVAL_SECONDS", 3_600.0)
    api.execute("SELECT pg_advisory_lock(%s, %s)", (connections.LOCK_CLASS, HOME))
    watch = Watch()
    watch.look(store.worker)
    watch.look(store.worker)
    assert not watch.explains(HOME)

    watch.look(store.worker, at_once=True)

    assert watch.explains(HOME)
    api.execute("SELECT pg_advisory_unlock_all()")


def test_a_pause_is_no_alarm(store: Store, api: Connection) -> None:
    """
    The API holds the lock of a partition for a moment when it pauses it. One look alone raises no alarm.
    """
    watch = Watch()
    with api.transaction():
        api.execute("SELECT pg_advisory_xact_lock(%s, %s)", (connections.LOCK_CLASS, HOME))
        watch.look(store.worker)
    watch.look(store.worker)

    assert alarms.current(api) == []


@pytest.mark.parametrize("table", ["pauses", "webhooks", "fanouts"])
def test_a_table_that_is_locked_against_batches_is_named(
    store: Store, database: Database, table: str
) -> None:
    """
    A role that may delete rows of a table can lock it. The backend that a batch waits for is found.
    """
    store.open("coupon", available=5)
    store.owner.execute(
        "INSERT INTO webhooks (id, client_id, url, secret)"
        " VALUES (gen_random_uuid(), 'shop', 'https://example.com', decode(repeat('00', 24), 'hex'))"
    )
    asked = store.accept(store.redeems("coupon", "ada"))
    url = database.courier_url if table == "fanouts" else database.api_url
    with (
        psycopg.connect(url) as holder,
        connections.connect(database.worker_url, application_name="watch") as watching,
    ):
        holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        stopped = threading.Event()

        def try_again() -> None:
            while not stopped.is_set():
                try:
                    drain(store)
                except DatabaseUnavailable:
                    store.reconnect()

        worker = threading.Thread(target=try_again)
        worker.start()
        try:
            [blocker] = eventually_found(watching)
            assert blocker.pid == holder.info.backend_pid
            assert blocker.partitions == (None,)
        finally:
            holder.rollback()
            eventually(lambda: store.statuses(asked) == ["completed"])
            stopped.set()
            worker.join()


def eventually_found(connection: Connection) -> list[alarms.Blocker]:
    found: list[alarms.Blocker] = []

    def look() -> bool:
        found[:] = alarms.blockers(connection)
        return bool(found)

    eventually(look)
    return found


def test_a_worker_without_notifications_is_named_until_it_has_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The API may reach Redis when a worker does not. The worker raises the alarm again each second. No worker owns the
    partitions here, which is another cause after a while.
    """
    assert alarms.current(store.worker) == []
    for _ in range(2):
        alarms.note_redis(store.worker, "replica")
        assert "redis" in read_health(store.owner).causes

    monkeypatch.setattr(alarms, "REDIS_FRESH_SECONDS", 0)
    assert "redis" not in read_health(store.owner).causes
