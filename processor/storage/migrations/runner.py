"""
Runs `schema.sql` on an empty database, and migrations on an older one.

Every lock is waited for only briefly, because all other work queues up behind the wait. A migration that does not get
its locks is rolled back and tried again after a pause.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable

from processor.errors import DatabaseUnavailable, MigrationFailed, SchemaError
from processor.storage import connections, repairs
from processor.storage.connections import Connection
from processor.storage.migrations import files
from processor.storage.migrations.files import Migration
from processor.storage.migrations.installation import (
    SCHEMA_VERSION,
    check_partitions,
    is_created,
    read_migratable,
)

#: The oldest PostgreSQL that has the features that the statements use.
OLDEST_SERVER: Final = 15
#: The advisory lock that lets one `migrate` run at a time.
MIGRATION_LOCK: Final = 0x7E11E5
#: Seconds that a migration waits for one lock: less than the 3 s in which the API answers.
LOCK_TIMEOUT_SECONDS: Final = 2.0
#: Tries of one migration that does not get its locks.
TRIES_MAX: Final = 15
#: Seconds between two tries, in which the work that queued up is done.
PAUSE_SECONDS: Final = 2.0

#: Seconds between two looks whether another `migrate` has ended.
WAIT_SECONDS: Final = 0.1

#: The beginning of the title of a section of schema.sql.
_SECTION: Final = "-- " + "-" * 64
_SCHEMA: Final = Path(__file__).resolve().parents[3] / "schema.sql"


def migrate(
    url: str,
    partitions: int,
    on_applied: Callable[[str], None] = lambda _: None,
    on_repaired: Callable[[str], None] = lambda _: None,
) -> str:
    """
    Bring the database to SCHEMA_VERSION, and repair what a restore or a move has left behind.

    Calls `on_applied` with the name of each migration after it was applied, and `on_repaired` with a line about each
    repair of a database that was there already.

    Returns one line that describes the result. Raises SchemaError when the server is too old, or the database belongs
    to a newer Teller or has another number of partitions; MigrationFailed; DatabaseUnavailable.
    """
    with (
        connections.connect(url, application_name="teller migrate") as guard,
        connections.connect(url, application_name="teller migrate") as connection,
        connections.faults(),
        guard.transaction(),
    ):
        server = connection.info.server_version // 10_000
        if server < OLDEST_SERVER:
            raise SchemaError(f"PostgreSQL {server} is too old: Teller needs {OLDEST_SERVER} or newer")
        # Held by a second connection, because a statement that is not transactional needs the first one without one.
        while not _is_locked(guard):
            time.sleep(WAIT_SECONDS)
        if not is_created(connection):
            with connection.transaction():
                connection.execute(_schema(partitions))
            repairs.repair(connection, _grants())
            return f"made the schema, version {SCHEMA_VERSION}, with {partitions} partitions"
        before = read_migratable(connection)
        check_partitions(before, partitions)
        for migration in files.read():
            if migration.version > before.schema_version:
                apply(connection, migration)
                on_applied(migration.name)
        for line in repairs.repair(connection, _grants()):
            on_repaired(line)
        if before.schema_version == SCHEMA_VERSION:
            return f"the schema is at version {SCHEMA_VERSION} already; {partitions} partitions"
        return f"migrated the schema from version {before.schema_version} to {SCHEMA_VERSION}"


def _is_locked(guard: Connection) -> bool:
    """
    Lock against other runs of `migrate` until the transaction of `guard` ends. Returns whether it succeeded.

    A guard keeps no snapshot, since CREATE INDEX CONCURRENTLY waits for older ones. So it does not wait inside a
    statement, and its last statement is one without a snapshot.
    """
    [(is_locked,)] = guard.execute("SELECT pg_try_advisory_xact_lock(%s)", (MIGRATION_LOCK,)).fetchall()
    guard.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    return bool(is_locked)


def apply(connection: Connection, migration: Migration) -> None:
    """
    Apply one migration to a database of the version before; a database of a later version stays as it is.

    Raises MigrationFailed if it did not get its locks in TRIES_MAX tries or a statement failed; DatabaseUnavailable.
    """
    for number in range(1, TRIES_MAX + 1):
        try:
            if migration.is_transactional:
                _apply_at_once(connection, migration)
            else:
                _apply_step_by_step(connection, migration)
        except (LockNotAvailable, DeadlockDetected) as fault:
            if number == TRIES_MAX:
                raise MigrationFailed(
                    f"migration {migration.name} did not get its locks in {TRIES_MAX} tries"
                    f" ({connections.first_line(fault)}): run `teller migrate` again when the database is less busy"
                ) from fault
            time.sleep(PAUSE_SECONDS)
        except psycopg.ProgrammingError as fault:  # a missing table is no fault of the infrastructure here
            line = connections.first_line(fault)
            raise MigrationFailed(f"migration {migration.name} failed: {line}") from fault
        except connections.INFRASTRUCTURE as fault:
            line = connections.first_line(fault)
            raise DatabaseUnavailable(f"migration {migration.name} was interrupted: {line}") from fault
        except psycopg.Error as fault:
            line = connections.first_line(fault)
            raise MigrationFailed(f"migration {migration.name} failed: {line}") from fault
        else:
            return


def _apply_at_once(connection: Connection, migration: Migration) -> None:
    with connection.transaction():
        _limit_lock_waits(connection, is_local=True)
        if _advance(connection, migration.version):
            connection.execute(migration.text.encode())


def _apply_step_by_step(connection: Connection, migration: Migration) -> None:
    if connection.prepare_threshold is not None:  # behind a pooler, the limit would stay with another session
        _limit_lock_waits(connection, is_local=False)
    if connection.execute("SELECT schema_version FROM installation").fetchall() != [(migration.version - 1,)]:
        return
    for statement in migration.statements().values():
        connection.execute(statement.encode())
    _advance(connection, migration.version)


def _limit_lock_waits(connection: Connection, *, is_local: bool) -> None:
    connection.execute(
        "SELECT set_config('lock_timeout', %s, %s)", (f"{LOCK_TIMEOUT_SECONDS * 1000:.0f}ms", is_local)
    )


def _advance(connection: Connection, version: int) -> bool:
    """
    Set the schema version, if it is the one before. Returns whether it was.
    """
    updated = connection.execute(
        "UPDATE installation SET schema_version = %s WHERE schema_version = %s", (version, version - 1)
    )
    return updated.rowcount == 1


def _grants() -> str:
    """Return the part of schema.sql that makes the roles and grants their rights."""
    _, _, rest = _SCHEMA.read_text().partition(f"{_SECTION} roles and grants\n")
    return rest.partition(_SECTION)[0]


def _schema(partitions: int) -> bytes:
    text = _SCHEMA.read_text()
    return (
        text.replace(":partitions", str(partitions)).replace(":schema_version", str(SCHEMA_VERSION)).encode()
    )
