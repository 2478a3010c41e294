"""
PgBouncer in transaction mode, in front of a PostgreSQL of the tests.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict

from teller.embedded import home as homes
from teller.embedded.child import spawn
from tests.servers import temporary_home
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where PgBouncer is usually installed; never looked up on PATH.
PLACES = (
    Path("/usr/sbin/pgbouncer"),
    Path("/usr/bin/pgbouncer"),
    Path("/usr/local/bin/pgbouncer"),
    Path("/opt/homebrew/bin/pgbouncer"),
)
#: Sessions on the server for each role and database: few, so that clients share them all the time.
POOL_SIZE = 6
#: The time in which it stops, in seconds. Then it is killed.
STOP_SECONDS = 10.0
#: Users of the databases; a server of the tests asks for no password.
USERS = ("teller", "teller_api", "teller_worker", "teller_courier")


class Pooler:
    """A running PgBouncer."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def url(self, direct: str) -> str:
        """Return the address of the same database as the same user, through the pooler."""
        parts = conninfo_to_dict(direct)
        return f"postgresql:///{parts['dbname']}?host={self._directory}&port=6432&user={parts['user']}"


def find() -> Path | None:
    """Return the program, if it is installed."""
    return next((place for place in PLACES if place.exists()), None)


@contextlib.contextmanager
def running(program: Path, url: str) -> Iterator[Pooler]:
    """
    Run a PgBouncer in front of the server of this URL, which is reached by a Unix socket.
    """
    target = conninfo_to_dict(url)
    account = homes.account()
    with temporary_home() as home, contextlib.ExitStack() as cleanup:
        lock = homes.try_lock(home / "lock")
        assert lock is not None
        cleanup.callback(os.close, lock)
        own = homes.private_directory(home / "own", account)
        own.chmod(0o755)
        users, configuration = home / "users", home / "pgbouncer.ini"
        users.write_text("".join(f'"{user}" ""\n' for user in USERS))
        configuration.write_text(
            "[databases]\n"
            f"* = host={target['host']} port={target.get('port', 5432)}\n"
            "[pgbouncer]\n"
            f"unix_socket_dir = {own}\nunix_socket_mode = 0777\nlisten_port = 6432\n"
            f"auth_type = trust\nauth_file = {users}\n"
            f"pool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 500\n"
        )
        child = spawn(
            [program, configuration], stop_signal=signal.SIGINT, log=home / "log", lock=lock, account=account
        )
        cleanup.callback(child.stop, STOP_SECONDS)
        pooler = Pooler(own)
        eventually(lambda: not child.alive() or _answers(pooler.url(url)))
        assert child.alive(), (home / "log").read_text()
        yield pooler


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
