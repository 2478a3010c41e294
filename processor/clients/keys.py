"""
API keys, and the clients they belong to.

A key is shown once, when it is made. The database keeps its SHA-256. A key has 256 random bits, so a plain digest
is enough. Each change writes its audit line in the same transaction.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args
from uuid import UUID

from processor.errors import TellerError
from processor.ids import new_id
from processor.records import audit
from processor.records.documents import Document, timestamp
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)

Role = Literal["client", "operator", "admin"]

#: The prefix of each key, by which people and secret scanners recognise it.
PREFIX: Final = "teller_"
#: Random bytes in a key; base64 makes 43 characters of them.
KEY_BYTES: Final = 32
#: The longest name of a key.
NAME_CHARACTERS_MAX: Final = 128
#: The longest life of a key that expires: ten years.
LIFETIME_MAX: Final = timedelta(days=3652)
#: The least time between two writes of a key's last use.
USE_PAUSE: Final = timedelta(minutes=1)

_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}", re.ASCII)


class KeyMade(TellerError):
    """The form made its key before. The key itself is shown once only."""

    code = "key_made"


class KeyRefused(TellerError):
    """The key cannot be made; the message gives the reason."""

    code = "key_refused"


class KeyNotFound(TellerError):
    """No key has this id."""

    code = "key_not_found"


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key. `key` is the secret, which is readable only here."""

    id: UUID
    client: str
    name: str
    role: Role
    key: str = field(repr=False)
    expires_at: datetime | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON of the command line. `expires_at` is in it only if the key expires."""
        document = {
            "id": str(self.id),
            "client": self.client,
            "name": self.name,
            "role": self.role,
            "key": self.key,
        }
        return document | ({"expires_at": timestamp(self.expires_at)} if self.expires_at else {})


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret."""

    id: UUID
    client: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    #: Exact to the minute.
    last_used_at: datetime | None

    def document(self) -> dict[str, Any]:
        """Return the JSON of the command line."""
        return {
            "id": str(self.id),
            "client": self.client,
            "name": self.name,
            "role": self.role,
            "created_at": timestamp(self.created_at),
            "expires_at": timestamp(self.expires_at),
            "revoked_at": timestamp(self.revoked_at),
            "last_used_at": timestamp(self.last_used_at),
        }


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid key, who calls the API, the console or the command line."""

    key_id: UUID
    client: str
    name: str
    role: Role

    @property
    def is_operator(self) -> bool:
        """Whether it has the role operator or admin."""
        return self.role != "client"

    @property
    def sees(self) -> str | None:
        """The client whose objects it sees. None: those of all clients, for operators and admins."""
        return self.client if self.role == "client" else None

    @property
    def actor(self) -> str:
        """The name in histories and in the audit."""
        return f"{self.client} ({self.role} {self.name})"


def create_key(
    connection: Connection,
    name: str,
    role: str,
    client_id: str | None = None,
    *,
    lifetime: timedelta | None = None,
    actor: str = "command line",
    key_id: UUID | None = None,
) -> CreatedKey:
    """
    Make a key of an existing client, or with a client of its own.

    The key is valid for its lifetime, or until it is revoked. `key_id` is the id of a form, which makes one key.

    Raises KeyRefused, KeyMade, DatabaseUnavailable.
    """
    if role not in get_args(Role):
        raise KeyRefused(f"there is no role {role}: it is client, operator or admin")
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise KeyRefused(f"a key's name has 1 to {NAME_CHARACTERS_MAX} printable characters")
    if lifetime is not None and not timedelta(0) < lifetime <= LIFETIME_MAX:
        raise KeyRefused(f"the life of a key is more than nothing and at most {LIFETIME_MAX.days} days")
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    client = client_id if client_id is not None else f"client-{secrets.token_hex(6)}"
    key_id = key_id or new_id()
    with connections.faults(), connection.transaction():
        if connection.execute(SQL["find_key_of_id"], {"id": key_id}).fetchall():
            raise KeyMade("this key was made already")
        if client_id is None:
            connection.execute(SQL["insert_client"], {"id": client})
        elif not connection.execute(SQL["find_client"], {"id": client}).fetchall():
            raise KeyRefused(f"there is no client {client!r}: leave --client out to make one")
        parameters = {
            "id": key_id,
            "client": client,
            "name": name,
            "role": role,
            "digest": digest_of(key),
            "lifetime": lifetime,
        }
        [(expires_at,)] = connection.execute(SQL["insert_key"], parameters).fetchall()
        created = CreatedKey(key_id, client, name, role, key, expires_at)  # type: ignore[arg-type]  # checked above
        detail: Document = {"key": str(key_id), "client": client, "name": name, "role": role}
        if expires_at is not None:
            detail["expires_at"] = timestamp(expires_at)
        audit.note(connection, actor, "key_created", None, None, detail)
    return created


def revoke_key(
    connection: Connection, key_id: UUID, *, actor: str = "command line", reason: str | None = None
) -> bool:
    """
    Revoke a key. It stops working within a second.

    Returns whether it was valid until now. Raises KeyNotFound, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        rows = connection.execute(SQL["revoke_key"], {"id": key_id}).fetchall()
        if not rows:
            raise KeyNotFound(f"there is no key {key_id}")
        [(was_valid,)] = rows
        if was_valid:
            audit.note(connection, actor, "key_revoked", None, reason, {"key": str(key_id)})
    return bool(was_valid)


def authenticate(connection: Connection, digest: bytes) -> Caller | None:
    """Return the holder of the key with this digest, or None if no valid key has it."""
    row = connection.execute(SQL["find_key"], {"digest": digest}).fetchone()
    if row is None or not hmac.compare_digest(row[4], digest):
        return None
    return Caller(*row[:4])


def authenticate_all(connection: Connection, digests: Collection[bytes]) -> dict[bytes, Caller]:
    """
    Return the holders of those keys that are valid, by digest. The digests are of keys that were valid before.

    Raises DatabaseUnavailable.
    """
    with connections.faults():
        rows = connection.execute(SQL["find_keys"], {"digests": list(digests)}).fetchall()
    return {row[4]: Caller(*row[:4]) for row in rows}


def note_uses(connection: Connection, key_ids: Collection[UUID]) -> None:
    """Note that these keys were used. A busy key costs one write a minute. Raises DatabaseUnavailable."""
    with connections.faults():
        connection.execute(SQL["note_uses"], {"ids": list(key_ids), "pause": USE_PAUSE})


def digest_of(key: str) -> bytes:
    """Return the SHA-256 of a key, which the database keeps."""
    return hashlib.sha256(key.encode()).digest()


def looks_like_key(text: str) -> bool:
    """Return whether a text has the form of a key."""
    return _KEY.fullmatch(text) is not None
