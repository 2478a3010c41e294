"""
Bulk actions go on in the background of this process, part by part, while people look at something else.

Nothing is lost with the process: how far an action is stands in the database, and whoever looks at it next has it go
on, wherever that is.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import structlog

from processor.errors import DatabaseUnavailable
from processor.operations import bulk_actions

if TYPE_CHECKING:
    from uuid import UUID

    from api.services import Services

#: Actions that one process does at once: each has a thread and a connection.
AT_ONCE_MAX: Final = 2

log = structlog.get_logger()


class Runner:
    """The bulk actions that this process is at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[UUID] = set()

    def go_on(self, services: Services, action: UUID) -> None:
        """
        Have it done to its end, unless this process is at it already, or has enough to do. Where another process
        is at it, nothing comes of that.
        """
        with self._lock:
            if action in self._running or len(self._running) >= AT_ONCE_MAX:
                return
            self._running.add(action)
        threading.Thread(target=self._run, args=(services, action), name="bulk", daemon=True).start()

    def _run(self, services: Services, action: UUID) -> None:
        try:
            while do_part(services, action):
                pass
        except DatabaseUnavailable as fault:
            log.warning("bulk_action_interrupted", action=str(action), error=str(fault))
        except Exception:
            log.exception("bulk_action_broke", action=str(action))
        finally:
            with self._lock:
                self._running.discard(action)


def do_part(services: Services, action: UUID) -> bool:
    """Do the next part, and ring for it. False: there is no more for us to do. Raises DatabaseUnavailable."""
    with services.connection() as connection:
        part = bulk_actions.run_part(connection, action, services.intake.accept)
    if part is None:
        return False
    services.doorbell.notify_all(part.partitions)
    return not part.is_last
