"""
Accounts: how to reach the person behind one. An account belongs to its client: two clients' `u_42` are two.
"""

from datetime import datetime
from typing import NamedTuple

from processor.records.documents import Document, timestamp
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)


class Account(NamedTuple):
    """An account of a client that somebody has said something about."""

    name: str
    #: None: told by nobody's mail.
    email: str | None
    updated_at: datetime

    def document(self) -> Document:
        """The account as its client sees it."""
        return {"account": self.name, "email": self.email, "updated_at": timestamp(self.updated_at)}


def set_email(connection: Connection, client: str, name: str, email: str | None) -> Account:
    """
    Keep an address that the caller has checked; None takes it away. The one before, if it was another, will be told:
    that is written in the same transaction. Raises DatabaseUnavailable.
    """
    parameters = {
        "client": client,
        "name": name,
        "email": email,
        "became": None if email is None else masked(email),
    }
    with connections.faults(), connection.transaction():
        connection.execute(SQL["lock_account"], parameters)
        [row] = connection.execute(SQL["set_email"], parameters).fetchall()
    return Account(*row)


def masked(email: str) -> str:
    """An address as others may see it: enough to recognise one's own, too little to write to it."""
    local, _, host = email.rpartition("@")
    name, _, top = host.rpartition(".")
    return f"{local[0]}***@{name[0]}***.{top}" if name else f"{local[0]}***@{top[0]}***"


def read(connection: Connection, client: str, name: str) -> Account | None:
    """What is known of an account; None: nothing. Raises DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_account"], {"client": client, "name": name}).fetchone()
    return None if row is None else Account(*row)
