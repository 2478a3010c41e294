"""
The servers that tests run against: an embedded PostgreSQL and Valkey, an installed PostgreSQL 15, or given ones.

Each PostgreSQL has a template database, migrated once, of which every test gets a clone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from processor.settings import Settings
from processor.storage import migrations
from teller.embedded import home as homes
from teller.embedded.child import spawn
from teller.embedded.servers import serve
from tests.waiting import TIMEOUT_SECONDS, eventually
from workers.doorbell.names import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The embedded PostgreSQL, which a test uses unless it names another.
NEWEST = "embedded"
#: An installed PostgreSQL 15.
OLDEST = "15"
#: Where the oldest PostgreSQL that Teller supports is usually installed; never looked up on PATH.
OLDEST_PLACES = (
    Path("/usr/lib/postgresql/15/bin"),
    Path("/usr/pgsql-15/bin"),
    Path("/usr/local/pgsql-15/bin"),
    Path("/opt/homebrew/opt/postgresql@15/bin"),
    Path("/usr/local/opt/postgresql@15/bin"),
)
#: A dump of a database of schema version 2, with data; its first lines say how it was made.
VERSION_2 = Path(__file__).parent / "store" / "fixtures" / "version_2.sql"
#: Partitions of every database in the tests: the default.
PARTITIONS = 64
#: A file system in memory, and how much of it must be free for us to use it, in bytes.
MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes it private
MEMORY_BYTES_MIN = 4 * 1024**3
#: The time in which the installed PostgreSQL stops, in seconds. Then it is killed.
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Database:
    """A database of one test's own, with the schema in it: the owner's URL, and those of the roles."""

    name: str
    url: str
    api_url: str
    worker_url: str
    courier_url: str
    archive_url: str

    @property
    def role_urls(self) -> tuple[str, ...]:
        """The URLs of the roles, in the order of tests/store/rights.py."""
        return self.api_url, self.worker_url, self.courier_url, self.archive_url


class Clones:
    """
    Databases on one PostgreSQL: a template, and a clone of it for each test.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._template = f"teller_template_{os.getpid()}"
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def template(self) -> Iterator[None]:
        """While it lasts, `clone` works."""
        self._create(self._template)
        try:
            url = _with_database(self._url, self._template)
            migrations.migrate(url, PARTITIONS)
            with psycopg.connect(url, autocommit=True) as connection:
                # Otherwise `migrate` would give each clone another id.
                connection.execute("UPDATE installation SET made_in = NULL")
            yield
        finally:
            self._drop(self._template)

    @contextlib.contextmanager
    def clone(self, of: str | None = None) -> Iterator[Database]:
        """A fresh database, or a copy of another one. It is dropped at the end with all its connections."""
        name = f"teller_test_{os.getpid()}_{next(self._numbers)}"
        self._create(name, template=of or self._template)
        try:
            url = _with_database(self._url, name)
            yield Database(
                name,
                url,
                _with_user(url, "teller_api"),
                _with_user(url, "teller_worker"),
                _with_user(url, "teller_courier"),
                _with_user(url, "teller_archive"),
            )
        finally:
            self._drop(name)

    @contextlib.contextmanager
    def empty(self) -> Iterator[str]:
        """The URL of a database with nothing in it, for tests of the migration."""
        name = f"teller_empty_{os.getpid()}_{next(self._numbers)}"
        self._create(name)
        try:
            yield _with_database(self._url, name)
        finally:
            self._drop(name)

    @contextlib.contextmanager
    def version_2(self) -> Iterator[str]:
        """
        Yield the URL of a database of schema version 2, with data.
        """
        with self.empty() as url:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(VERSION_2.read_bytes())
            yield url

    def _create(self, name: str, template: str = "template0") -> None:
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )

    def _drop(self, name: str) -> None:
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(_with_database(self._url, "postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """
    A TELLER_HOME that a server's account can reach, unlike the directories that pytest makes.

    It is in memory, if there is enough: a cluster has a thousand files, and a disk takes a second to remove them.
    """
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES_MIN
    home = Path(tempfile.mkdtemp(prefix="teller-test-", dir=MEMORY if roomy else "/tmp"))  # noqa: S108
    if os.geteuid() == 0:
        home.chmod(0o755)
    try:
        yield home
    finally:
        for lock in home.glob("lock*"):  # a server holds its lock until its last process has ended
            held = homes.wait_for_lock(lock, TIMEOUT_SECONDS)
            assert held is not None, f"{lock} is held"
            os.close(held)
        shutil.rmtree(home)


@contextlib.contextmanager
def embedded() -> Iterator[Settings]:
    """
    PostgreSQL and Valkey as `teller up` would have them; DATABASE_URL and REDIS_URL, if given, in their place.
    """
    given = {name: os.environ.get(name, "") for name in ("DATABASE_URL", "REDIS_URL")}
    with temporary_home() as home:
        environ = {"TELLER_HOME": str(home), "TELLER_SECRET": "a secret of the tests", **given}
        with serve(Settings.from_environment(environ)) as servers:
            yield servers.settings


def settings_of(servers: Settings, database: Database) -> Settings:
    """
    Return the settings of a Teller on these servers that has this database, as the roles that guard it.
    """
    return Settings.from_environment(
        {
            **servers.environment(),
            "DATABASE_URL": database.url,
            "TELLER_API_DATABASE_URL": database.api_url,
            "TELLER_WORKER_DATABASE_URL": database.worker_url,
            "TELLER_COURIER_DATABASE_URL": database.courier_url,
            "TELLER_ARCHIVE_DATABASE_URL": database.archive_url,
        }
    )


def names_of(url: str) -> Names:
    """
    Return the names in Redis of the installation with this database.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        return Names(migrations.read_installation(connection).id)


def find_oldest() -> Path | None:
    """The binaries of an installed PostgreSQL 15."""
    return next((path for path in OLDEST_PLACES if (path / "initdb").exists()), None)


@contextlib.contextmanager
def oldest(binaries: Path) -> Iterator[str]:
    """
    The owner's URL of a PostgreSQL 15 of our own.
    """
    account = homes.account()
    with temporary_home() as home, contextlib.ExitStack() as running:
        lock = homes.try_lock(home / "lock")
        assert lock is not None
        running.callback(os.close, lock)
        own, log = homes.private_directory(home / "own", account), home / "log"

        def start(program: str, *arguments: str) -> Callable[[], bool]:
            child = spawn(
                [binaries / program, *arguments],
                stop_signal=signal.SIGINT,
                log=log,
                lock=lock,
                account=account,
            )
            running.callback(child.stop, STOP_SECONDS)
            return child.alive

        initdb = start(
            "initdb", "-D", f"{own}/data", "-U", "teller", "-A", "trust", "-E", "UTF8", "--locale=C"
        )
        eventually(lambda: not initdb())
        settings = {"listen_addresses": "", "unix_socket_directories": str(own), "max_connections": "200"}
        alive = start(
            "postgres", "-D", f"{own}/data", *(part for s in settings.items() for part in ("-c", "=".join(s)))
        )
        url = f"postgresql:///postgres?host={own}&user=teller"
        eventually(lambda: not alive() or _answers(url))
        yield url


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def _with_database(url: str, name: str) -> str:
    return re.sub(r"^(\w+://[^/?]*)(/[^?]*)?", rf"\1/{name}", url)


def _with_user(url: str, role: str) -> str:
    """
    The same server as another role: our own servers ask for no password. A given one has no passwords of roles
    for us, and is used as its owner.
    """
    return re.sub(r"\buser=teller$", f"user={role}", url)
