"""
Archives for tests: a run by the role that removes requests, and what `teller verify` finds afterwards.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from processor.archive import run
from processor.storage import connections
from processor.verify.checks import verify

if TYPE_CHECKING:
    from pathlib import Path

    from processor.archive.run import Report
    from tests.servers import Database
    from tests.store.store import Store

#: Every request of a test is finished before it.
LATER: Final = datetime(2998, 1, 1, tzinfo=UTC)


def archive(database: Database, directory: Path, before: datetime = LATER) -> Report:
    """Archive what was finished before a time, however short ago."""
    with contextlib.closing(connections.connect(database.archive_url, application_name="test")) as connection:
        return run.run(connection, directory, before, 0, "olga")


def discrepancies(store: Store) -> list[str]:
    """Return what `teller verify` finds."""
    return [str(one) for one in verify(store.owner)]
