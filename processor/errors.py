"""
The exceptions of Teller.

A business "no" is not an exception, but a value (`decisions.Rejected`). Only the API maps an error to an HTTP status,
in `api/web/problems.py` and beside the routes of each noun. The command line prints the message as one line.
"""

from uuid import UUID


class TellerError(Exception):
    """
    Base of all errors whose message is one clear line for a person. `code` is stable and snake_case.
    """

    code = "error"
    #: Seconds after which the same call may be tried again; None: the default of the API.
    retry_after_seconds: int | None = None


class SettingsError(TellerError):
    """
    An environment variable has an invalid value; the message names it.
    """

    code = "settings_invalid"


class SchemaError(TellerError):
    """
    The database is not migrated, or belongs to another Teller.
    """

    code = "schema_mismatch"


class MigrationFailed(TellerError):
    """
    A migration was rolled back, or stopped between two statements; the message names it.
    """

    code = "migration_failed"


class DatabaseUnavailable(TellerError):
    """
    PostgreSQL cannot be reached, or did not answer in time. A transaction in progress may have been committed or not.
    """

    code = "database_unavailable"


class DatabaseUnsafe(DatabaseUnavailable):
    """
    A setting of PostgreSQL breaks a promise; the message names it. No process starts with it.
    """

    code = "database_unsafe"


class Forbidden(TellerError):
    """The role of the caller does not allow this."""

    code = "forbidden"


class RequestNotFound(TellerError):
    """No request that the caller may see has this id."""

    code = "not_found"

    def __init__(self, request_id: UUID) -> None:
        super().__init__(f"there is no request {request_id}")


class Archived(TellerError):
    """The request, or the time of a resource, has left the database for a file of the archive."""

    code = "archived"

    def __init__(self, message: str, archive: str | None) -> None:
        super().__init__(message)
        #: The name of the file; None: the entries of a time are in several.
        self.archive = archive


class IdempotencyKeyReused(TellerError):
    """
    The idempotency key was used before, with another body.
    """

    code = "idempotency_key_reused"


class PartitionSaturated(TellerError):
    """
    The backlog of a partition has reached its limit.
    """

    code = "partition_saturated"


class ServerError(TellerError):
    """
    An embedded server does not start, or another Teller uses the home; the message names the cause.
    """

    code = "server_unavailable"
