"""
A run of the page: the race without protection and the race with it, one after the other, on the server.

As `teller_api`, in the lab's own tables; Teller's queue is asked through the intake of this process, and decided by
the workers. One run at a time in each process: it is public where it is on.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from lab import arena, kept, paused_holder, tellers_queue
from lab.outcomes import Outcome
from lab.strategies import STRATEGIES
from processor.errors import TellerError
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from api.services import Services

#: More users are for `teller race`: each is a thread of this process and a connection.
USERS_MAX: Final = 50
#: More pieces than this and nobody goes without.
STOCK_MAX: Final = 50
UNPROTECTED: Final = "naive"
PROTECTIONS: Final = tuple(name for name, strategy in STRATEGIES.items() if strategy.holds)


class AnotherRunIsUnderWay(TellerError):
    """Somebody else's race is being run by this process."""

    code = "lab_busy"


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody wants to see."""

    users: int = USERS_MAX
    stock: int = 1
    protection: str = "queue"


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen."""

    choice: Choice
    unprotected: Outcome
    protected: Outcome
    #: With a Redis lock: the same when its holder is paused.
    paused: Outcome | None
    at: datetime

    @property
    def steps(self) -> set[str]:
        """What users did, for the legend."""
        sides = [side for side in (self.unprotected, self.protected, self.paused) if side is not None]
        return {step.name for side in sides for result in side.results for step in result.steps}


@dataclass(frozen=True, slots=True)
class Runner:
    """Lets one run at a time happen."""

    services: Services
    _busy: threading.Lock = field(default_factory=threading.Lock)

    def run(self, choice: Choice) -> UUID:
        """
        Run it; returns where the result is kept. Raises AnotherRunIsUnderWay, and what the lab raises.
        """
        if not self._busy.acquire(blocking=False):
            raise AnotherRunIsUnderWay("another run is under way here: try again in a second")
        try:
            document = self._run(choice)
        finally:
            self._busy.release()
        with self.services.connection() as connection:
            return kept.save(connection, document)

    def read(self, run: UUID) -> Run | None:
        """A run that is kept."""
        with self.services.connection() as connection:
            found = kept.read(connection, run)
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
            counter = tellers_queue.Counter(intake.accept, connection, settings.partitions)
            if not tellers_queue.has_workers(connection):
                raise tellers_queue.NotDecided("no worker is running, so nobody would decide")
            return tellers_queue.race(counter, choice.users, choice.stock)


def read_choice(form: Mapping[str, list[str]]) -> tuple[Choice, dict[str, str]]:
    """What was chosen, and what is wrong with it, by field."""
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
    assert turn is not None  # noqa: S101 - Teller's own way has none, and is not raced here
    return opened.race(name, [turn] * choice.users, choice.stock)
