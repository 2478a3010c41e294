"""
Accounts: the e-mail address of the person behind each. An account belongs to its client: two clients' `u_42` are two.
"""

from datetime import datetime
from typing import Final, NamedTuple

from processor.clients.keys import Caller
from processor.records import audit
from processor.records.documents import Document, timestamp
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The time after a change of an address in which codes still go to the address before, in seconds. Its owner learns
#: of the change by mail at once.
PROTECTED_SECONDS: Final = 86_400.0
#: A change is quick if the address before stood for less time, in seconds.
STOOD_SECONDS: Final = 600.0
#: The quick changes of an account in an hour that are notified.
QUICK_NOTICES_PER_HOUR: Final = 3

SQL = statements.beside(__file__)


class Account(NamedTuple):
    """An account of a client, with its e-mail address."""

    name: str
    #: None: its requests send no mail.
    email: str | None
    updated_at: datetime
    #: Until then, codes go to the address before the last changes. None: they go to `email`.
    codes_to_previous_until: datetime | None

    def document(self) -> Document:
        """Return the account as its client sees it."""
        return {
            "account": self.name,
            "email": self.email,
            "updated_at": timestamp(self.updated_at),
            "codes_to_previous_until": timestamp(self.codes_to_previous_until),
        }


def set_email(connection: Connection, name: str, email: str | None, by: Caller) -> Account:
    """
    Set the address of an account of the caller's client, or remove it. The address was checked before.

    The same transaction writes a notice to the previous address, if that was another, and an operator's audit line.
    Quick changes back and forth write a limited number of notices.
    For PROTECTED_SECONDS codes still go to the previous address.
    Raises DatabaseUnavailable.
    """
    parameters = {
        "client": by.client,
        "name": name,
        "email": email,
        "became": None if email is None else masked(email),
        "protected_seconds": PROTECTED_SECONDS,
        "stood_seconds": STOOD_SECONDS,
        "quick_notices": QUICK_NOTICES_PER_HOUR,
    }
    with connections.faults(), connection.transaction():
        connection.execute(SQL["lock_account"], parameters)
        [row] = connection.execute(SQL["set_email"], parameters).fetchall()
        if by.is_operator:
            detail = {"client": by.client, "account": name, "email": parameters["became"]}
            audit.note(connection, by.actor, "account_email_set", None, None, detail)
    return Account(*row)


def masked(email: str) -> str:
    """Mask an address: its owner recognises it, and others cannot write to it."""
    local, _, host = email.rpartition("@")
    name, _, top = host.rpartition(".")
    return f"{local[0]}***@{name[0]}***.{top}" if name else f"{local[0]}***@{top[0]}***"


def read(connection: Connection, client: str, name: str) -> Account | None:
    """Return an account of a client, or None if none has an address. Raises DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_account"], {"client": client, "name": name}).fetchone()
    return None if row is None else Account(*row)
