"""
The schema of the database: created from `schema.sql`, or migrated by the numbered SQL files in this folder.

`migrate` brings a database to SCHEMA_VERSION. Every process reads the installation at its start, with
`read_installation`. `docs/decisions/0010-migrations.md` says how to write a migration.
"""

from processor.storage.migrations.installation import (
    SCHEMA_VERSION,
    Installation,
    check_partitions,
    read_installation,
)
from processor.storage.migrations.runner import migrate

__all__ = [
    "SCHEMA_VERSION",
    "Installation",
    "check_partitions",
    "migrate",
    "read_installation",
]
