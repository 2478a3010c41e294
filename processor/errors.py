"""
What can go wrong, as Teller's own exceptions.

A business "no" is never here: it is a value (`model.Rejected`). `api/web/problems.py` alone knows which
HTTP status an error becomes; the command line prints the message as one line.
"""


class TellerError(Exception):
    """
    Base of all errors that say one clear line to a person. `code` is stable and snake_case.
    """

    code = "error"
    #: For what is refused for now: after so many seconds it may be tried again. None: as long as for all others.
    retry_after_seconds: int | None = None


class SettingsError(TellerError):
    """An environment variable makes no sense; the message names it."""

    code = "settings_invalid"


class SchemaError(TellerError):
    """The database is not migrated, or belongs to another Teller."""

    code = "schema_mismatch"


class MigrationFailed(TellerError):
    """
    A migration was rolled back, or stopped between two statements; the message names it.
    """

    code = "migration_failed"


class DatabaseUnavailable(TellerError):
    """PostgreSQL cannot be reached or did not answer in time. Nothing is known about what was under way."""

    code = "database_unavailable"


class IdempotencyKeyReused(TellerError):
    """The idempotency key was used before, with another body."""

    code = "idempotency_key_reused"


class PartitionSaturated(TellerError):
    """A partition has as much waiting as it may have."""

    code = "partition_saturated"


class ServerError(TellerError):
    """An embedded server does not start, or another Teller has the home; the line says which."""

    code = "server_unavailable"
