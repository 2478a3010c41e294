"""
The check of Redis: whether it carries notifications.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from processor.storage import connections, migrations
from processor.storage.server_checks import Problem
from workers.doorbell.check import LOOKS, RedisCheck
from workers.doorbell.condition import REMEDIES
from workers.doorbell.names import Names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings


def problems(settings: Settings) -> Iterator[Problem]:
    """Look as each process does. Without the database, which has the names, only look whether it answers."""

    def find_names() -> Names:
        with (
            contextlib.closing(
                connections.connect(settings.database_url, application_name="teller check")
            ) as connection,
            connections.faults(),
        ):
            return Names(migrations.read_installation(connection).id)

    check = RedisCheck(settings.redis_url, functools.cache(find_names))
    found = [check.look() for _ in range(LOOKS)]
    check.stop()
    if (condition := found[-1]) is not None:
        yield Problem(
            f"redis_{condition}",
            breaks_a_promise=False,
            detail=f"REDIS_URL: {REMEDIES[condition]}; requests are decided more slowly meanwhile",
        )
