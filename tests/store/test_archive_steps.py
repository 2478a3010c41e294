"""
The archive, step by step: nothing is lost or doubled wherever it is killed, and a fault of the disk changes nothing.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from processor.archive import files, leaving, run
from processor.archive.content import ArchiveDamaged
from processor.archive.leaving import RoleMissing
from processor.storage import connections
from tests.store.archives import LATER, archive, discrepancies
from tests.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import Database
    from tests.store.store import Store

ROOT: Final = Path(__file__).resolve().parents[2]
#: A run has at least as many steps, and fewer than the second number.
STEPS: Final = range(25, 200)


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """A Teller without processes, with a coupon."""
    with open_store(database) as opened:
        opened.open("coupon", "coupon", 10_000)
        yield opened


@pytest.fixture
def killer() -> Iterator[Callable[..., bool]]:
    """`killer(url, directory, steps, power_fails)` runs the archive, and returns whether it came to its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.archive_process"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def kill(url: str, directory: Path, steps: int, *, power_fails: bool) -> bool:
        order = {"url": url, "directory": str(directory), "steps": steps, "power_fails": power_fails}
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        status = int(process.stdout.readline())
        assert status in (0, -signal.SIGKILL), "the archive broke: see the captured output"
        return status == 0

    yield kill
    process.communicate()


def redeem(store: Store, count: int = 2) -> set[Any]:
    """Make requests, and decide them."""
    requests = store.accept(*(store.redeems("coupon", "ada") for _ in range(count)))
    store.drain("coupon")
    return set(requests)


def places(store: Store, directory: Path) -> list[Any]:
    """Return all redemptions, each as often as it is in the database or in a file that the database refers to."""
    found = [one for (one,) in store.owner.execute("SELECT id FROM requests WHERE kind = 'redemption'")]
    for name, digest in store.owner.execute("SELECT name, digest FROM archives").fetchall():
        assert files.digest_of(directory / name) == digest
        found += files.read(directory / name).requests
    return found


@pytest.mark.parametrize("power_fails", [False, True], ids=["process", "machine"])
def test_nothing_is_lost_or_doubled_wherever_it_is_killed(
    store: Store, killer: Callable[..., bool], tmp_path: Path, *, power_fails: bool
) -> None:
    """
    A run is killed after its first step, the next after its second, and so on. Each goes on from the last.
    """
    made: set[Any] = set()
    for steps in range(1, STEPS.stop):
        made |= redeem(store)
        is_whole = killer(store.database.archive_url, tmp_path, steps, power_fails=power_fails)
        found = places(store, tmp_path)
        assert sorted(found) == sorted(made), steps
        assert discrepancies(store) == []
        if is_whole:
            break
    assert steps in STEPS
    assert store.one("SELECT count(*) FROM requests WHERE kind = 'redemption'") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        name for (name,) in store.owner.execute("SELECT name FROM archives")
    )


def test_a_file_is_on_the_disk_before_its_requests_are_removed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its bytes are synced, it is read back and renamed, its directory is synced, and only then rows are removed.
    """
    redeem(store)
    order: list[str] = []

    def note(target: Any, name: str, text: str) -> None:
        step = getattr(target, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            order.append(text)
            return step(*arguments, **named)

        monkeypatch.setattr(target, name, noted)

    note(os, "fsync", "sync")
    note(files, "read", "read back")
    note(Path, "rename", "rename")
    note(leaving, "remove", "remove")
    archive(store.database, tmp_path)

    assert order == ["sync", "sync", "read back", "rename", "sync", "remove"]  # the first is of the directory


def test_a_file_that_reads_back_differently_removes_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A disk that returns other bytes than were written is found before anything is removed.
    """
    made = redeem(store)
    write = files.write

    def damage(path: Path, *arguments: Any) -> Any:
        written = write(path, *arguments)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        return written

    monkeypatch.setattr(files, "write", damage)
    with pytest.raises(ArchiveDamaged):
        archive(store.database, tmp_path)

    assert set(places(store, tmp_path)) == made
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_changes_nothing(store: Store, tmp_path: Path) -> None:
    """
    A file that cannot be written to its end is one line, and no file and no row has changed.
    """
    made = redeem(store)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(run.ArchiveUnwritable, match=str(tmp_path)):
            archive(store.database, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert set(places(store, tmp_path)) == made
    assert list(tmp_path.iterdir()) == []
    archive(store.database, tmp_path)
    assert sorted(places(store, tmp_path)) == sorted(made)


def test_a_file_in_place_of_the_directory_is_refused(store: Store, tmp_path: Path) -> None:
    """
    The directory is made if it is missing, but not under a file.
    """
    redeem(store)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(run.ArchiveUnwritable):
            archive(store.database, path)
    assert archive(store.database, tmp_path / "new" / "below").requests == 2


def test_two_runs_do_not_write_into_one_directory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The second run is refused. In another directory, it makes a file of its own or finds that rows have changed.
    """
    made = redeem(store)
    read = files.read

    def second_run(path: Path) -> Any:
        monkeypatch.setattr(files, "read", read)
        with pytest.raises(run.ArchiveRefused, match="another"):
            archive(store.database, tmp_path)
        archive(store.database, tmp_path / "other")
        return read(path)

    monkeypatch.setattr(files, "read", second_run)
    assert archive(store.database, tmp_path).requests == 0
    assert sorted(places(store, tmp_path / "other")) == sorted(made)


def test_a_file_with_requests_that_the_database_lacks_stays(store: Store, tmp_path: Path) -> None:
    """
    After an older backup was restored, a file without a row may be the only place of its requests.
    """
    redeem(store)
    archive(store.database, tmp_path)
    with store.owner.transaction():
        store.owner.execute("TRUNCATE archives, checkpoints, archived_usages, archived_decisions")
    [path] = tmp_path.iterdir()

    with pytest.raises(run.ArchiveRefused, match="not an archive of this database"):
        archive(store.database, tmp_path)

    assert path.exists()


def test_without_its_role_nothing_is_removed(store: Store, tmp_path: Path) -> None:
    """
    API, worker and courier cannot archive. The owner takes the role, and by itself removes nothing.
    """
    made = redeem(store)
    for url in store.database.role_urls[:3]:
        with (
            connections.connect(url, application_name="test") as connection,
            pytest.raises(RoleMissing, match="TELLER_ARCHIVE_DATABASE_URL"),
        ):
            run.run(connection, tmp_path / "new", LATER, 0, "olga")
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"):
        store.owner.execute("DELETE FROM requests")
    assert set(places(store, tmp_path)) == made

    assert run.run(store.owner, tmp_path, LATER, 0, "olga").requests == len(made)
