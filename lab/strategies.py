"""
What a program can do when many users want the same thing: one function a strategy, each a user's whole turn.

Each takes one piece if there is one, and notes the approval. They differ in what keeps two of them apart. Teller's
own way is not here: it is asked like by any client (`tellers_queue`).
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from redis.exceptions import LockNotOwnedError

from lab.outcomes import Step, StepName, UserResult
from processor.errors import TellerError
from processor.storage import statements

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from redis import Redis

    from processor.storage.connections import Connection

#: A Redis lock runs out by itself after so long, in seconds, in case its holder is no more.
LOCK_EXPIRY_SECONDS: Final = 10.0
#: Between two tries to get the lock, in seconds.
LOCK_PAUSE_SECONDS: Final = 0.01
#: Who does not get the lock for so long gives up, in seconds.
LOCK_PATIENCE_SECONDS: Final = 30.0

SQL: Final = statements.beside(__file__)


class LockNotGranted(TellerError):
    """A user waited for the Redis lock in vain."""

    code = "lock_not_granted"


@dataclass(frozen=True, slots=True)
class Turn:
    """One user's turn: who it is, what it is after, and its own connection."""

    result: UserResult
    thing: UUID
    connection: Connection
    redis: Redis
    #: Milliseconds since all were let go.
    clock: Callable[[], float]
    #: Set when the race is called off.
    called_off: threading.Event

    @contextlib.contextmanager
    def step(self, name: StepName) -> Iterator[None]:
        """What happens inside is one step."""
        started = self.clock()
        try:
            yield
        finally:
            self.result.steps.append(Step(name, started, self.clock()))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction of the database's default isolation, READ COMMITTED; its commit is a step."""
        with self.connection.transaction():
            yield
            started = self.clock()
        self.result.steps.append(Step("commit", started, self.clock()))

    def read(self, query: str = "read_quantity") -> int:
        """How many there are."""
        [(quantity,)] = self.connection.execute(SQL[query], {"thing": self.thing}).fetchall()
        self.result.seen = quantity
        return int(quantity)

    def write(self, quantity: int) -> None:
        """So many are left."""
        self.connection.execute(SQL["write_quantity"], {"thing": self.thing, "quantity": quantity})

    def take_one(self) -> bool:
        """Take one if there is one, in one statement."""
        return self.connection.execute(SQL["take_one"], {"thing": self.thing}).rowcount == 1

    def approve(self) -> None:
        """Note that the user may have one."""
        self.connection.execute(SQL["approve"], {"thing": self.thing, "user": self.result.user})
        self.result.approved = True


def naive(turn: Turn) -> None:
    """Read how many there are, check in the program, write what it worked out: as in the textbook."""
    with turn.transaction():
        _read_check_write(turn)


def atomic(turn: Turn) -> None:
    """Check and write in one statement; who changed a row was approved."""
    with turn.transaction(), turn.step("write"):
        if turn.take_one():
            turn.approve()


def rowlock(turn: Turn) -> None:
    """As the textbook, but the read locks the row until the end of the transaction."""
    with turn.transaction():
        with turn.step("wait"):
            quantity = turn.read("read_quantity_for_update")
        _check_write(turn, quantity)


def redislock(
    turn: Turn, expiry_seconds: float = LOCK_EXPIRY_SECONDS, after_read: Callable[[], None] | None = None
) -> None:
    """
    As the textbook, while holding a lock in Redis: SET NX PX with a token of one's own, released by a script that
    deletes only one's own. `after_read` is called between read and check, for those who want to see it fail.
    """
    lock = turn.redis.lock(f"teller:lab:{turn.thing}", timeout=expiry_seconds, thread_local=False)
    with turn.step("wait"):
        end = time.monotonic() + LOCK_PATIENCE_SECONDS
        while not lock.acquire(blocking=False):
            if turn.called_off.wait(LOCK_PAUSE_SECONDS) or time.monotonic() > end:
                raise LockNotGranted("did not get the lock")
    try:
        with turn.transaction():
            _read_check_write(turn, after_read)
    finally:
        with contextlib.suppress(LockNotOwnedError):  # it ran out: it is another's now, and left alone
            lock.release()


def _read_check_write(turn: Turn, after_read: Callable[[], None] | None = None) -> None:
    with turn.step("read"):
        quantity = turn.read()
    if after_read is not None:
        with turn.step("pause"):
            after_read()
    _check_write(turn, quantity)


def _check_write(turn: Turn, quantity: int) -> None:
    with turn.step("check"):
        enough = quantity >= 1
    if enough:
        with turn.step("write"):
            turn.write(quantity - 1)
            turn.approve()


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy as people choose it."""

    name: str
    title: str
    #: How it works, in one line.
    words: str
    #: Whether it is expected to let nobody through who should not be; one that is not is there to be seen failing.
    holds: bool
    #: A user's turn; None: Teller's own way.
    turn: Callable[[Turn], None] | None


STRATEGIES: Final = {
    one.name: one
    for one in (
        Strategy(
            "naive",
            "no protection",
            "read how many there are, check in the program, write the difference",
            holds=False,
            turn=naive,
        ),
        Strategy(
            "atomic",
            "conditional update",
            "UPDATE … SET quantity = quantity - 1 WHERE quantity >= 1",
            holds=True,
            turn=atomic,
        ),
        Strategy(
            "rowlock",
            "row lock",
            "SELECT … FOR UPDATE: the next one waits until the row is free",
            holds=True,
            turn=rowlock,
        ),
        Strategy(
            "redislock",
            "Redis lock",
            "SET NX PX with a token, released by its owner alone: the next one asks again and again",
            holds=True,
            turn=redislock,
        ),
        Strategy(
            "queue",
            "Teller's queue",
            "accepted at once, decided one after the other by whoever has the partition",
            holds=True,
            turn=None,
        ),
    )
}
