"""
The schema of a new database, and the migration of an older one: the results are the same.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from processor.batch import run as batch
from processor.errors import DatabaseUnavailable, MigrationFailed, SchemaError
from processor.storage import connections, migrations
from processor.storage.migrations import files, runner
from processor.verify.checks import verify
from tests.servers import PARTITIONS
from tests.store import catalogue
from tests.store.store import at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.storage.connections import Connection
    from processor.storage.migrations.files import Migration
    from tests.servers import Clones

ROOT: Final = Path(__file__).parents[2]
#: Inbox rows of the database of version 2 that no batch has applied.
UNDECIDED: Final = 23

INDEX: Final = """
-- transactional: no

-- drop --
DROP INDEX CONCURRENTLY IF EXISTS requests_of_day;

-- build --
CREATE INDEX CONCURRENTLY requests_of_day ON requests (created_at);

-- drop_old --
DROP INDEX CONCURRENTLY IF EXISTS requests_refunds;
"""
TABLE: Final = """
CREATE TABLE colours (name text PRIMARY KEY);
ALTER TABLE partitions ADD COLUMN colour text;
"""


@pytest.fixture
def owner(empty_database: str) -> Iterator[Connection]:
    """
    A connection to a new database of the present version, with 7 partitions.
    """
    migrations.migrate(empty_database, 7)
    with connections.connect(empty_database, application_name="test") as connection:
        yield connection


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Locks are waited for only briefly, and only three times.
    """
    monkeypatch.setattr(runner, "LOCK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(runner, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(runner, "TRIES_MAX", 3)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Migration]:
    """
    Write a migration to the version after the present one into `tmp_path`, and read it.
    """

    def write(text: str) -> Migration:
        (tmp_path / f"{migrations.SCHEMA_VERSION + 1:04}_next.sql").write_text(text)
        [migration] = files.read(tmp_path)
        return migration

    return write


def version_of(connection: Connection) -> int:
    """
    Return the schema version of a database.
    """
    [(version,)] = connection.execute("SELECT schema_version FROM installation").fetchall()
    return int(version)


# ---------------------------------------------------------------- the files


def test_there_is_one_file_for_each_version_after_the_oldest() -> None:
    """
    The files are numbered without a gap, up to the version that the code needs.
    """
    versions = [migration.version for migration in files.read()]

    assert versions == list(range(3, migrations.SCHEMA_VERSION + 1))


def test_a_file_that_is_not_named_by_its_number_is_refused(tmp_path: Path) -> None:
    """
    A file that would be skipped silently is an error.
    """
    (tmp_path / "4_next.sql").touch()

    with pytest.raises(ValueError, match="4_next"):
        files.read(tmp_path)


# ---------------------------------------------------------------- from version 2


def test_a_migrated_database_has_the_catalogue_of_a_new_one(version_2: str, postgres: Clones) -> None:
    """
    Tables, columns, constraints, indexes, triggers, functions, comments, grants and options are the same.
    """
    assert migrations.migrate(version_2, PARTITIONS).startswith("migrated the schema from version 2 to ")

    with postgres.clone() as new:
        migrated, made = (_catalogue(url) for url in (version_2, new.url))
    assert migrated == made
    for kind in (
        "relations",
        "columns",
        "constraints",
        "indexes",
        "triggers",
        "functions",
        "comments",
        "grants",
    ):
        assert any(line.startswith(kind) for line in made)


def test_a_migrated_database_has_the_kinds_of_a_new_one(version_2: str, postgres: Clones) -> None:
    """
    The rows of `request_kinds` are the same, because constraints and `verify` depend on them.
    """
    migrations.migrate(version_2, PARTITIONS)

    with postgres.clone() as new:
        migrated, made = (_kinds(url) for url in (version_2, new.url))
    assert len(made) > 1
    assert migrated == made


def _kinds(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT * FROM request_kinds ORDER BY kind").fetchall()


def _catalogue(url: str) -> list[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        return catalogue.read(connection)


@pytest.mark.parametrize(
    "statement",
    [
        "COMMENT ON COLUMN partitions.low_water IS 'another one'",
        "COMMENT ON INDEX entries_once IS NULL",
        "ALTER TABLE requests ALTER created_at SET DEFAULT clock_timestamp()",
        "ALTER TABLE requests ALTER created_at DROP NOT NULL",
        "ALTER TABLE requests ALTER amount TYPE numeric",
        "ALTER TABLE deliveries DROP COLUMN last_error, ADD COLUMN last_error text",
        "ALTER TABLE requests DROP CONSTRAINT requests_idempotency",
        "ALTER TABLE usages SET (fillfactor = 71)",
        "ALTER TABLE inbox RESET (autovacuum_analyze_threshold)",
        "ALTER TABLE entries DISABLE TRIGGER append_only",
        "ALTER TABLE audit ALTER id SET CACHE 2",
        "ALTER INDEX requests_refunds RENAME TO refunds",
        "CREATE INDEX another ON requests (kind)",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TYPE colour AS ENUM ('red')",
        "GRANT DELETE ON inbox TO teller_api",
        "GRANT UPDATE (actor) ON decisions TO teller_worker",
        "GRANT CREATE ON SCHEMA public TO teller_api",
        "REVOKE EXECUTE ON FUNCTION refuse_change FROM PUBLIC",
    ],
)
def test_every_difference_of_a_schema_shows_in_its_catalogue(owner: Connection, statement: str) -> None:
    """
    The comparison above would find it.
    """
    before = catalogue.read(owner)

    owner.execute(statement.encode())

    assert catalogue.read(owner) != before


def test_the_books_are_right_before_and_after_a_migration(version_2: str) -> None:
    """
    No row changes, and `verify` finds nothing.
    """
    counts = (
        "SELECT (SELECT count(*) FROM requests), (SELECT count(*) FROM decisions), (SELECT count(*) FROM entries),"
        "       (SELECT count(*) FROM inbox), (SELECT count(*) FROM deliveries),"
        "       (SELECT sum(available) FROM resources)"
    )
    with psycopg.connect(version_2, autocommit=True) as connection:
        before = connection.execute(counts).fetchall()

        migrations.migrate(version_2, PARTITIONS)

        assert connection.execute(counts).fetchall() == before
        assert [str(found) for found in verify(connection)] == []


def test_undecided_requests_are_decided_in_their_order_after_a_migration(version_2: str) -> None:
    """
    Each row that waited in the inbox is applied; a paused partition decides when it is resumed.
    """
    migrations.migrate(version_2, PARTITIONS)
    with psycopg.connect(version_2, autocommit=True) as connection:
        waiting = connection.execute(
            "SELECT i.partition, i.request_id FROM inbox i"
            " WHERE i.verb = 'decide' AND NOT EXISTS (SELECT FROM decisions d WHERE d.request_id = i.request_id)"
            " ORDER BY i.seq"
        ).fetchall()
        assert connection.execute("SELECT count(*) FROM inbox").fetchall() == [(UNDECIDED,)]

        _drain(connection)
        paused = connection.execute("SELECT count(*) FROM inbox JOIN pauses USING (partition)").fetchall()
        assert connection.execute("SELECT count(*) FROM inbox").fetchall() == paused != [(0,)]
        connection.execute("DELETE FROM pauses")
        _drain(connection)

        assert connection.execute("SELECT count(*) FROM inbox").fetchall() == [(0,)]
        for partition, rows in itertools.groupby(sorted(waiting, key=lambda row: row[0]), lambda row: row[0]):
            requests = [request for _, request in rows]
            decided = connection.execute(
                "SELECT request_id FROM decisions WHERE version = 2 AND request_id = ANY(%s) ORDER BY sequence",
                (requests,),
            ).fetchall()
            assert [request for (request,) in decided] == requests, partition
        assert [str(found) for found in verify(connection)] == []


def _drain(connection: Connection) -> None:
    for partition in range(PARTITIONS):
        while batch.drain_once(connection, [partition]).taken:
            pass


def test_an_older_schema_is_refused_by_everything_but_migrate(version_2: str) -> None:
    """
    A process that starts on it gets one line that names the command.
    """
    with psycopg.connect(version_2, autocommit=True) as connection:
        with pytest.raises(
            SchemaError, match=r"version 2, and this Teller needs .* run `teller migrate`"
        ) as refusal:
            migrations.read_installation(connection)
        assert "\n" not in str(refusal.value)

        migrations.migrate(version_2, PARTITIONS)

        assert migrations.read_installation(connection).partitions == PARTITIONS


def test_an_older_schema_with_other_partitions_is_not_migrated(version_2: str) -> None:
    """
    Nothing is applied to a database that does not belong to these settings.
    """
    with pytest.raises(SchemaError, match=r"TELLER_PARTITIONS is 8"):
        migrations.migrate(version_2, 8)

    with psycopg.connect(version_2, autocommit=True) as connection:
        assert version_of(connection) == 2


def test_migrations_of_an_older_schema_at_the_same_time_run_once(version_2: str) -> None:
    """
    One of four processes migrates, and the others find it done.
    """
    applied: list[str] = []

    lines = at_once(*[lambda: migrations.migrate(version_2, PARTITIONS, applied.append)] * 4)

    assert sorted(str(line).startswith("migrated") for line in lines) == [False, False, False, True]
    assert applied == [migration.name for migration in files.read()]


# ---------------------------------------------------------------- locks, faults, interruptions


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("text", [TABLE, INDEX], ids=["transactional", "not transactional"])
def test_a_migration_that_gets_no_lock_gives_up_in_one_line(
    owner: Connection, empty_database: str, written: Callable[[str], Migration], text: str
) -> None:
    """
    The line names the migration; the version stays, and the database can be used.
    """
    migration = written(text)
    with _locked(empty_database), pytest.raises(MigrationFailed, match=migration.name) as failure:
        runner.apply(owner, migration)

    assert "3 tries" in str(failure.value)
    assert "\n" not in str(failure.value)
    assert version_of(owner) == migrations.SCHEMA_VERSION
    assert owner.execute("SELECT to_regclass('colours')").fetchall() == [(None,)]

    runner.apply(owner, migration)

    assert version_of(owner) == migrations.SCHEMA_VERSION + 1


@pytest.mark.parametrize("text", [TABLE, INDEX], ids=["transactional", "not transactional"])
def test_a_migration_waits_for_its_locks_in_short_tries(
    owner: Connection,
    empty_database: str,
    written: Callable[[str], Migration],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    """
    A lock that is given up after two tries is no failure.
    """
    pauses = []
    monkeypatch.setattr(runner, "LOCK_TIMEOUT_SECONDS", 0.05)
    with contextlib.ExitStack() as locked:
        locked.enter_context(_locked(empty_database))

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                locked.close()

        monkeypatch.setattr(time, "sleep", pause)
        runner.apply(owner, written(text))

    assert pauses == [runner.PAUSE_SECONDS] * 2
    assert version_of(owner) == migrations.SCHEMA_VERSION + 1


@contextlib.contextmanager
def _locked(url: str) -> Iterator[None]:
    """
    While it lasts, another transaction holds locks on the tables of both migrations.
    """
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE partitions, requests IN ROW EXCLUSIVE MODE")
        connection.execute("LOCK TABLE requests IN SHARE UPDATE EXCLUSIVE MODE")
        yield
        connection.rollback()


def test_a_migration_that_fails_changes_nothing(
    owner: Connection, written: Callable[[str], Migration]
) -> None:
    """
    A statement that PostgreSQL refuses takes everything before it in the file back.
    """
    before = catalogue.read(owner)

    with pytest.raises(MigrationFailed, match='_next failed: relation "nowhere" does not exist'):
        runner.apply(owner, written(f"{TABLE} ALTER TABLE nowhere ADD COLUMN colour text;"))

    assert catalogue.read(owner) == before
    assert version_of(owner) == migrations.SCHEMA_VERSION


@pytest.mark.parametrize("text", [TABLE, INDEX], ids=["transactional", "not transactional"])
def test_a_migration_that_was_killed_is_done_by_the_next_run(
    owner: Connection, postgres: Clones, written: Callable[[str], Migration], tmp_path: Path, text: str
) -> None:
    """
    After a kill between any two statements, the next run leads to the same schema as an undisturbed one.
    """
    migration = written(text)
    before = catalogue.read(owner)
    runner.apply(owner, migration)
    wanted = catalogue.read(owner)

    for statements in itertools.count(1):
        with postgres.empty() as url:
            migrations.migrate(url, 7)
            ended = subprocess.run(
                [sys.executable, "-m", "tests.store.killed_migration", url, str(tmp_path), str(statements)],
                cwd=ROOT,
                check=False,
            )
            with connections.connect(url, application_name="test") as connection:
                if ended.returncode == 0:
                    break
                assert ended.returncode == -signal.SIGKILL
                if migration.is_transactional:
                    assert catalogue.read(connection) == before

                runner.apply(connection, migration)

                assert catalogue.read(connection) == wanted
                assert version_of(connection) == migrations.SCHEMA_VERSION + 1
    assert statements > 3


# ---------------------------------------------------------------- a new database


def test_migrating_twice_changes_nothing(empty_database: str) -> None:
    """
    The first run makes the schema, and the second one finds it.
    """
    first = migrations.migrate(empty_database, 7)
    again = migrations.migrate(empty_database, 7)

    assert first == f"made the schema, version {migrations.SCHEMA_VERSION}, with 7 partitions"
    assert "already" in again
    with connections.connect(empty_database, application_name="test") as connection:
        found = migrations.read_installation(connection)
        assert (found.schema_version, found.partitions) == (migrations.SCHEMA_VERSION, 7)
        assert connection.execute("SELECT array_agg(id ORDER BY id) FROM partitions").fetchall() == [
            (list(range(7)),)
        ]


def test_migrations_at_the_same_time_make_one_schema(empty_database: str) -> None:
    """
    One of four processes makes the schema, and the others find it.
    """
    lines = at_once(*[lambda: migrations.migrate(empty_database, 7)] * 4)

    assert sorted(str(line).startswith("made") for line in lines) == [False, False, False, True]


def test_another_number_of_partitions_is_refused(empty_database: str) -> None:
    """
    The number of partitions is fixed by the first run: another one gets one line with both numbers.
    """
    migrations.migrate(empty_database, 7)

    with pytest.raises(SchemaError, match=r"8.*7") as refusal:
        migrations.migrate(empty_database, 8)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("version", "advice"), [(99, "upgrade Teller"), (1, "start with an empty database")])
def test_a_schema_that_cannot_be_migrated_is_refused(
    owner: Connection, empty_database: str, version: int, advice: str
) -> None:
    """
    A database of a newer Teller, or of one before the first release, is not touched; one line gives advice.
    """
    owner.execute("UPDATE installation SET schema_version = %s", (version,))

    for refused in (
        lambda: migrations.read_installation(owner),
        lambda: migrations.migrate(empty_database, 7),
    ):
        with pytest.raises(SchemaError, match=advice) as refusal:
            refused()
        assert "\n" not in str(refusal.value)
    assert version_of(owner) == version


def test_a_database_without_a_schema_is_refused_with_advice(empty_database: str) -> None:
    """
    Before the first run there is one line that names the command.
    """
    with (
        connections.connect(empty_database, application_name="test") as connection,
        pytest.raises(SchemaError, match="run `teller migrate`"),
    ):
        migrations.read_installation(connection)


def test_an_old_server_is_refused_before_anything_is_made(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A PostgreSQL that is too old gets one line, and no table.
    """
    monkeypatch.setattr(runner, "OLDEST_SERVER", 999)

    with pytest.raises(SchemaError, match=r"PostgreSQL \d+ is too old: Teller needs 999 or newer"):
        migrations.migrate(empty_database, 7)

    with connections.connect(empty_database, application_name="test") as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall() == [(0,)]


def test_an_unreachable_server_is_one_line() -> None:
    """
    No server: DatabaseUnavailable with a single line.
    """
    with pytest.raises(DatabaseUnavailable) as fault:
        migrations.migrate("postgresql:///teller?host=/nonexistent", 7)

    assert "\n" not in str(fault.value)
