"""
A run of the page: the race without protection and the race with it, one after the other, on the server.

A run uses the role `teller_api` and the lab's own tables. For Teller's queue it uses the intake of this process, and
the workers decide. Each process runs one race at a time, because the page is public where it is on.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from lab import arena, paused_holder, stored_results, tellers_queue
from lab.outcomes import Outcome
from lab.strategies import STRATEGIES
from processor.errors import TellerError
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from api.services import Services

#: Each user is a thread of this process and a connection. `teller race` allows more.
USERS_MAX: Final = 50
#: With more pieces, every user would get one.
STOCK_MAX: Final = 50
UNPROTECTED: Final = "naive"
PROTECTIONS: Final = tuple(name for name, strategy in STRATEGIES.items() if strategy.holds)


class AnotherRunIsUnderWay(TellerError):
    """Another race is running in this process."""

    code = "lab_busy"


@dataclass(frozen=True, slots=True)
class Choice:
    """The choices of the form."""

    users: int = USERS_MAX
    stock: int = 1
    protection: str = "queue"


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run."""

    choice: Choice
    unprotected: Outcome
    protected: Outcome
    #: With a Redis lock, also the race in which its holder is paused.
    paused: Outcome | None
    at: datetime

    @property
    def steps(self) -> set[str]:
        """Return the names of all steps, for the legend."""
        sides = [side for side in (self.unprotected, self.protected, self.paused) if side is not None]
        return {step.name for side in sides for result in side.results for step in result.steps}


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs one race at a time."""

    services: Services
    _busy: threading.Lock = field(default_factory=threading.Lock)

    def run(self, choice: Choice) -> UUID:
        """
        Run a race. Returns the id of the stored result.

        Raises AnotherRunIsUnderWay and the errors of the lab.
        """
        if not self._busy.acquire(blocking=False):
            raise AnotherRunIsUnderWay("another run is under way here: try again in a second")
        try:
            document = self._run(choice)
        finally:
            self._busy.release()
        with self.services.connection() as connection:
            return stored_results.save(connection, document)

    def read(self, run: UUID) -> Run | None:
        """Return a stored run, or None."""
        with self.services.connection() as connection:
            found = stored_results.read(connection, run)
        if found is None:
            return None
        document = found.document
        sides = [None if side is None else Outcome.read(side) for side in document["sides"]]
        unprotected, protected, paused = sides
        assert unprotected is not None  # noqa: S101 - only the last one may be missing
        assert protected is not None  # noqa: S101 - as above
        return Run(Choice(**document["choice"]), unprotected, protected, paused, found.at)

    def _run(self, choice: Choice) -> dict[str, Any]:
        settings = self.services.settings
        with arena.opened(settings.api_database_url, settings.redis_url) as opened:
            unprotected = _race(opened, UNPROTECTED, choice)
            if choice.protection == "queue":
                protected, paused = self._race_in_queue(choice), None
            elif choice.protection == "redislock":
                opened.need_redis()
                protected, paused = _race(opened, "redislock", choice), paused_holder.demonstrate(opened)
            else:
                protected, paused = _race(opened, choice.protection, choice), None
        chosen = {"users": choice.users, "stock": choice.stock, "protection": choice.protection}
        sides = [unprotected.document(), protected.document(), paused and paused.document()]
        return {"choice": chosen, "sides": sides}

    def _race_in_queue(self, choice: Choice) -> Outcome:
        settings, intake = self.services.settings, self.services.intake
        connecting = connections.connect(
            settings.api_database_url,
            application_name="teller race lab",
            statement_timeout_ms=arena.STATEMENT_TIMEOUT_MS,
        )
        with contextlib.closing(connecting) as connection, connections.faults():
            queue = tellers_queue.QueueAccess(intake.accept, connection, settings.partitions)
            if not tellers_queue.has_workers(connection):
                raise tellers_queue.NotDecided("no worker is running to decide the requests")
            return tellers_queue.race(queue, choice.users, choice.stock)


def read_choice(form: Mapping[str, list[str]]) -> tuple[Choice, dict[str, str]]:
    """Return the choices of a form, and its mistakes by field."""
    wrong: dict[str, str] = {}

    def whole(name: str, most: int, default: int) -> int:
        [text] = form.get(name, [str(default)])[:1]
        if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= most:
            return int(text[:9])
        wrong[name] = f"a whole number from 1 to {most}"
        return default

    default = Choice()
    [protection] = form.get("protection", [default.protection])[:1]
    if protection not in PROTECTIONS:
        wrong["protection"] = "one of those in the list"
        protection = default.protection
    return Choice(
        whole("users", USERS_MAX, default.users), whole("stock", STOCK_MAX, default.stock), protection
    ), wrong


def _race(opened: arena.Arena, name: str, choice: Choice) -> Outcome:
    turn = STRATEGIES[name].turn
    assert turn is not None  # noqa: S101 - only Teller's queue has none, and it is raced elsewhere
    return opened.race(name, [turn] * choice.users, choice.stock)
