"""
Repairs of a database that was restored, copied or moved: what belongs to it and is in no dump.

`migrate` runs them each time. Each repair writes only what is wrong, so a second run changes nothing.
"""

from collections.abc import Iterator
from typing import Final

from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from processor.storage import database_rights, sessions, statements
from processor.storage.connections import Connection

SQL: Final = statements.beside(__file__)


def repair(connection: Connection) -> list[str]:
    """
    Repair what is wrong. Returns a line for each repair, and for each one that the owner has no right to.
    """
    return [*_role_settings(connection), *database_rights.guard(connection)]


def _role_settings(connection: Connection) -> Iterator[str]:
    """
    Set the settings of the roles in this database, for sessions behind a pooler.
    """
    [(database,)] = connection.execute(SQL["read_database"]).fetchall()
    roles = {"roles": list(sessions.ROLE_TIMEOUTS_MS)}
    for role, found in connection.execute(SQL["read_role_settings"], roles).fetchall():
        needed = sessions.ROLE_SETTINGS | {"statement_timeout": f"{sessions.ROLE_TIMEOUTS_MS[role]}ms"}
        present = {name.lower(): value for name, _, value in (line.partition("=") for line in found)}
        wrong = {name: value for name, value in needed.items() if present.get(name) != value}
        if not wrong:
            continue
        try:
            with connection.transaction():
                for name, value in wrong.items():
                    connection.execute(
                        sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}").format(
                            sql.Identifier(role),
                            sql.Identifier(database),
                            sql.Identifier(name),
                            sql.Literal(value),
                        )
                    )
        except InsufficientPrivilege:
            yield (
                f"the settings of the role {role} are not set, because the owner has no right to: behind a pooler,"
                f" let a superuser run `teller migrate`"
            )
        else:
            yield f"set the settings of the role {role}: {', '.join(wrong)}"
