"""
Repairs of a database that was restored, copied or moved: settings that no dump has, and numbers behind the data.

`migrate` runs them each time. Each repair writes only what is wrong, so a second run changes nothing.
"""

from collections.abc import Iterator
from typing import Final

from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from psycopg.types.json import Jsonb

from processor.storage import database_rights, sessions, statements
from processor.storage.connections import LOCK_CLASS, Connection

SQL: Final = statements.beside(__file__)
ROLES: Final = {"roles": list(sessions.ROLE_TIMEOUTS_MS)}


def repair(connection: Connection, grants: str) -> list[str]:
    """
    Repair what is wrong. Returns a line for each repair, and for each one that the owner has no right to.

    `grants` makes the roles and grants their rights, as schema.sql does.
    """
    return [
        *_rights(connection, grants),
        *_role_settings(connection),
        *database_rights.guard(connection),
        *_sequences(connection),
        *_marks(connection),
        *_identity(connection),
    ]


def _rights(connection: Connection, grants: str) -> Iterator[str]:
    """Make the roles and their rights, if any are missing, as after a restore without them."""
    with connection.transaction():
        before = connection.execute(SQL["read_rights"], ROLES).fetchall()
        connection.execute(grants.encode())
        if connection.execute(SQL["read_rights"], ROLES).fetchall() != before:
            yield "made the missing roles and rights"


def _role_settings(connection: Connection) -> Iterator[str]:
    """Set the settings of the roles in this database, for sessions behind a pooler."""
    [(database,)] = connection.execute(SQL["read_database"]).fetchall()
    for role, found in connection.execute(SQL["read_role_settings"], ROLES).fetchall():
        needed = sessions.ROLE_SETTINGS | {"statement_timeout": f"{sessions.ROLE_TIMEOUTS_MS[role]}ms"}
        present = {name.lower(): value for name, _, value in (line.partition("=") for line in found)}
        wrong = {name: value for name, value in needed.items() if present.get(name) != value}
        if not wrong:
            continue
        change = sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}")
        try:
            with connection.transaction():
                for name, value in wrong.items():
                    names = map(sql.Identifier, (role, database, name))
                    connection.execute(change.format(*names, sql.Literal(value)))
        except InsufficientPrivilege:
            yield (
                f"the settings of the role {role} are not set, because the owner has no right to: behind a pooler,"
                " let a superuser run `teller migrate`"
            )
        else:
            yield f"set the settings of the role {role}: {', '.join(wrong)}"


def _sequences(connection: Connection) -> Iterator[str]:
    """Advance sequences that lie behind the data, as after logical replication, which copies none."""
    [(mark,)] = connection.execute(SQL["read_greatest_mark"]).fetchall()
    for table, column, sequence in connection.execute(SQL["read_sequences"]).fetchall():
        greatest = sql.SQL("SELECT greatest(max({}), {}) FROM {}").format(
            sql.Identifier(column), sql.Literal(mark if table == "inbox" else 0), sql.Identifier(table)
        )
        [(number,)] = connection.execute(greatest).fetchall()
        [(last,)] = connection.execute(
            sql.SQL("SELECT last_value FROM {}").format(sql.SQL(sequence))
        ).fetchall()
        if number > last:
            connection.execute("SELECT setval(%s, %s)", (sequence, number))
            yield f"advanced the numbers of {table} from {last} to {number}"


def _marks(connection: Connection) -> Iterator[str]:
    """
    Reset low-water marks that hide rows of the inbox, and give those rows new numbers, in the order of acceptance.

    Resets marks that wait for a transaction of another cluster, too.
    """
    with connection.transaction():
        connection.execute(SQL["lock_inbox"])
        locked = connection.execute(SQL["read_wrong_marks"], {"lock_class": LOCK_CLASS}).fetchall()
        wrong = {"partitions": [partition for partition, _ in locked]}
        below = connection.execute(SQL["read_rows_below"], wrong).fetchall()
        for partition, seq, _ in below:
            places = connection.execute(SQL["renumber"], {"partition": partition, "seq": seq}).fetchall()
            for *columns, payload in places:
                connection.execute(
                    SQL["place_again"], (*columns, None if payload is None else Jsonb(payload))
                )
        if locked:
            connection.execute(SQL["reset_marks"], wrong)
            yield f"reset the low-water marks of {len(locked)} partitions, which hid {len(below)} rows of the inbox"


def _identity(connection: Connection) -> Iterator[str]:
    """
    Give a copy of a database an id of its own, so that it shares no names in Redis with the first one.

    A physical copy looks like the first. So does any copy where the owner may not read the cluster's identity.
    """
    [(is_readable,)] = connection.execute(SQL["may_read_cluster"]).fetchall()
    if not is_readable:
        return
    [(made_in, here)] = connection.execute(SQL["read_place"]).fetchall()
    if made_in == here:
        return
    connection.execute(SQL["set_place" if made_in is None else "set_place_and_id"], {"here": here})
    if made_in is not None:
        yield "gave this copy of a database names of its own in Redis"
