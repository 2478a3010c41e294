"""
A server whose commits wait for a synchronous standby that is missing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg

from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


class MissingStandby:
    """Commits wait until `returns`."""

    def __init__(self, owner: psycopg.Connection[Any]) -> None:
        self._owner = owner

    def begin(self) -> None:
        """Let commits wait from now on. Returns when one does."""
        self._owner.execute("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
        self._owner.execute("SELECT pg_reload_conf()")
        eventually(self._holds_a_commit)

    def returns(self) -> None:
        """Let the commits go, as when the standby is back."""
        self._owner.execute("ALTER SYSTEM RESET synchronous_standby_names")
        self._owner.execute("SELECT pg_reload_conf()")

    def cancel(self, part: str) -> None:
        """End the wait of a commit, whose statement has this part, as an administrator may."""
        eventually(
            lambda: self._owner.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event = 'SyncRep' AND strpos(query, %s) > 0",
                (part,),
            ).fetchall()
        )

    def sessions(self, name: str) -> int:
        """Return how many sessions have this application name."""
        [(count,)] = self._owner.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
            (name,),
        ).fetchall()
        return int(count)

    def waits(self, name: str) -> bool:
        """Return whether a session of this application name waits for the standby."""
        found = self._owner.execute(
            "SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s AND wait_event = 'SyncRep'",
            (name,),
        )
        return found.fetchone() is not None

    def _holds_a_commit(self) -> bool:
        """Commit over a new connection. It is left alone if it waits, and ends when the standby is back."""
        with contextlib.closing(psycopg.connect(self._owner.info.dsn, application_name="held")) as trying:
            trying.pgconn.send_query(b"SELECT pg_logical_emit_message(true, 'test', '')")
            pid = trying.info.backend_pid
            state = "SELECT state, wait_event FROM pg_stat_activity WHERE pid = %s"
            eventually(
                lambda: (
                    self._owner.execute(state, (pid,)).fetchone()
                    in (("active", "SyncRep"), ("idle", "ClientRead"))
                )
            )
            return self._owner.execute(state, (pid,)).fetchone() == ("active", "SyncRep")


@contextlib.contextmanager
def standby_of(url: str) -> Iterator[MissingStandby]:
    """
    Return a standby of the server of this database. Commits wait from `begin` until it `returns` or the block ends.

    The owner's own commits do not.
    """
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("SET synchronous_commit = local")
        standby = MissingStandby(owner)
        try:
            yield standby
        finally:
            standby.returns()


@contextlib.contextmanager
def missing_standby(url: str) -> Iterator[MissingStandby]:
    """
    Let commits on the server of this database wait, until the standby `returns` or the block ends.
    """
    with standby_of(url) as standby:
        standby.begin()
        yield standby
