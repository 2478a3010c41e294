"""
The schema of the database and its version: made by `teller migrate`, checked by every process at its start.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from processor.errors import SchemaError
from processor.storage import connections
from processor.storage.connections import Connection

#: The schema that this code works with; `schema.sql` describes it.
SCHEMA_VERSION: Final = 2
#: The oldest PostgreSQL that has what the queries use.
OLDEST_SERVER: Final = 15
#: First half of the advisory lock that lets one migration run at a time.
MIGRATION_LOCK: Final = 0x7E11E5
#: How many partitions a database may have.
MOST_PARTITIONS: Final = 1024


@dataclass(frozen=True, slots=True)
class Installation:
    """What `teller migrate` fixed for ever in this database."""

    schema_version: int
    partitions: int


def migrate(url: str, partitions: int) -> str:
    """
    Bring the database to SCHEMA_VERSION; does nothing when it is there. Returns one line that says
    what was done.

    Raises SchemaError when the server is too old, or the database belongs to a newer Teller or has
    another number of partitions; DatabaseUnavailable when it cannot be reached.
    """
    with (
        connections.connect(url, application_name="teller migrate") as connection,
        connections.faults(),
        connection.transaction(),
    ):
        server = connection.info.server_version // 10_000
        if server < OLDEST_SERVER:
            raise SchemaError(f"PostgreSQL {server} is too old: Teller needs {OLDEST_SERVER} or newer")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        if _is_migrated(connection):
            check_partitions(read_installation(connection), partitions)
            return f"the schema is at version {SCHEMA_VERSION} already; {partitions} partitions"
        connection.execute(_schema(partitions))
        return f"made the schema, version {SCHEMA_VERSION}, with {partitions} partitions"


def _schema(partitions: int) -> bytes:
    text = (Path(__file__).resolve().parents[2] / "schema.sql").read_text()
    return (
        text.replace(":partitions", str(partitions)).replace(":schema_version", str(SCHEMA_VERSION)).encode()
    )


def _is_migrated(connection: Connection) -> bool:
    return connection.execute("SELECT to_regclass('installation') IS NOT NULL").fetchall() == [(True,)]


def read_installation(connection: Connection) -> Installation:
    """
    Which schema the database has. Raises SchemaError when it has none, an older or a newer one.
    """
    if not _is_migrated(connection):
        raise SchemaError("the database has no Teller schema yet: run `teller migrate`")
    [(version, partitions)] = connection.execute(
        "SELECT schema_version, partitions FROM installation"
    ).fetchall()
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"the database has schema version {version}, newer than this Teller's {SCHEMA_VERSION}: upgrade Teller"
        )
    if version < SCHEMA_VERSION:
        raise SchemaError(
            f"the database has schema version {version}, of a Teller before its first release, and this one needs"
            f" {SCHEMA_VERSION}: start with an empty database (without DATABASE_URL: with another TELLER_HOME)"
        )
    return Installation(version, partitions)


def check_partitions(installation: Installation, partitions: int) -> None:
    """Refuse settings that contradict the database. Raises SchemaError."""
    if installation.partitions != partitions:
        raise SchemaError(
            f"TELLER_PARTITIONS is {partitions}, but this database was made with {installation.partitions}:"
            " the number is fixed for the life of a database"
        )
