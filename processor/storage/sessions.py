"""
The settings of a session: set by itself where the session is its own, set with the role behind a pooler.
"""

from typing import Any, Final

import psycopg

from processor.errors import DatabaseUnsafe
from processor.storage import statements

#: The settings of each role in its database, for sessions behind a pooler. `migrate` writes them.
ROLE_SETTINGS: Final = {
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "datestyle": "ISO, MDY",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "client_min_messages": "warning",
}
#: Their statement timeouts, in milliseconds. A batch sets its own in its transaction.
ROLE_TIMEOUTS_MS: Final = {"teller_api": 2_500, "teller_worker": 5_000, "teller_courier": 5_000}

SQL = statements.beside(__file__)


def begin(connection: psycopg.Connection[Any], *, is_pooled: bool, statement_timeout_ms: int | None) -> None:
    """
    Set the settings of a new connection, and check them.

    A pooler gives its own process id in place of the server's. Behind one, no statement is prepared by name, because
    another session may get it. Raises DatabaseUnsafe, psycopg.Error.
    """
    rows = connection.execute(
        SQL["begin_session"],
        {
            "backend_pid": connection.info.backend_pid,
            "is_pooled": is_pooled,
            "statement_timeout_ms": statement_timeout_ms or 0,
        },
    ).fetchall()
    for is_own, is_fixed, name, value, found, _ in rows:
        if not is_own:
            connection.prepare_threshold = None
        if found == value:
            continue
        if is_fixed:
            raise DatabaseUnsafe(f"the setting {name} of PostgreSQL is {found}, and Teller needs {value}")
        user = connection.info.user
        remedy = (
            "run `teller migrate`"
            if user in ROLE_TIMEOUTS_MS
            else f"ALTER ROLE {user} SET {name} = '{value}'"
        )
        raise DatabaseUnsafe(
            f"behind a pooler, the setting {name} of the role {user} is {found}, and Teller needs {value}: {remedy}"
        )
