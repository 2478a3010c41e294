"""
Runs a whole Teller for measurements: `teller up` in a new home, and a client for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench import lab, processes
from processor.settings import Settings
from processor.storage import migrations
from teller.embedded.servers import find_running
from workers.doorbell.names import Names
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from processor.storage.connections import Connection

READY = "teller is ready: "
#: One key sends the whole load, so its limit exceeds what any server accepts.
RATE_LIMIT = "1000000"
#: Time for Teller to stop by itself, in seconds. Afterwards it is killed with everything that it started.
STOP_SECONDS = 8
#: Interval between two readings of the progress, in seconds.
LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Teller:
    """A running Teller: its address, its keys, its home, and its main process."""

    url: str
    admin_key: str
    client_key: str
    home: Path
    pid: int

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Send one request, by default as admin, and wait for its outcome. Returns its JSON."""
        request = urllib.request.Request(  # noqa: S310 - our own http URL
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {key or self.admin_key}",
                "Content-Type": "application/json",
                "Idempotency-Key": uuid.uuid4().hex,
                "Prefer": "wait=20",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - likewise
            found: dict[str, Any] = json.load(answer)
            return found

    def open(self, *names: str, available: int = 10**9, **rules: object) -> None:
        """Create resources."""
        for name in names:
            body = {"id": name, "kind": "stock", "available": available, **rules}
            made = self.ask("POST", "/v1/resources", body)
            assert made["status"] == "completed", made

    def pause(self, partition: int) -> None:
        """Let a partition accept requests without deciding them."""
        self.ask("POST", f"/v1/admin/partitions/{partition}/pause", {"reason": "benchmark"})

    def resume(self, partition: int) -> None:
        """Let a partition decide again."""
        self.ask("POST", f"/v1/admin/partitions/{partition}/resume", {"reason": "benchmark"})

    @property
    def host(self) -> str:
        """The value of the Host header."""
        return self.url.removeprefix("http://")

    @cached_property
    def settings(self) -> Settings:
        """The settings that lead to its servers."""
        found = find_running(Settings.from_environment({**os.environ, "TELLER_HOME": str(self.home)}))
        assert found is not None, "its servers do not answer"
        return found.settings

    def connect(self) -> Connection:
        """Connect to its database as the owner."""
        return lab.connect(self.settings.database_url)

    def ring(self, partitions: Iterable[int]) -> None:
        """Notify the workers that there is work, as the API does after a commit."""
        with self.connect() as connection:
            names = Names(migrations.read_installation(connection).id)
        bell = Doorbell(self.settings.redis_url, lambda: names)
        bell.notify_all(partitions)
        bell.close()


def decided(connection: Connection) -> int:
    """Return the number of requests that all partitions have decided."""
    [(count,)] = connection.execute("SELECT sum(sequence)::bigint FROM partitions").fetchall()
    return int(count)


def await_decided(connection: Connection, count: int, seconds: float) -> float:
    """
    Wait until `count` are decided. Returns the time by `time.perf_counter`. Raises AssertionError after
    `seconds`.
    """
    end = time.perf_counter() + seconds
    while (found := decided(connection)) < count:
        assert time.perf_counter() < end, (
            f"after {seconds:.0f} s, {count - found:,} of {count:,} are not decided"
        )
        time.sleep(LOOK_SECONDS)
    assert found == count, f"{found - count:,} more were decided than asked"
    return time.perf_counter()


@contextlib.contextmanager
def up(**environment: str) -> Iterator[Teller]:
    """Run `teller up` on a free port and in a new home, from its ready line until its end."""
    with lab.home() as home, up_in(home, checkout=None, **environment) as teller:
        yield teller


@contextlib.contextmanager
def up_in(home: Path, *, checkout: Path | None = None, **environment: str) -> Iterator[Teller]:
    """Run `teller up` in an existing home, from another checkout of the repository if one is given."""
    log = home / "up.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "teller", "up", "--port", str(free_port())],
            env={**os.environ, "TELLER_HOME": str(home), "TELLER_RATE_LIMIT": RATE_LIMIT, **environment}
            | _path_to(checkout),
            cwd=checkout,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # only this process receives Ctrl-C, and stops it
        )
    try:
        assert process.stdout is not None
        url = next(
            (line.removeprefix(READY).strip() for line in process.stdout if line.startswith(READY)), None
        )
        assert url, log.read_text()
        keys = dict(line.split("=", 1) for line in (home / "keys.env").read_text().split())
        yield Teller(url, keys["TELLER_ADMIN_KEY"], keys["TELLER_CLIENT_KEY"], home, process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            its_own = processes.tree(process.pid)
            process.kill()  # its processes die with it
            process.wait()
            processes.await_gone(its_own)


def _path_to(checkout: Path | None) -> dict[str, str]:
    return {} if checkout is None else {"PYTHONPATH": str(checkout)}


def free_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
