"""
Requests that leave the database: they are found and read in one snapshot, and removed in one transaction.

The role teller_archive is taken for each transaction, so it works behind a pooler. The connection is of that role, or
of an owner that may take it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the rows of the database
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID  # noqa: TC003 - the rows of the database

import psycopg
from psycopg.types.json import Jsonb

from processor.archive.content import NOTHING, Chain, QuantityState, runs_of
from processor.errors import DatabaseUnavailable, TellerError
from processor.storage import connections, statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from processor.archive.content import Content
    from processor.storage.connections import Connection

#: The advisory lock of a removal.
ARCHIVE_LOCK: Final = 0x7E11E9
ROLE: Final = "teller_archive"

SQL: Final = statements.beside(__file__)

#: The tables of a file in the order of their removal: the column of the request's id, and the order of the rows.
_TABLES: Final = {
    "requests": ("id", "t.id"),
    "legs": ("request_id", "t.request_id, t.leg"),
    "decisions": ("request_id", "t.request_id, t.version"),
    "effects": ("request_id", "t.request_id, t.leg"),
    "attempts": ("request_id", "t.request_id, t.leg, t.started_at, t.token"),
    "deliveries": ("request_id", "t.id"),
    "entries": ("request_id", "t.resource_id, t.version"),
}


class RoleMissing(TellerError):
    """The database does not let this connection take the role that removes requests."""

    code = "archive_role_missing"

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"only the role {ROLE} removes requests: run `teller migrate`, and set TELLER_ARCHIVE_DATABASE_URL"
            f" ({detail})"
        )


class RequestsChanged(TellerError):
    """Rows are not as they were read, so that nothing was removed. The same requests can be read again."""

    code = "archive_changed"


class Place(NamedTuple):
    """The installation, the number of its last file, and the time of its database."""

    last_number: int
    installation: UUID
    schema_version: int
    now: datetime


class TableSum(NamedTuple):
    """The number of rows of a table, and the sum of their hashes."""

    rows: int
    hashes: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """The rows of the requests that leave together, as they are in one snapshot."""

    place: Place
    #: The rows of each table as JSON, as they stand in the file; `chains` too.
    lines: dict[str, list[str]]
    sums: dict[str, TableSum]
    #: The last request that was looked at. None: there is none after it.
    last_id: UUID | None

    @property
    def requests(self) -> int:
        """The number of requests."""
        return self.sums["requests"].rows


@contextlib.contextmanager
def taken_role() -> Iterator[None]:
    """Turn a refusal of the role into RoleMissing."""
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue) as fault:
        raise RoleMissing(connections.first_line(fault)) from fault


@contextlib.contextmanager
def removal(connection: Connection) -> Iterator[None]:
    """
    Begin a transaction as the role, with the lock of removals. Raises RoleMissing, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        with taken_role():
            connection.execute(SQL["begin_removal"])
        connection.execute(SQL["lock"], {"lock": ARCHIVE_LOCK})
        yield


def read_place(connection: Connection) -> Place:
    """Read the installation and the number of its last file. Raises DatabaseUnavailable."""
    with connections.faults():
        [row] = connection.execute(SQL["read_place"]).fetchall()
    return Place(*row)


def look(connection: Connection) -> Place:
    """Read the place as the role, in a transaction of its own. Raises RoleMissing, DatabaseUnavailable."""
    with connections.faults(), connection.transaction():
        with taken_role():
            connection.execute(SQL["take_snapshot"])
        return read_place(connection)


def read_names(connection: Connection) -> set[str]:
    """Return the names of all files. Raises DatabaseUnavailable."""
    with connections.faults():
        return {name for (name,) in connection.execute(SQL["read_names"]).fetchall()}


def count_present(connection: Connection, request_ids: Sequence[UUID]) -> int:
    """Return how many of these requests are in the database. Raises DatabaseUnavailable."""
    with connections.faults():
        [(count,)] = connection.execute(SQL["count_requests"], {"ids": list(request_ids)}).fetchall()
    return int(count)


def read_leaving(
    connection: Connection, after: UUID, bound: UUID, before: datetime, limit: int, *, only_count: bool
) -> Leaving:
    """
    Read the requests that leave, among the next `limit` requests after one and below a bound.

    They were finished before a time. With `only_count`, nothing but the number of requests is read. Raises
    RoleMissing, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        with taken_role():
            connection.execute(SQL["take_snapshot"])
        place = read_place(connection)
        scanned = [
            request
            for (request,) in connection.execute(
                SQL["scan"], {"after": after, "bound": bound, "limit": limit}
            ).fetchall()
        ]
        found = connection.execute(SQL["find_leaving"], {"ids": scanned, "before": before}).fetchall()
        leaving = [request for (request,) in found]
        last_id = scanned[-1] if len(scanned) == limit else None
        if only_count or not leaving:
            return Leaving(place, {}, {"requests": TableSum(len(leaving), 0)}, last_id)
        lines: dict[str, list[str]] = {}
        sums: dict[str, TableSum] = {}
        for table in _TABLES:
            rows = connection.execute(_for(table, "read_rows"), {"ids": leaving}).fetchall()
            lines[table] = [line for line, _ in rows]
            sums[table] = TableSum(len(rows), sum(number for _, number in rows))
        lines["chains"] = _chains(connection, lines["entries"])
        return Leaving(place, lines, sums, last_id)


def remove(
    connection: Connection, leaving: Leaving, name: str, digest: bytes, content: Content, actor: str
) -> None:
    """
    Remove what a file has, if all of it is as it was read, and keep the sums of it. One transaction.

    Raises RequestsChanged, RoleMissing, DatabaseUnavailable. After DatabaseUnavailable the outcome is unknown.
    """
    request_ids = sorted(content.requests)
    try:
        with removal(connection):
            if read_place(connection).last_number != leaving.place.last_number:
                raise RequestsChanged("another `teller archive` has made a file")
            connection.execute(SQL["insert_archive"], _row_of(name, digest, content, request_ids))
            _keep_sums(connection, content)
            connection.execute(
                SQL["note"],
                {"actor": actor, "detail": Jsonb({"archive": name, "requests": len(request_ids)})},
            )
            for table in _TABLES:
                [row] = connection.execute(_for(table, "remove"), {"ids": request_ids}).fetchall()
                if TableSum(*row) != leaving.sums[table]:
                    raise RequestsChanged(f"{table} changed while they were archived")
    except (
        psycopg.errors.IntegrityConstraintViolation
    ) as fault:  # by a trigger: a command or refund came meanwhile
        raise RequestsChanged(connections.first_line(fault)) from fault


def _for(table: str, name: str) -> bytes:
    key, order = _TABLES[table]
    return SQL[name].replace("{table}", table).replace("{key}", key).replace("{order}", order).encode()


def _chains(connection: Connection, lines: Sequence[str]) -> list[str]:
    """Return the unbroken runs of these entries, with the states before them, as JSON."""
    runs = list(runs_of(lines))
    found = connection.execute(
        SQL["read_states_before"],
        {
            "resource_ids": [run.resource_id for run in runs],
            "versions": [run.first - 1 for run in runs],
        },
    ).fetchall()
    before = {(resource_id, version): QuantityState(*state) for resource_id, version, *state in found}
    chains = []
    for run in runs:
        state = NOTHING if run.first == 1 else before.get((run.resource_id, run.first - 1))
        if state is None:
            raise DatabaseUnavailable(
                f"there is no entry before {run.resource_id}/{run.first}: run `teller verify`"
            )
        chains.append(Chain(run.resource_id, run.first, run.last, state, run.after).text())
    return chains


def _row_of(name: str, digest: bytes, content: Content, request_ids: Sequence[UUID]) -> dict[str, Any]:
    clients = sorted({request.client_id for request in content.requests.values()})
    places = {client: place.to_bytes(2, "big") for place, client in enumerate(clients)}
    return {
        "number": content.header["number"],
        "name": name,
        "digest": digest,
        "before": content.header["before"],
        "requests": len(request_ids),
        "entries": content.rows["entries"],
        "first_id": request_ids[0],
        "last_id": request_ids[-1],
        "clients": clients,
        "ids": b"".join(one.bytes + places[content.requests[one].client_id] for one in request_ids),
    }


def _keep_sums(connection: Connection, content: Content) -> None:
    chains = content.chains
    connection.execute(
        SQL["insert_checkpoints"],
        {
            "resource_ids": [chain.resource_id for chain in chains],
            "lasts": [chain.last for chain in chains],
            "availables": [chain.after.available for chain in chains],
            "helds": [chain.after.held for chain in chains],
            "created_ats": [chain.after.created_at for chain in chains],
            "digests": [chain.after.digest for chain in chains],
        },
    )
    connection.execute(
        SQL["delete_checkpoints"],
        {
            "resource_ids": [chain.resource_id for chain in chains],
            "firsts": [chain.first for chain in chains],
        },
    )
    usages = sorted(content.usages.items())
    connection.execute(
        SQL["add_usages"],
        {
            "resource_ids": [key[0] for key, _ in usages],
            "client_ids": [key[1] for key, _ in usages],
            "accounts": [key[2] for key, _ in usages],
            "used": [usage.used for _, usage in usages],
            "days": [usage.day for _, usage in usages],
            "day_used": [usage.day_used for _, usage in usages],
        },
    )
    decisions = sorted(content.decisions.items())
    connection.execute(
        SQL["add_decisions"],
        {
            "partitions": [partition for partition, _ in decisions],
            "decisions": [sums[0] for _, sums in decisions],
            "sequences": [sums[1] for _, sums in decisions],
            "lasts": [sums[2] for _, sums in decisions],
        },
    )
