"""
The one row of `installation`: the schema version of a database, and its number of partitions.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from processor.errors import SchemaError
from processor.storage.connections import Connection
from processor.storage.migrations import files

#: The schema version that this code needs, of the newest migration file; `schema.sql` describes it.
SCHEMA_VERSION: Final = files.newest_version()
#: Whether new rows of the inbox get numbers that no batch looks at, or that lie before those of older rows. So it is
#: after logical replication, which copies no sequences.
_IS_BEHIND: Final = """
SELECT last_value < (SELECT max(greatest(low_water, next_low_water,
                                         (SELECT seq FROM inbox WHERE partition = p.id ORDER BY seq DESC LIMIT 1)))
                       FROM partitions p)
  FROM inbox_seq_seq
"""
#: The oldest schema version that can be migrated.
OLDEST_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Installation:
    """
    The row of `installation`; the number of partitions never changes.
    """

    schema_version: int
    partitions: int
    #: The names in Redis carry it. A schema older than it has zero.
    id: UUID


def is_created(connection: Connection) -> bool:
    """
    Return whether the database has a Teller schema of any version.
    """
    return connection.execute("SELECT to_regclass('installation') IS NOT NULL").fetchall() == [(True,)]


def read_installation(connection: Connection) -> Installation:
    """
    Return the installation of a database that has this code's schema version.

    Raises SchemaError if the database has no schema, an older one or a newer one, or was moved without its sequences.
    """
    if not is_created(connection):
        raise SchemaError("the database has no Teller schema yet: run `teller migrate`")
    found = read_migratable(connection)
    if found.schema_version < SCHEMA_VERSION:
        raise SchemaError(
            f"the database has schema version {found.schema_version}, and this Teller needs {SCHEMA_VERSION}:"
            " run `teller migrate`"
        )
    if connection.execute(_IS_BEHIND).fetchall() == [(True,)]:
        raise SchemaError(
            "the sequence of the inbox lies behind its data, so new requests would be overtaken or never decided:"
            " run `teller migrate`"
        )
    return found


def read_migratable(connection: Connection) -> Installation:
    """
    Return the installation of a database that `migrate` can bring to SCHEMA_VERSION.

    Raises SchemaError if its schema version is newer, or older than OLDEST_VERSION.
    """
    [(version, partitions, installation_id)] = connection.execute(
        "SELECT schema_version, partitions, to_jsonb(installation) ->> 'id' FROM installation"
    ).fetchall()
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"the database has schema version {version}, newer than this Teller's {SCHEMA_VERSION}: upgrade Teller"
        )
    if version < OLDEST_VERSION:
        raise SchemaError(
            f"the database has schema version {version}, which cannot be migrated: start with an empty database"
            " (if DATABASE_URL is not set, with another TELLER_HOME)"
        )
    return Installation(version, partitions, UUID(installation_id) if installation_id else UUID(int=0))


def check_partitions(installation: Installation, partitions: int) -> None:
    """
    Compare TELLER_PARTITIONS with the database. Raises SchemaError if they differ.
    """
    if installation.partitions != partitions:
        raise SchemaError(
            f"TELLER_PARTITIONS is {partitions}, but this database was made with {installation.partitions}:"
            " the number is fixed for the life of a database"
        )
