"""
Rights of the roles that belong to the database, and not to its schema: temporary tables and large objects.
"""

from processor.storage import statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)


def guard(connection: Connection) -> list[str]:
    """
    Revoke them, as far as the owner of the connection may. Returns a line for each kind that remains.
    """
    connection.execute(SQL["guard"])
    return [
        f"roles can make {made}, because the owner has no right to revoke it"
        for (made,) in connection.execute(SQL["unguarded"])
    ]
