"""
TELLER_HOME: the owners of its directories, its locks, its logs, and its sockets.

    lock  users  lock.postgres  lock.valkey     locks; the last two are inherited by the servers
    postgres/  valkey/                          the data
    run/postgres/  run/valkey/                  the sockets
    log/  outbox/  keys.env

As root, PostgreSQL runs as another account, so every account may enter home itself, but nothing inside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from processor.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A socket's path, in bytes, without the closing NUL; Linux has one more than macOS.
SOCKET_PATH_BYTES_MAX = 103
#: The longest name below run/: what PostgreSQL adds to its socket directory, and its lock file.
LONGEST_SOCKET_NAME = "/postgres/.s.PGSQL.5432.lock"
#: Accounts that PostgreSQL may run as when we are root, in order of preference.
ACCOUNTS = ("postgres", "nobody")
#: A log that is larger than this, in bytes, is put aside (once) before its server starts.
LOG_BYTES_MAX = 16 * 1024 * 1024
#: Between two tries of a lock, in seconds.
LOCK_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Account:
    """An account of the system that a server runs as."""

    name: str
    uid: int
    gid: int


def account() -> Account | None:
    """
    Return the account that PostgreSQL runs as. PostgreSQL refuses to run as root.

    Returns None if this process does not run as root. Raises ServerError.
    """
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise ServerError(f"running as root needs one of the accounts {' or '.join(ACCOUNTS)} for PostgreSQL")


def prepare(home: Path) -> None:
    """
    Make home, its directories for logs and sockets, with the right owners. Raises ServerError.
    """
    with _one_line(home):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            home.chmod(0o755)
        private_directory(home / "log", None)
        own = run_directory(home)
        own.mkdir(exist_ok=True, mode=0o700)
        if own.lstat().st_uid != os.geteuid() or own.is_symlink():
            raise ServerError(f"{own} belongs to another account: choose a shorter TELLER_HOME, or remove it")
        if os.geteuid() == 0:
            own.chmod(0o755)
    if someone := account():
        for place in (home, *home.parents):
            if not place.stat().st_mode & 0o001:
                raise ServerError(
                    f"as root, PostgreSQL runs as {someone.name}, who cannot enter {place}:"
                    " choose another TELLER_HOME"
                )


def private_directory(path: Path, owner: Account | None) -> Path:
    """
    Make a directory that only its owner can enter.
    """
    path.mkdir(exist_ok=True, mode=0o700)
    path.chmod(0o700)
    if owner:
        os.chown(path, owner.uid, owner.gid)
    return path


def run_directory(home: Path) -> Path:
    """
    Return the directory of the sockets: in home, or in /tmp where the path would be too long for a socket.

    The name in /tmp is derived from home, so every process with the same home finds it.
    """
    own = home / "run"
    if len(os.fsencode(f"{own}{LONGEST_SOCKET_NAME}")) <= SOCKET_PATH_BYTES_MAX:
        return own
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(f"/tmp/teller-{os.geteuid()}-{digest}")  # noqa: S108 - its owner is checked by `prepare`


def log_file(home: Path, name: str) -> Path:
    """
    Return the log of a server that is about to start. A large log is renamed first.
    """
    path = home / "log" / f"{name}.log"
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
    return path


def size_of(log: Path) -> int:
    """
    Return the size of a log in bytes, 0 if it does not exist yet.
    """
    return log.stat().st_size if log.exists() else 0


def written_since(log: Path, begin: int) -> str:
    """
    Return the text that a server has logged after the byte `begin`.
    """
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """
    Take the lock of a file. Returns the descriptor that holds it until it is closed everywhere.

    Returns None if another process has it.
    """
    with _one_line(path.parent):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def wait_for_lock(path: Path, seconds: float) -> int | None:
    """
    Try to take the lock for up to `seconds`. Returns None if another process keeps it.
    """
    end = time.monotonic() + seconds
    while (descriptor := try_lock(path)) is None and time.monotonic() < end:
        time.sleep(LOCK_PAUSE_SECONDS)
    return descriptor


@contextlib.contextmanager
def _one_line(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise ServerError(f"TELLER_HOME {home} cannot be used: {fault.strerror}: {fault.filename}") from fault
