"""
Apply the migration of a folder, and end by SIGKILL after one of its statements.

Run as `python -m tests.store.killed_migration URL FOLDER STATEMENTS`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import psycopg

from processor.storage.migrations import files, runner


class DyingConnection(psycopg.Connection[tuple[Any, ...]]):
    """
    A connection whose process is killed when `statements_left` statements were executed.
    """

    statements_left = 0

    def execute(self, *arguments: Any, **named: Any) -> psycopg.Cursor[tuple[Any, ...]]:
        """
        Execute a statement; after the last one, kill this process.
        """
        result = super().execute(*arguments, **named)
        self.statements_left -= 1
        if self.statements_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


if __name__ == "__main__":
    url, folder, statements = sys.argv[1:]
    connection = DyingConnection.connect(url, autocommit=True)
    connection.statements_left = int(statements)
    [migration] = files.read(Path(folder))
    runner.apply(connection, migration)
