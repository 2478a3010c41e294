"""
The archive: finished requests leave for files, and everything that is derived from them stays as it was.
"""

from __future__ import annotations

import contextlib
import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from processor.archive import files, run
from processor.archive.leaving import RequestsChanged
from processor.batch import run as batch
from processor.storage import connections
from tests.servers import PARTITIONS
from tests.store.archives import LATER, archive, discrepancies
from tests.store.history import play, record_answer, refund_of
from tests.store.store import open_store

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Database
    from tests.store.store import Store


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """A Teller without processes, whose ledger must be right at the end."""
    with open_store(database) as opened:
        yield opened
        assert discrepancies(opened) == []


def present(store: Store, *requests: uuid.UUID) -> list[bool]:
    """Return whether each request is still in the database."""
    there = {
        one for (one,) in store.owner.execute("SELECT id FROM requests WHERE id = ANY(%s)", (list(requests),))
    }
    return [request in there for request in requests]


def checkpoints(store: Store, resource: str) -> list[int]:
    return [
        version
        for (version,) in store.owner.execute(
            "SELECT version FROM checkpoints WHERE resource_id = %s ORDER BY version", (resource,)
        )
    ]


def redeemed(store: Store, resource: str, *accounts: str) -> list[uuid.UUID]:
    requests = store.accept(*(store.redeems(resource, account) for account in accounts))
    store.drain(resource)
    return requests


def test_after_every_kind_of_event_what_stays_is_verified(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Final requests leave, and `teller verify` finds nothing wrong. A second run finds nothing to do.
    """
    play(store, monkeypatch)
    states = "SELECT id, (available, held, version, digest)::text FROM resources ORDER BY id"
    before = store.owner.execute(states).fetchall()

    first = archive(store.database, tmp_path)

    assert discrepancies(store) == []
    assert store.owner.execute(states).fetchall() == before
    assert first.requests > 20
    assert first.files == len(list(tmp_path.iterdir())) == 1
    assert archive(store.database, tmp_path).requests == 0
    final = (
        "JOIN decisions d ON d.request_id = q.id AND d.current AND d.status NOT IN ('processing', 'failed')"
    )
    kinds = store.owner.execute(f"SELECT DISTINCT kind FROM requests q {final}".encode()).fetchall()  # noqa: S608
    assert {kind for (kind,) in kinds} - {"refund"} == {"opening", "amendment", "closing"}


def test_a_file_has_every_column_of_what_left(store: Store, tmp_path: Path) -> None:
    """
    The rows of a request are in the file as they were in the database.
    """
    store.open("coupon", "coupon", 5)
    [request] = redeemed(store, "coupon", "ada")
    tables = {"requests": "id", "decisions": "request_id", "entries": "request_id"}
    rows = {
        table: store.owner.execute(
            f"SELECT to_json(t) FROM {table} t WHERE {key} = %s",  # noqa: S608  # names from above
            (request,),
        ).fetchall()
        for table, key in tables.items()
    }

    archive(store.database, tmp_path)

    [path] = tmp_path.iterdir()
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert [(table, row) for table, row in lines if table in tables] == [
        (table, row) for table in tables for (row,) in rows[table]
    ]
    manifest = lines[-1][1]
    assert manifest["rows"] == {"requests": 1, "decisions": 1, "chains": 1, "entries": 1}
    assert manifest["amounts"] == {"debit": 1}
    assert store.one("SELECT name FROM archived_in(%s)", request) == path.name
    assert store.one("SELECT client_id FROM archived_in(%s)", request) == "shop"
    assert (
        store.one("SELECT detail ->> 'archive' FROM audit WHERE action = 'archive' AND actor = 'olga'")
        == path.name
    )


def test_each_of_many_requests_is_found_in_its_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The search by halves finds every id with its client, in several files, and no other id.
    """
    monkeypatch.setattr(run, "FILE_REQUESTS", 7)
    store.open("coupon", "coupon", 100)
    requests = store.accept(*(store.redeems("coupon", f"u{n}", client=f"client-{n % 3}") for n in range(40)))
    store.drain("coupon")

    archive(store.database, tmp_path)

    assert store.one("SELECT count(*) FROM archives") == 6
    for number, request in enumerate(requests):
        assert store.owner.execute("SELECT client_id FROM archived_in(%s)", (request,)).fetchall() == [
            (f"client-{number % 3}",)
        ]
    assert store.owner.execute("SELECT FROM archived_in(gen_random_uuid())").fetchall() == []
    assert (
        store.owner.execute(
            "SELECT FROM archived_in(%s)",
            (requests[20].int + 1 and type(requests[20])(int=requests[20].int + 1),),
        ).fetchall()
        == []
    )


def test_an_open_request_keeps_its_own_entries_and_no_others(store: Store, tmp_path: Path) -> None:
    """
    A hold that is open for long stays, with its entry between two checkpoints. When it ends, one checkpoint is left.
    """
    store.open("paid", "balance", 100, gateway="sandbox")
    store.accept(store.asks("deposit", "paid", amount=10))
    store.drain("paid")
    [held] = store.accept(store.asks("withdrawal", "paid", "ada", 5))
    store.drain("paid")
    deposits = store.accept(*(store.asks("deposit", "paid", amount=10) for _ in range(3)))
    store.drain("paid")

    archive(store.database, tmp_path)

    assert present(store, held, *deposits) == [True, False, False, False]
    assert checkpoints(store, "paid") == [2, 6]
    assert discrepancies(store) == []

    record_answer(store, held, "done")
    store.drain("paid")
    assert discrepancies(store) == []
    archive(store.database, tmp_path)

    assert present(store, held) == [False]
    assert checkpoints(store, "paid") == [7]
    assert store.one("SELECT count(*) FROM entries") == 1  # the opening

    redeemed(store, "paid", "ada")
    assert discrepancies(store) == []


def test_a_request_leaves_with_all_its_refunds(store: Store, tmp_path: Path) -> None:
    """
    A refund that is not old enough keeps its request, also one that was rejected. Then they leave in one file.
    """
    store.open("coupon", "coupon", 5)
    [original] = redeemed(store, "coupon", "ada")
    [first] = store.accept(refund_of(store, original))
    store.drain("coupon")
    middle = store.one("SELECT clock_timestamp()")
    [second] = store.accept(refund_of(store, original))
    store.drain("coupon")
    assert store.statuses([second]) == ["nothing_to_refund"]

    archive(store.database, tmp_path, middle)
    assert present(store, original, first, second) == [True] * 3

    archive(store.database, tmp_path)
    assert present(store, original, first, second) == [False] * 3
    assert store.one("SELECT count(*) FROM archives") == 1


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("inbox", "(partition, request_id, verb) VALUES (7, %s, 'cancel')"),
        (
            "deliveries",
            "(request_id, version, type, email) VALUES (%s, 2, 'request.completed', 'a@b.example')",
        ),
        ("fanouts", "(webhook_id, request_ids, versions) VALUES (gen_random_uuid(), ARRAY[%s::uuid], '{2}')"),
        ("effects", "(request_id, partition, gateway, created_at, due_at) VALUES (%s, 7, 'x', now(), now())"),
        (
            "effects",
            "(request_id, partition, gateway, created_at, token, leased_until)"  # noqa: ISC004
            " VALUES (%s, 7, 'x', now(), gen_random_uuid(), now() + interval '1 minute')",
        ),
    ],
)
def test_what_is_still_to_be_done_keeps_a_request(store: Store, tmp_path: Path, table: str, row: str) -> None:
    """
    A command, a notification or a call of a gateway that is pending keeps its request.
    """
    store.open("coupon", "coupon", 5)
    kept, left = redeemed(store, "coupon", "ada", "bob")
    store.owner.execute(f"INSERT INTO {table} {row}".encode(), (kept,))  # from above

    archive(store.database, tmp_path)

    assert present(store, kept, left) == [True, False]
    store.owner.execute(f"TRUNCATE {table}".encode())


def test_a_limit_that_is_set_later_counts_what_has_left(store: Store, tmp_path: Path) -> None:
    """
    Per-account limits count all that an account has taken, also from before the archive.
    """
    store.open("coupon", "coupon", 100)
    redeemed(store, "coupon", "ada", "ada", "ada", "bob")
    archive(store.database, tmp_path)
    redeemed(store, "coupon", "ada", "bob")
    store.accept(
        store.asks("amendment", "coupon", details={"per_account_limit": 5, "per_account_daily_limit": 5})
    )
    store.drain("coupon")

    assert store.owner.execute("SELECT account, used FROM usages ORDER BY 1").fetchall() == [
        ("ada", 4),
        ("bob", 2),
    ]
    assert store.owner.execute("SELECT account, used FROM daily_usages ORDER BY 1").fetchall() == [
        ("ada", 4),
        ("bob", 2),
    ]
    assert store.statuses(redeemed(store, "coupon", "ada", "ada")) == ["completed", "limit_reached"]
    archive(store.database, tmp_path)
    assert discrepancies(store) == []


def test_nothing_leaves_that_has_to_be_kept(store: Store, tmp_path: Path) -> None:
    """
    `--before` later than TELLER_KEEP_DAYS ago is refused, by the clock of the database.
    """
    store.open("coupon", "coupon", 5)
    redeemed(store, "coupon", "ada")
    with contextlib.closing(connections.connect(store.database.archive_url, application_name="test")) as role:
        for days, ago, is_refused in ((30, 29, True), (30, 31, False), (1, 0, True), (0, 0, False)):
            before = datetime.now(UTC) - timedelta(days=ago)
            if is_refused:
                with pytest.raises(run.ArchiveRefused, match="TELLER_KEEP_DAYS"):
                    run.run(role, tmp_path / "new", before, days, "olga")
                assert not (tmp_path / "new").exists()
            else:
                run.count(role, before, days)


def test_what_changes_while_it_leaves_is_read_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A refund that comes after the file was written keeps its request. The file is removed, and another one made.
    """
    store.open("coupon", "coupon", 5)
    kept, left = redeemed(store, "coupon", "ada", "bob")
    read = files.read
    refunds: list[uuid.UUID] = []

    def refund_first(path: Path) -> Any:
        if not refunds:
            refunds.extend(store.accept(refund_of(store, kept)))
        return read(path)

    monkeypatch.setattr(files, "read", refund_first)
    archive(store.database, tmp_path)

    assert present(store, kept, left) == [True, False]
    assert len(list(tmp_path.iterdir())) == 1
    store.drain("coupon")
    assert store.statuses([kept]) == ["refunded_by_admin"]


def test_a_state_that_a_batch_writes_meanwhile_is_not_lost(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A row that was changed after it was read removes nothing, however often it is tried.
    """
    store.open("coupon", "coupon", 5)
    [request] = redeemed(store, "coupon", "ada")
    read, numbers = files.read, iter(range(2, 100))

    def supersede(path: Path) -> Any:
        version = next(numbers)
        store.owner.execute(
            "UPDATE decisions SET current = false WHERE request_id = %s AND current", (request,)
        )
        store.owner.execute(
            "INSERT INTO decisions (request_id, version, status, sequence, decided_at, at, actor)"
            " SELECT request_id, version + 1, status, sequence, decided_at, at, actor FROM decisions"
            "  WHERE request_id = %s AND version = %s",
            (request, version),
        )
        return read(path)

    monkeypatch.setattr(files, "read", supersede)
    with pytest.raises(RequestsChanged, match="decisions changed"):
        archive(store.database, tmp_path)

    assert present(store, request) == [True]
    assert list(tmp_path.iterdir()) == []
    assert store.one("SELECT count(*) FROM archives") == 0


def test_a_refund_of_what_is_leaving_is_rejected(store: Store, tmp_path: Path) -> None:
    """
    A refund that was read as possible, and is accepted after its request has left, gives nothing back.
    """
    store.open("coupon", "coupon", 5)
    [original] = redeemed(store, "coupon", "ada")
    late = refund_of(store, original)
    archive(store.database, tmp_path, LATER)

    [refund] = store.accept(late)
    store.drain("coupon")

    assert store.statuses([refund]) == ["nothing_to_refund"]
    archive(store.database, tmp_path)
    assert present(store, refund) == [False]


def test_an_exchange_follows_an_entry_that_has_left_with_a_later_time(store: Store, tmp_path: Path) -> None:
    """
    After a clock was set back, entries have the time of the one before. The checkpoint has it when that one has left.
    """
    for resource in ("coupon", "points"):
        store.open(resource, "points", 100)
    store.owner.execute("UPDATE resources SET last_entry_at = now() + interval '1 hour' WHERE id = 'coupon'")
    redeemed(store, "coupon", "ada")
    archive(store.database, tmp_path)

    store.accept(store.exchanges("ada", ("coupon", -1), ("points", 1)))
    while batch.drain_once(store.worker, range(PARTITIONS), batch.BATCH_LIMIT).taken:
        pass

    assert store.one("SELECT count(*) FROM entries WHERE created_at > now()") == 1
    assert discrepancies(store) == []
