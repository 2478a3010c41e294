"""
API keys and the clients they belong to: made, listed, revoked, recognised.

A key is shown once, when it is made; the database keeps its SHA-256. The key has 256 bits of chance, so a plain
digest is enough: there is nothing to guess. Each act leaves a line in the audit, in the same transaction.
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

from psycopg.types.json import Jsonb

from processor.errors import TellerError
from processor.ids import new_id
from processor.records.documents import timestamp
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL = statements.beside(__file__)

Role = Literal["client", "operator", "admin"]

#: What a key begins with, so that people and secret scanners recognise it.
PREFIX: Final = "teller_"
#: Bytes of chance in a key; base64 makes 43 characters of them.
KEY_BYTES: Final = 32
#: A key's name has at most so many characters.
NAME_CHARACTERS_MAX: Final = 128
#: No key expires later than so long from now: ten years.
LIFETIME_MAX: Final = timedelta(days=3652)
#: The last use of a key is written at most so often.
USE_PAUSE: Final = timedelta(minutes=1)

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
    key: str = field(repr=False)
    expires_at: datetime | None = None

    def document(self) -> dict[str, Any]:
        """What the command line prints as JSON; when it expires, only if it does."""
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
    """A key that was made, without its secret."""

    id: UUID
    client: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    #: To the minute.
    last_used_at: datetime | None

    def document(self) -> dict[str, Any]:
        """What the command line prints as JSON."""
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
    """Who a valid key says it is."""

    key_id: UUID
    client: str
    name: str
    role: Role

    @property
    def is_operator(self) -> bool:
        """Whether it acts for those who run Teller, not for a client."""
        return self.role != "client"

    @property
    def sees(self) -> str | None:
        """Whose things it sees: its own client's, or, for those who run Teller, everybody's (None)."""
        return self.client if self.role == "client" else None

    @property
    def actor(self) -> str:
        """What histories and the audit call it."""
        return f"{self.client} ({self.role} {self.name})"


def create_key(
    connection: Connection,
    name: str,
    role: str,
    client_id: str | None = None,
    *,
    lifetime: timedelta | None = None,
    actor: str = "command line",
) -> CreatedKey:
    """
    Make a key, with a client of its own or as a second key of an existing one; it works for its lifetime, or until
    it is revoked. Raises KeyRefused.
    """
    if role not in get_args(Role):
        raise KeyRefused(f"there is no role {role}: it is client, operator or admin")
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise KeyRefused(f"a key's name has 1 to {NAME_CHARACTERS_MAX} printable characters")
    if lifetime is not None and not timedelta(0) < lifetime <= LIFETIME_MAX:
        raise KeyRefused(f"a key lives for longer than nothing and at most {LIFETIME_MAX.days} days")
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    client = client_id if client_id is not None else f"client-{secrets.token_hex(6)}"
    key_id = new_id()
    with connections.faults(), connection.transaction():
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
        detail: dict[str, str | None] = {"client": client, "name": name, "role": role}
        if expires_at is not None:
            detail["expires_at"] = timestamp(expires_at)
        _record(connection, actor, "key_created", key_id, detail)
    return created


def list_keys(connection: Connection) -> list[Key]:
    """Every key that was ever made, newest first."""
    with connections.faults():
        return [Key(*row) for row in connection.execute(SQL["list_keys"]).fetchall()]


def revoke_key(
    connection: Connection, key_id: UUID, *, actor: str = "command line", reason: str | None = None
) -> bool:
    """
    Revoke a key; it stops working within a second. Returns whether it was valid until now. Raises KeyNotFound.
    """
    with connections.faults(), connection.transaction():
        rows = connection.execute(SQL["revoke_key"], {"id": key_id}).fetchall()
        if not rows:
            raise KeyNotFound(f"there is no key {key_id}")
        [(was_valid,)] = rows
        if was_valid:
            _record(connection, actor, "key_revoked", key_id, {}, reason)
    return bool(was_valid)


def authenticate(connection: Connection, digest: bytes) -> Caller | None:
    """Whose key has this digest; None: nobody's, or one that was revoked or has expired."""
    row = connection.execute(SQL["find_key"], {"digest": digest}).fetchone()
    if row is None or not hmac.compare_digest(row[4], digest):
        return None
    return Caller(*row[:4])


def note_uses(connection: Connection, key_ids: Collection[UUID]) -> None:
    """These keys were used just now: kept to the minute, so a busy key costs one write a minute."""
    with connections.faults():
        connection.execute(SQL["note_uses"], {"ids": list(key_ids), "pause": USE_PAUSE})


def digest_of(key: str) -> bytes:
    """What the database keeps of a key: the SHA-256 of all of it."""
    return hashlib.sha256(key.encode()).digest()


def looks_like_key(text: str) -> bool:
    """Whether it has the form of a key; what has not is nobody's."""
    return _KEY.fullmatch(text) is not None


def _record(
    connection: Connection,
    actor: str,
    action: str,
    key_id: UUID,
    detail: dict[str, str | None],
    reason: str | None = None,
) -> None:
    parameters = {
        "actor": actor,
        "action": action,
        "reason": reason,
        "detail": Jsonb({"key": str(key_id)} | detail),
    }
    connection.execute(SQL["insert_audit"], parameters)
