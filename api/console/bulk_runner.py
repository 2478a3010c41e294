"""
The threads that run bulk actions part by part, after the page has answered.

If the process ends, nothing is lost. The progress is in the database, and the next process that shows the action
continues it.
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

#: Actions that one process runs at once. Each has a thread and a connection.
AT_ONCE_MAX: Final = 2

log = structlog.get_logger()


class Runner:
    """The bulk actions that this process runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[UUID] = set()

    def go_on(self, services: Services, action: UUID) -> None:
        """
        Run an action to its end, in a thread of its own.

        Does nothing if this process runs it already, or runs AT_ONCE_MAX actions. If another process runs a part of
        it, the thread ends.
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
    """
    Run the next part of an action, and notify its partitions.

    Returns False if this process has nothing more to run. Raises DatabaseUnavailable.
    """
    with services.connection() as connection:
        part = bulk_actions.run_part(connection, action, services.intake.accept)
    if part is None:
        return False
    services.doorbell.notify_all(part.partitions)
    return not part.is_last
