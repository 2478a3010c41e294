"""
An nginx and an HAProxy of the test's own, for tests that need a proxy before Teller. They are skipped without one.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Where Debian installs the proxies, which PATH of an ordinary user does not have.
PLACES = "/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin:/opt/homebrew/bin"
#: The time in which a proxy stops, in seconds.
STOP_SECONDS = 10.0


def program(name: str) -> str:
    """Return the path of an installed program. Skips the test without it."""
    found = shutil.which(name, path=PLACES)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextlib.contextmanager
def nginx(folder: Path, port: int, http: str) -> Iterator[None]:
    """While it lasts, an nginx with this content of its block `http` listens on a port."""
    folder.mkdir(exist_ok=True)
    bodies = [
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    ]
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n{_as_root()}events {{}}\n"
        f"http {{\naccess_log {folder}/access.log;\n{' '.join(bodies)}\n{http}\n}}\n"
    )
    with running([program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")], folder, port):
        yield


@contextlib.contextmanager
def running(command: Sequence[str], folder: Path, port: int) -> Iterator[None]:
    """While it lasts, a command runs that listens on a port."""
    log = folder / "output.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            eventually(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()


def listens(port: int) -> bool:
    """Say whether a process of this machine listens on a port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _as_root() -> str:
    """Return the line with which the workers of a root's nginx may use the folder of the test."""
    return "user root;\n" if Path("/proc/self").owner() == "root" else ""


@contextlib.contextmanager
def haproxy(folder: Path, port: int, config: str) -> Iterator[None]:
    """While it lasts, an HAProxy with this configuration listens on a port."""
    folder.mkdir(exist_ok=True)
    (folder / "haproxy.cfg").write_text(config)
    with running([program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")], folder, port):
        yield
