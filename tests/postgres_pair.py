"""
Two PostgreSQL 15 servers: a primary, and a synchronous standby that can take its place.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from teller.embedded import home as homes
from teller.embedded.child import spawn
from tests.servers import find_oldest, temporary_home
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from teller.embedded.child import Child

STOP_SECONDS = 10.0


class Pair:
    """A primary with a synchronous standby, which change places at each `promote`."""

    def __init__(
        self, start: Callable[..., Child], directories: Sequence[Path], options: Sequence[str]
    ) -> None:
        self._start = start
        self._options = options
        self._directories = list(directories)
        self._copies = 0
        #: The addresses of both as the owner. The first one is that of the primary.
        self.urls = [_url(directory) for directory in directories]
        self.primary = self._serve(directories[0] / "data")
        self.standby: Child | None = None
        until_there(self.urls[0])

    def add_standby(self) -> None:
        """Copy the primary to the other place. Commits wait for the copy from now on."""
        self._copies += 1
        data = self._directories[1] / f"copy-{self._copies}"
        source = _host(self.urls[0])
        copy = self._start("pg_basebackup", "-h", source, "-U", "teller", "-D", str(data), "-R", "-c", "fast")
        eventually(lambda: not copy.alive())
        self.standby = self._serve(data)
        until_there(self.urls[1])
        with psycopg.connect(self.urls[0], autocommit=True) as owner:
            eventually(lambda: "streaming" in _standby_states(owner))
            owner.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            owner.execute("SELECT pg_reload_conf()")
            eventually(lambda: "sync" in _standby_states(owner))

    def kill_primary(self) -> None:
        """Kill the primary. Returns when its last process has ended."""
        tasks = Path(f"/proc/{self.primary.pid}/task/{self.primary.pid}/children")
        processes = tasks.read_text().split()
        self.primary.process.kill()
        self.primary.process.wait()
        eventually(lambda: not [one for one in processes if Path(f"/proc/{one}").exists()])

    def promote(self) -> None:
        """Make the standby the primary. Returns when it accepts writes. It waits for no standby."""
        assert self.standby is not None
        with psycopg.connect(self.urls[1], autocommit=True) as standby:
            standby.execute("SELECT pg_promote()")
        self.urls.reverse()
        self._directories.reverse()
        self.primary, self.standby = self.standby, None

    def address(self, role: str) -> str:
        """Return the address of both for a role. The standby comes first."""
        hosts = ",".join(_host(url) for url in reversed(self.urls))
        return f"postgresql:///postgres?host={hosts}&user={role}"

    def _serve(self, data: Path) -> Child:
        return self._start(
            "postgres",
            "-D",
            str(data),
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={data.parent}",
            *self._options,
        )


def until_there(url: str) -> None:
    """Wait until a server accepts connections."""

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(url).close()
            return True
        return False

    eventually(answers)


def _standby_states(owner: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Return the states of the standby that the primary knows; none while it is not connected."""
    found = owner.execute("SELECT state, sync_state FROM pg_stat_replication").fetchone()
    return found or ()


def _host(url: str) -> str:
    return str(conninfo_to_dict(url)["host"])


def _url(directory: Path) -> str:
    return f"postgresql:///postgres?host={directory}&user=teller"


@contextlib.contextmanager
def started_pair(*options: str) -> Iterator[Pair]:
    """
    Start a primary with these options. Its standby is empty until `add_standby`.

    Skips the test without PostgreSQL 15.
    """
    binaries = find_oldest()
    if binaries is None:
        pytest.skip("PostgreSQL 15 is not installed")
    account = homes.account()
    with temporary_home() as home, contextlib.ExitStack() as running:
        lock = homes.try_lock(home / "lock")
        assert lock is not None
        running.callback(os.close, lock)
        directories = [homes.private_directory(home / name, account) for name in ("a", "b")]

        def start(program: str, *arguments: str) -> Child:
            child = spawn(
                [binaries / program, *arguments],
                stop_signal=signal.SIGQUIT,
                log=home / "log",
                lock=lock,
                account=account,
            )
            running.callback(child.stop, STOP_SECONDS)
            return child

        initdb = start(
            "initdb",
            "-D",
            f"{directories[0]}/data",
            "-U",
            "teller",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        )
        eventually(lambda: not initdb.alive())
        yield Pair(start, directories, options)
