"""
Run the archive in processes that kill themselves between two steps, as the process dies or as the machine does.

Each line of standard input is a JSON object: the URL of the database, the directory, the number of steps, and whether
the power fails. Steps are answers of the database, and changes and syncs of files. After a failure of the power, the
directory has only what was synced. Each line of standard output is the exit status of such a process: -9 was killed,
0 ended.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from processor.archive import files, run
from processor.storage import connections
from tests.store.archives import LATER

if TYPE_CHECKING:
    from collections.abc import Callable


class Disk:
    """A directory as it is after the power failed: names and contents as they were last synced."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._contents: dict[int, bytes] = {}
        for path in directory.iterdir():
            self._contents[path.stat().st_ino] = path.read_bytes()
        self._names = self._present()
        self._fsync = os.fsync

    def fsync(self, number: int) -> None:
        """Sync a file or the directory."""
        self._fsync(number)
        here = os.fstat(number).st_ino
        if here == self._directory.stat().st_ino:
            self._names = self._present()
            return
        [path] = [path for path in self._directory.iterdir() if path.stat().st_ino == here]
        self._contents[here] = path.read_bytes()

    def lose_power(self) -> None:
        """Leave only what was synced."""
        kept = {name: self._contents.get(inode, b"") for name, inode in self._names.items()}
        for path in self._directory.iterdir():
            path.unlink()
        for name, content in kept.items():
            (self._directory / name).write_bytes(content)

    def _present(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self._directory.iterdir()}


def kill_after(steps: int, directory: Path, *, power_fails: bool) -> None:
    """Kill this process after this number of steps."""
    disk = Disk(directory)
    done = itertools.count(1)

    def count(step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            result = step(*arguments, **named)
            if next(done) == steps:
                if power_fails:
                    disk.lose_power()
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    psycopg.Connection.wait = count(psycopg.Connection.wait)  # type: ignore[method-assign]
    os.fsync = count(disk.fsync)
    os.rename = count(os.rename)
    os.unlink = count(os.unlink)
    files.write = count(files.write)
    files.read = count(files.read)


def _run(order: dict[str, Any]) -> None:
    directory = Path(order["directory"])
    kill_after(order["steps"], directory, power_fails=order["power_fails"])
    connection = connections.connect(order["url"], application_name="test archive")
    run.run(connection, directory, LATER, 0, "olga")


def main() -> None:
    """Fork a process for each line."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _run(json.loads(line))
            except BaseException:  # noqa: BLE001 - the status reports it
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    main()
