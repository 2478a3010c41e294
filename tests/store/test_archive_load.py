"""
The archive beside batches: requests leave while others are decided and refunded, and everything adds up.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from processor.archive import files, leaving
from processor.batch import run as batch
from processor.verify.archive import verify_archive
from tests.servers import PARTITIONS
from tests.store.archives import LATER, archive, discrepancies
from tests.store.history import refund_of
from tests.store.store import THREAD_SECONDS, open_store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.servers import Database

#: The load ends after as many files, and at the latest after as many rounds of requests.
FILES: Final = 6
ROUNDS: Final = 300
#: The requests of a round.
REQUESTS: Final = 25


def test_requests_leave_while_others_are_decided_and_refunded(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each request is in the database or in one file. Refunds that come too late are rejected and give nothing back.
    """
    ended = threading.Event()
    faults: list[BaseException] = []
    monkeypatch.setattr("processor.archive.run.TRIES_MAX", 1_000)
    monkeypatch.setattr("processor.archive.run.FILE_REQUESTS", 60)

    def keep_archiving() -> None:
        try:
            while not ended.is_set():
                archive(database, tmp_path)
        except BaseException as fault:  # noqa: BLE001 - the test raises it
            faults.append(fault)

    with open_store(database) as store:
        for resource in ("coupon", "points"):
            store.open(resource, "points", 1_000_000, per_account_limit=1_000_000)
        thread = threading.Thread(target=keep_archiving)
        thread.start()
        try:
            made = load(store)
        finally:
            ended.set()
            thread.join(THREAD_SECONDS)
        assert faults == []
        drain(store)
        assert store.one("SELECT count(*) FROM archives") >= FILES
        assert discrepancies(store) == []
        assert list(verify_archive(store.owner, tmp_path)) == []
        archive(database, tmp_path, LATER)
        assert discrepancies(store) == []
        assert list(verify_archive(store.owner, tmp_path)) == []
        filed = [one for path in tmp_path.iterdir() for one in files.read(path).requests]
        assert sorted(filed) == sorted(made)
        assert leaving.read_place(store.owner).last_number == len(list(tmp_path.iterdir()))


def load(store: Any) -> list[Any]:
    """Make, decide and refund requests until enough files were made. Returns all requests."""
    made: list[Any] = []
    for number in range(ROUNDS):
        if store.one("SELECT count(*) FROM archives") >= FILES:
            break
        some = store.accept(
            *(store.redeems(("coupon", "points")[n % 2], f"u{n % 5}") for n in range(REQUESTS)),
            store.exchanges("u1", ("coupon", -2), ("points", 1)),
        )
        late = [refund for one in some[:5] if (refund := asked(store, one)) is not None]
        drain(store)
        made += some + store.accept(*late)
        if number % 2:
            drain(store)
    return made


def drain(store: Any) -> None:
    """Run batches of all partitions: an exchange is in two."""
    while batch.drain_once(store.worker, range(PARTITIONS), batch.BATCH_LIMIT).taken:
        pass


def asked(store: Any, request: Any) -> Any:
    """Return a refund of a request, as the API reads it before the request leaves."""
    return (
        refund_of(store, request)
        if store.one("SELECT count(*) FROM requests WHERE id = %s", request)
        else None
    )
