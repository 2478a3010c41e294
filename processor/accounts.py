"""
Accounts: how to reach the person behind one. An account belongs to its client: two clients' `u_42` are two.
"""

from datetime import datetime
from typing import NamedTuple

from processor import database
from processor.database import Connection
from processor.records import Document, timestamp

SQL = database.queries("accounts")


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
    """Keep an address that the caller has checked; None takes it away. Raises DatabaseUnavailable."""
    parameters = {"client": client, "name": name, "email": email}
    with database.faults():
        [row] = connection.execute(SQL["set_email"], parameters).fetchall()
    return Account(*row)


def read(connection: Connection, client: str, name: str) -> Account | None:
    """What is known of an account; None: nothing. Raises DatabaseUnavailable."""
    with database.faults():
        row = connection.execute(SQL["read_account"], {"client": client, "name": name}).fetchone()
    return None if row is None else Account(*row)
