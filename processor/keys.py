"""
API keys and the clients they belong to: made, listed, revoked, recognised.

A key is shown once, when it is made; the database keeps its SHA-256. The key has 256 bits of chance, so a plain
digest is enough: there is nothing to guess. Each act leaves a line in the audit, in the same transaction.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID

from psycopg.types.json import Jsonb

from processor import database
from processor.database import Connection
from processor.errors import TellerError
from processor.ids import new_id
from processor.records import timestamp

SQL = database.queries("keys")

Role = Literal["client", "operator", "admin"]

#: What a key begins with, so that people and secret scanners recognise it.
PREFIX: Final = "teller_"
#: Bytes of chance in a key; base64 makes 43 characters of them.
KEY_BYTES: Final = 32
#: A key's name has at most so many characters.
NAME_CHARACTERS_MAX: Final = 128

_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}", re.ASCII)


class KeyRefused(TellerError):
    """A key that cannot be made as asked; the message says why."""

    code = "key_refused"


class KeyNotFound(TellerError):
    """There is no key of this id."""

    code = "key_not_found"


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key; `key` is the secret, told this once."""

    id: UUID
    client: str
    name: str
    role: Role
    key: str

    def document(self) -> dict[str, str]:
        """What the command line prints as JSON."""
        return {
            "id": str(self.id),
            "client": self.client,
            "name": self.name,
            "role": self.role,
            "key": self.key,
        }


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was made, without its secret."""

    id: UUID
    client: str
    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None

    def document(self) -> dict[str, Any]:
        """What the command line prints as JSON."""
        return {
            "id": str(self.id),
            "client": self.client,
            "name": self.name,
            "role": self.role,
            "created_at": timestamp(self.created_at),
            "revoked_at": timestamp(self.revoked_at),
        }


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a valid key says it is."""

    key_id: UUID
    client: str
    name: str
    role: Role

    @property
    def sees(self) -> str | None:
        """Whose things it sees: its own client's, or, for those who run Teller, everybody's (None)."""
        return self.client if self.role == "client" else None

    @property
    def actor(self) -> str:
        """What histories and the audit call it."""
        return f"{self.client} ({self.role} {self.name})"


def create_key(
    connection: Connection, name: str, role: str, client_id: str | None = None, *, actor: str = "command line"
) -> CreatedKey:
    """
    Make a key, with a client of its own or as a second key of an existing one. Raises KeyRefused.
    """
    if role not in get_args(Role):
        raise KeyRefused(f"there is no role {role}: it is client, operator or admin")
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise KeyRefused(f"a key's name has 1 to {NAME_CHARACTERS_MAX} printable characters")
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    client = client_id if client_id is not None else f"client-{secrets.token_hex(6)}"
    created = CreatedKey(new_id(), client, name, role, key)  # type: ignore[arg-type]  # checked above
    with database.faults(), connection.transaction():
        if client_id is None:
            connection.execute(SQL["insert_client"], {"id": client})
        elif not connection.execute(SQL["find_client"], {"id": client}).fetchall():
            raise KeyRefused(f"there is no client {client!r}: leave --client out to make one")
        parameters = {
            "id": created.id,
            "client": client,
            "name": name,
            "role": role,
            "digest": digest_of(key),
        }
        connection.execute(SQL["insert_key"], parameters)
        _record(connection, actor, "key_created", created.id, {"client": client, "name": name, "role": role})
    return created


def list_keys(connection: Connection) -> list[Key]:
    """Every key that was ever made, newest first."""
    with database.faults():
        return [Key(*row) for row in connection.execute(SQL["list_keys"]).fetchall()]


def revoke_key(connection: Connection, key_id: UUID, *, actor: str = "command line") -> bool:
    """
    Revoke a key; it stops working within a second. Returns whether it was valid until now. Raises KeyNotFound.
    """
    with database.faults(), connection.transaction():
        rows = connection.execute(SQL["revoke_key"], {"id": key_id}).fetchall()
        if not rows:
            raise KeyNotFound(f"there is no key {key_id}")
        [(was_valid,)] = rows
        if was_valid:
            _record(connection, actor, "key_revoked", key_id, {})
    return bool(was_valid)


def authenticate(connection: Connection, digest: bytes) -> Caller | None:
    """Whose key has this digest; None: nobody's, or a revoked one."""
    row = connection.execute(SQL["find_key"], {"digest": digest}).fetchone()
    if row is None or not hmac.compare_digest(row[4], digest):
        return None
    return Caller(*row[:4])


def digest_of(key: str) -> bytes:
    """What the database keeps of a key: the SHA-256 of all of it."""
    return hashlib.sha256(key.encode()).digest()


def looks_like_key(text: str) -> bool:
    """Whether it has the form of a key; what has not is nobody's."""
    return _KEY.fullmatch(text) is not None


def _record(connection: Connection, actor: str, action: str, key_id: UUID, detail: dict[str, str]) -> None:
    parameters = {"actor": actor, "action": action, "detail": Jsonb({"key": str(key_id)} | detail)}
    connection.execute(SQL["insert_audit"], parameters)
