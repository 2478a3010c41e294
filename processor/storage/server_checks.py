"""
Checks of the server around the database: its version, clock, connections, standbys, and work that was left open.

Each returns what an operator should know, with the remedy. None of them changes anything.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from processor.storage import sessions, statements
from processor.storage.connections import Connection

SQL: Final = statements.beside(__file__)

#: The oldest supported version of PostgreSQL, as `server_version_num`.
OLDEST_VERSION: Final = 150_000
#: The difference between two clocks from which it is reported, in seconds. Signatures of webhooks carry a time.
CLOCK_SECONDS: Final = 2.0
#: The connections that one API, one worker and one courier open, if they are to wait for nothing.
CONNECTIONS_NEEDED: Final = 24
#: The age from which an open transaction is reported, in seconds.
OPEN_SECONDS: Final = 300
#: The log that an unused replication slot may keep, in bytes.
KEPT_BYTES: Final = 1 << 30
#: The share of the transaction numbers from which their use is reported, in percent.
NUMBERS_PERCENT: Final = 50


class Problem(NamedTuple):
    """
    One thing that is not as it should be.

    `detail` is one line with the remedy. `breaks_a_promise`: an accepted request may be lost, doubled or overtaken,
    or none can be accepted.
    """

    code: str
    breaks_a_promise: bool
    detail: str


def problems(connection: Connection) -> Iterator[Problem]:
    """Run all checks over the connection of the owner. Raises psycopg.Error."""
    for check in CHECKS:
        yield from check(connection)


def _version(connection: Connection) -> Iterator[Problem]:
    [(number, name)] = connection.execute(SQL["read_version"]).fetchall()
    if number < OLDEST_VERSION:
        yield Problem("server_too_old", True, f"PostgreSQL {name} is not supported: upgrade to 15 or newer")


def _clock(connection: Connection) -> Iterator[Problem]:
    """The answer was made between two readings of this host's clock, so only what lies outside counts."""
    before = time.time()
    [(there,)] = connection.execute(SQL["read_clock"]).fetchall()
    off = max(before - there, there - time.time(), 0.0)
    if off > CLOCK_SECONDS:
        yield Problem(
            "clocks_differ",
            False,
            f"the clock of PostgreSQL and of this host differ by {off:.0f} s: let both follow NTP",
        )


def _connections(connection: Connection) -> Iterator[Problem]:
    [(free, ours, most)] = connection.execute(SQL["read_connections"]).fetchall()
    if free + ours < CONNECTIONS_NEEDED:
        yield Problem(
            "connections_few",
            False,
            f"PostgreSQL has {free} of {most} connections left, and an API, a worker and a courier need"
            f" {CONNECTIONS_NEEDED}: raise max_connections, or use a pooler",
        )
    limits = {"roles": list(sessions.ROLE_TIMEOUTS_MS), "needed": CONNECTIONS_NEEDED // 3}
    for name, limit in connection.execute(SQL["read_connection_limits"], limits).fetchall():
        yield Problem(
            "connections_few", False, f"{name} may have only {limit} connections: raise CONNECTION LIMIT"
        )


def _standbys(connection: Connection) -> Iterator[Problem]:
    [(names, commit, connected)] = connection.execute(SQL["read_standbys"]).fetchall()
    if names and commit not in {"off", "local"} and connected == 0:
        yield Problem(
            "standby_away",
            True,
            f"commits wait for a synchronous standby ({names}), and none is connected, so no request is accepted:"
            " start it, or change synchronous_standby_names",
        )
    for slot, kept in connection.execute(SQL["read_slots"], {"kept_bytes": KEPT_BYTES}).fetchall():
        yield Problem(
            "slot_keeps_log",
            False,
            f"the replication slot {slot} has no consumer and keeps {kept / (1 << 30):.0f} GiB of the server's log:"
            " start its consumer, drop it, or set max_slot_wal_keep_size",
        )


def _open_transactions(connection: Connection) -> Iterator[Problem]:
    for name, seconds in connection.execute(
        SQL["read_open_transactions"], {"seconds": OPEN_SECONDS}
    ).fetchall():
        yield Problem(
            "transaction_open",
            False,
            f"{name} has been in a transaction for {seconds // 60} minutes, so no table is cleaned: end it",
        )


def _vacuum(connection: Connection) -> Iterator[Problem]:
    [(is_on, percent)] = connection.execute(SQL["read_vacuum"]).fetchall()
    if not is_on:
        yield Problem(
            "autovacuum_off", False, "tables are not cleaned: set autovacuum and track_counts to on"
        )
    if percent >= NUMBERS_PERCENT:
        yield Problem(
            "transaction_numbers",
            False,
            f"{percent} % of the transaction numbers are used: look why VACUUM does not end",
        )


def _identities(connection: Connection) -> Iterator[Problem]:
    tables = [table for (table,) in connection.execute(SQL["read_without_identity"]).fetchall()]
    if tables:
        yield Problem(
            "no_replica_identity",
            False,
            f"the tables {', '.join(tables)} are published without a replica identity: run `teller migrate`",
        )


CHECKS: Final[tuple[Callable[[Connection], Iterator[Problem]], ...]] = (
    _version,
    _clock,
    _connections,
    _standbys,
    _open_transactions,
    _vacuum,
    _identities,
)


def gateways_in_use(connection: Connection) -> list[str]:
    """Return the names of the gateways that open resources have. Raises psycopg.Error."""
    return [name for (name,) in connection.execute(SQL["read_gateways_in_use"]).fetchall()]
