"""
The strategies of programs when many users want the same thing. Each is a function for the whole turn of one user.

A turn takes one piece if there is one, and stores the approval. The strategies differ in how they keep two turns
apart. Teller's strategy stands in `tellers_queue`, because it makes requests like any client.
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

#: The expiry of a Redis lock, in case its holder dies.
LOCK_EXPIRY_SECONDS: Final = 10.0
#: The pause between two tries to get the lock.
LOCK_PAUSE_SECONDS: Final = 0.01
#: The time after which a user gives up waiting for the lock.
LOCK_TIMEOUT_SECONDS: Final = 30.0

SQL: Final = statements.beside(__file__)


class LockNotGranted(TellerError):
    """A user did not get the Redis lock in time."""

    code = "lock_not_granted"


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of one user, with its own connection."""

    result: UserResult
    thing: UUID
    connection: Connection
    redis: Redis
    #: Milliseconds since the release.
    clock: Callable[[], float]
    #: Set when the race is cancelled.
    cancelled: threading.Event

    @contextlib.contextmanager
    def step(self, name: StepName) -> Iterator[None]:
        """Record the block as one step."""
        started = self.clock()
        try:
            yield
        finally:
            self.result.steps.append(Step(name, started, self.clock()))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in a transaction (READ COMMITTED), and record its commit as a step."""
        with self.connection.transaction():
            yield
            started = self.clock()
        self.result.steps.append(Step("commit", started, self.clock()))

    def read(self, query: str = "read_quantity") -> int:
        """Read the quantity."""
        [(quantity,)] = self.connection.execute(SQL[query], {"thing": self.thing}).fetchall()
        self.result.seen = quantity
        return int(quantity)

    def write(self, quantity: int) -> None:
        """Write the quantity."""
        self.connection.execute(SQL["write_quantity"], {"thing": self.thing, "quantity": quantity})

    def take_one(self) -> bool:
        """Take a piece if there is one, in one statement. Returns whether there was one."""
        return self.connection.execute(SQL["take_one"], {"thing": self.thing}).rowcount == 1

    def approve(self) -> None:
        """Store the approval of the user."""
        self.connection.execute(SQL["approve"], {"thing": self.thing, "user": self.result.user})
        self.result.approved = True


def naive(turn: Turn) -> None:
    """Read the quantity, check it in the program, and write the difference, as in textbooks."""
    with turn.transaction():
        _read_check_write(turn)


def atomic(turn: Turn) -> None:
    """Check and write in one statement. The user is approved if it changed a row."""
    with turn.transaction(), turn.step("write"):
        if turn.take_one():
            turn.approve()


def rowlock(turn: Turn) -> None:
    """Work as in textbooks, but lock the row from the read until the end of the transaction."""
    with turn.transaction():
        with turn.step("wait"):
            quantity = turn.read("read_quantity_for_update")
        _check_write(turn, quantity)


def redislock(
    turn: Turn, expiry_seconds: float = LOCK_EXPIRY_SECONDS, after_read: Callable[[], None] | None = None
) -> None:
    """
    Work as in textbooks, while holding a lock in Redis.

    The lock is set by SET NX PX with its own token, and released by a script that deletes only that token.
    `after_read` is called between read and check, to demonstrate how the lock fails.
    """
    lock = turn.redis.lock(f"teller:lab:{turn.thing}", timeout=expiry_seconds, thread_local=False)
    with turn.step("wait"):
        end = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while not lock.acquire(blocking=False):
            if turn.cancelled.wait(LOCK_PAUSE_SECONDS) or time.monotonic() > end:
                raise LockNotGranted("did not get the lock")
    try:
        with turn.transaction():
            _read_check_write(turn, after_read)
    finally:
        with contextlib.suppress(LockNotOwnedError):  # it expired, and another user may hold it now
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
    """A strategy and its description."""

    name: str
    title: str
    #: One line on how it works.
    method: str
    #: Whether it should prevent races. The others demonstrate them.
    holds: bool
    #: The turn of one user. None for Teller's queue.
    turn: Callable[[Turn], None] | None


STRATEGIES: Final = {
    one.name: one
    for one in (
        Strategy(
            "naive",
            "no protection",
            "read the quantity, check it in the program, write the difference",
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
            "SELECT … FOR UPDATE: the next user waits until the row is unlocked",
            holds=True,
            turn=rowlock,
        ),
        Strategy(
            "redislock",
            "Redis lock",
            "SET NX PX with a token, released by its owner alone: the next user retries until it is free",
            holds=True,
            turn=redislock,
        ),
        Strategy(
            "queue",
            "Teller's queue",
            "accepted at once, and decided one after the other by the worker that owns the partition",
            holds=True,
            turn=None,
        ),
    )
}
