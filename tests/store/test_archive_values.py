"""
Verification of the archive, value by value: every changed column of every file, and of its tables, is found.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from processor.archive import files, run
from processor.archive.content import TABLES as TABLES_OF_FILES
from processor.verify.archive import verify_archive
from processor.verify.checks import verify
from tests.store.archives import archive
from tests.store.history import play
from tests.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.storage.connections import Connection
    from tests.servers import Clones
    from tests.store.store import Store


#: The tables that the archive keeps in the database.
TABLES: Final = ("archives", "checkpoints", "archived_usages", "archived_decisions")


class Archived(NamedTuple):
    """A system with every kind of event, most of it in several files."""

    store: Store
    directory: Path


@pytest.fixture(scope="module")
def archived(postgres: Clones, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archived]:
    """One system for all changes, each of which is undone."""
    directory = tmp_path_factory.mktemp("archive")
    with (
        postgres.clone() as database,
        open_store(database) as store,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        play(store, monkeypatch)
        store.open("limited", "coupon", 100, per_account_limit=50, per_account_daily_limit=50)
        store.accept(*(store.redeems("limited", f"u{n % 3}") for n in range(9)))
        store.drain("limited")
        store.owner.execute("TRUNCATE fanouts")
        store.owner.execute(
            "UPDATE deliveries SET status = 'delivered', due_at = NULL; INSERT INTO deliveries"
            " (request_id, version, type, email, status, due_at)"
            " SELECT request_id, 2, 'x', 'a@b.example', 'failed', NULL"
            "   FROM entries WHERE account = 'u1'"
        )
        store.owner.execute(
            "INSERT INTO attempts (request_id, token) SELECT request_id, gen_random_uuid() FROM entries"
            " WHERE account = 'u1'"
        )
        with monkeypatch.context() as patch:
            patch.setattr(run, "FILE_REQUESTS", 40)
            archive(database, directory)
        store.owner.execute("SET session_replication_role = replica")
        for table, name in store.owner.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE conrelid::regclass::text = ANY(%s)"
            "   AND contype IN ('c', 'u', 'p')",
            (list(TABLES),),
        ).fetchall():
            store.owner.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
        yield Archived(store, directory)


def found(archived: Archived) -> set[str]:
    """Return the codes of what `teller verify --archive` finds."""
    owner = archived.store.owner
    return {one.code for one in (*verify(owner), *verify_archive(owner, archived.directory))}


@contextlib.contextmanager
def put_back(owner: Connection, table: str) -> Iterator[None]:
    """Undo what the block changes in a table."""
    owner.execute(f"CREATE TABLE kept AS SELECT * FROM {table}".encode())  # noqa: S608  # names from above
    yield
    owner.execute(f"TRUNCATE {table}; INSERT INTO {table} TABLE kept; DROP TABLE kept".encode())


def rows_of(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def another(value: Any) -> Any:
    """Return another value that a column may have."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return "x" if value is None else None


def test_a_whole_archive_is_verified(archived: Archived) -> None:
    """
    Nothing is found in several files that no one has changed.
    """
    assert len(list(archived.directory.iterdir())) > 1
    assert found(archived) == set()


def test_every_changed_column_of_every_file_is_found(archived: Archived) -> None:
    """
    One value of one row is changed, for each table, column and file.
    """
    tried = set()
    for path in sorted(archived.directory.iterdir()):
        whole = path.read_bytes()
        rows = rows_of(path)
        columns = {(table, column) for table, row in rows for column in row}
        for table, column in sorted(columns):
            place = next(n for n, (name, row) in enumerate(rows) if name == table and column in row)
            changed = [
                row if n != place else [table, row[1] | {column: another(row[1][column])}]
                for n, row in enumerate(rows)
            ]
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in changed).encode()))
            codes = {one.code for one in verify_archive(archived.store.owner, archived.directory)}
            assert "archive_changed" in codes, (path.name, table, column)
            tried.add((table, column))
        path.write_bytes(whole)
    assert set(TABLES_OF_FILES) <= {one for one, _ in tried}
    assert found(archived) == set()


def test_a_changed_entry_is_found_although_digests_were_made_again(archived: Archived) -> None:
    """
    An owner changes an entry, the manifest and the digest in `archives`. The chain of the entries does not fit.
    """
    path = min(archived.directory.iterdir())
    whole = path.read_bytes()
    rows = rows_of(path)
    for column in ("amount", "available", "held", "account", "created_at", "kind", "request_id", "digest"):
        place = next(
            n for n, (table, row) in enumerate(rows) if table == "entries" and row[column] is not None
        )
        value = {"created_at": "2020-01-01T00:00:00+00:00", "kind": "hold"}.get(
            column, another(rows[place][1][column])
        )
        if value == rows[place][1][column]:
            value = "release"
        changed = [row if n != place else ["entries", row[1] | {column: value}] for n, row in enumerate(rows)]
        lines = [json.dumps(row) + "\n" for row in changed[:-1]]
        entries = hashlib.sha256("".join(line for line in lines if line.startswith('["entries"')).encode())
        manifest = changed[-1][1] | {"sha256": changed[-1][1]["sha256"] | {"entries": entries.hexdigest()}}
        lines.append(json.dumps(["manifest", manifest]) + "\n")
        path.write_bytes(gzip.compress("".join(lines).encode()))
        with put_back(archived.store.owner, "archives"):
            archived.store.owner.execute(
                "UPDATE archives SET digest = %s WHERE name = %s", (files.digest_of(path), path.name)
            )
            assert "archive_damaged" in found(archived), column
    path.write_bytes(whole)
    assert found(archived) == set()


def test_missing_doubled_and_foreign_files_are_found(archived: Archived, tmp_path: Path) -> None:
    """
    A file that is gone, in the directory twice, cut off, or of another archive.
    """
    first, second, *_ = sorted(archived.directory.iterdir())
    aside = tmp_path / first.name
    shutil.move(first, aside)
    assert {"archive_missing", "archive_chain_broken"} <= found(archived)

    shutil.copy(second, first)
    assert {"archive_changed", "archive_row_wrong", "archive_doubled"} <= found(archived)

    shutil.copy(aside, first)
    copy = archived.directory / f"copy{files.SUFFIX}"
    shutil.copy(second, copy)
    assert found(archived) == {"archive_unexpected"}
    copy.unlink()

    first.write_bytes(aside.read_bytes()[:-20])
    assert {"archive_changed", "archive_damaged"} <= found(archived)
    shutil.copy(aside, first)
    assert found(archived) == set()


#: Columns that can be changed without `teller verify --archive` finding it, with the reason.
NOT_VERIFIED = {"archives.created_at": "the time of the removal, which is nowhere else"}
CHANGES = {
    "bigint": "{0} + 1",
    "integer": "{0} + 1",
    "smallint": "{0} + 1",
    "numeric": "{0} + 1",
    "text": "{0} || 'x'",
    "text[]": "ARRAY['x'] || {0}",
    "uuid": "gen_random_uuid()",
    "bytea": "sha256({0})",
    "date": "{0} - 1",
    "timestamp with time zone": "{0} - interval '1 second'",
}


def test_every_changed_column_and_lost_row_of_the_tables_is_found(archived: Archived) -> None:
    """
    The tables that the archive keeps in the database are compared with the files, and with the entries that stay.
    """
    owner = archived.store.owner
    columns = owner.execute(
        "SELECT relname, attname, format_type(atttypid, NULL) FROM pg_class c"
        "  JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped"
        " WHERE relname = ANY(%s) AND relkind = 'r'",
        (list(TABLES),),
    ).fetchall()
    unseen = []
    for table, column, type_name in columns:
        if f"{table}.{column}" in NOT_VERIFIED:
            continue
        name = f'"{column}"'
        row = f"ctid = (SELECT min(ctid) FROM {table} WHERE {name} IS NOT NULL)"  # noqa: S608  # names from above
        with put_back(owner, table):
            change = f"UPDATE {table} SET {name} = {CHANGES[type_name].format(name)} WHERE {row}"  # noqa: S608
            assert owner.execute(change.encode()).rowcount == 1
            if not found(archived):
                unseen.append((table, column))
    for table in TABLES:
        with put_back(owner, table):
            owner.execute(f"DELETE FROM {table} WHERE ctid = (SELECT min(ctid) FROM {table})".encode())  # noqa: S608
            if not found(archived):
                unseen.append((table, "a row"))
    assert unseen == []
    assert found(archived) == set()
