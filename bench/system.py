"""
A whole Teller to measure: `teller up` in a home of its own, and a client that speaks to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

READY = "teller is ready: "
STOP_SECONDS = 15


@dataclass(frozen=True)
class Teller:
    """A Teller that runs: where it is, its keys, its home, and its main process."""

    url: str
    admin_key: str
    client_key: str
    home: Path
    pid: int

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """One call, as admin if nothing is said, waited for; its JSON."""
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

    def open(self, *names: str, available: int = 10**9) -> None:
        """Make resources."""
        for name in names:
            made = self.ask("POST", "/v1/resources", {"id": name, "kind": "stock", "available": available})
            assert made["status"] == "completed", made


@contextlib.contextmanager
def up(**environment: str) -> Iterator[Teller]:
    """`teller up` on a free port, from its ready line until its end."""
    with tempfile.TemporaryDirectory(prefix="teller-bench-", dir="/var/tmp") as home:
        Path(home).chmod(0o755)  # as root, PostgreSQL runs as another account
        log = Path(home) / "up.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "processor.cli.teller", "up", "--port", str(free_port())],
                env={**os.environ, "TELLER_HOME": home, **environment},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        try:
            assert process.stdout is not None
            url = next(
                (line.removeprefix(READY).strip() for line in process.stdout if line.startswith(READY)), None
            )
            assert url, log.read_text()
            keys = dict(line.split("=", 1) for line in (Path(home) / "keys.env").read_text().split())
            yield Teller(url, keys["TELLER_ADMIN_KEY"], keys["TELLER_CLIENT_KEY"], Path(home), process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_SECONDS)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
