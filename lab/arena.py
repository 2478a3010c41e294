"""
The arena runs races: each user has a connection, and a barrier releases all of them at the same instant.

A race removes its rows from the database when it is over or cancelled.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from typing import TYPE_CHECKING, Final

import psycopg
from redis.exceptions import RedisError

from lab.outcomes import Outcome, UserResult
from lab.strategies import SQL, Turn
from processor.errors import TellerError
from processor.ids import new_id
from processor.storage import connections
from workers.doorbell import clients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from redis import Redis

    from processor.storage.connections import Connection

#: The users of one race. Each needs a thread and a connection, which a process and a usual PostgreSQL can spare.
USERS_MAX: Final = 200
#: The stock of one race, far beyond the number of users.
STOCK_MAX: Final = 1_000_000
#: The limit of one statement of a race, including waits for locks.
STATEMENT_TIMEOUT_MS: Final = 30_000
#: A Redis that takes longer to answer counts as unavailable.
REDIS_TIMEOUT_SECONDS: Final = 5.0
#: The time in which all users must be ready, and the time in which they must leave a cancelled race.
READY_SECONDS: Final = 10.0
LEAVE_SECONDS: Final = 1.0
#: The interval between two checks whether they have left.
LEAVE_PAUSE_SECONDS: Final = 0.05


class TooManyUsers(TellerError):
    """PostgreSQL accepts fewer connections than there are users."""

    code = "too_many_users"


class RedisUnavailable(TellerError):
    """The race needs the Redis lock, and Redis does not answer."""

    code = "redis_unavailable"


class NotReady(TellerError):
    """The machine is too busy for this number of users."""

    code = "users_not_ready"


class Crowd:
    """
    Users as threads. They are released at the same instant, when all of them are ready. `clock` starts then.
    """

    def __init__(self, acts: Sequence[Callable[[Crowd], None]]) -> None:
        self._released = 0.0
        self._barrier = threading.Barrier(len(acts), action=self._release, timeout=READY_SECONDS)
        self._threads = [
            threading.Thread(target=self._take_part, args=(act,), name=f"user-{number}", daemon=True)
            for number, act in enumerate(acts, 1)
        ]
        #: Set when the race is cancelled.
        self.cancelled = threading.Event()

    def clock(self) -> float:
        """Return the milliseconds since the release."""
        return (time.perf_counter() - self._released) * 1000

    def start(self) -> None:
        """Start the users."""
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        """Return whether a user is still running."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait until all users are done. Raises NotReady if they were not released."""
        for thread in self._threads:
            thread.join()
        if self._barrier.broken:
            raise NotReady(
                f"{len(self._threads)} users were not ready within {READY_SECONDS:.0f} s: try fewer"
            )

    def cancel(self, interrupt: Callable[[], None] = lambda: None) -> None:
        """
        Cancel the race, and wait a moment for its users.

        `interrupt` is called repeatedly: one call would miss a user that is between two waits.
        """
        self.cancelled.set()
        self._barrier.abort()
        end = time.monotonic() + LEAVE_SECONDS
        while self.busy() and time.monotonic() < end:
            interrupt()
            time.sleep(LEAVE_PAUSE_SECONDS)

    def _release(self) -> None:
        self._released = time.perf_counter()

    def _take_part(self, act: Callable[[Crowd], None]) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            self._barrier.wait()
            act(self)


class Arena:
    """Runs races. `opened` creates one."""

    def __init__(self, url: str, redis: Redis, control: Connection) -> None:
        self._url = url
        self._redis = redis
        self._control = control
        self._connections: list[Connection] = []

    def race(self, strategy: str, turns: Sequence[Callable[[Turn], None]], stock: int) -> Outcome:
        """
        Run one race with a user for each turn.

        Raises TooManyUsers, NotReady, DatabaseUnavailable.
        """
        self._open_connections(len(turns))
        results = [UserResult(number) for number in range(1, len(turns) + 1)]
        with self._thing(stock) as thing:
            users = zip(turns, results, self._connections, strict=False)  # an earlier race may have had more
            crowd = Crowd([functools.partial(self._act, thing, *user) for user in users])
            try:
                crowd.start()
                crowd.join()
            except BaseException:
                crowd.cancel(self._interrupt)
                raise
            [(final, approved)] = self._control.execute(SQL["read_outcome"], {"thing": thing}).fetchall()
        return Outcome(strategy, stock, approved, final, results)

    def need_redis(self) -> None:
        """Check that Redis answers. Raises RedisUnavailable."""
        try:
            self._redis.ping()
        except RedisError as fault:
            raise RedisUnavailable(f"Redis does not answer: {connections.first_line(fault)}") from fault

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    def _act(
        self,
        thing: UUID,
        turn: Callable[[Turn], None],
        result: UserResult,
        connection: Connection,
        crowd: Crowd,
    ) -> None:
        """Run the turn of one user. An error becomes the result of that user, without an approval."""
        try:
            turn(Turn(result, thing, connection, self._redis, crowd.clock, crowd.cancelled))
        except (psycopg.Error, RedisError, TellerError) as fault:
            result.approved = False
            result.error = connections.first_line(fault)

    def _open_connections(self, users: int) -> None:
        """Open a connection for each user. The next race uses them again."""
        missing = users - len(self._connections)
        if missing <= 0:
            return
        [(free,)] = self._control.execute(SQL["count_free_connections"]).fetchall()
        if missing > free:
            raise TooManyUsers(
                f"{users} users need as many connections, and PostgreSQL has {max(0, free)} left (max_connections)"
            )
        for _ in range(missing):
            self._connections.append(_connect(self._url))

    @contextlib.contextmanager
    def _thing(self, stock: int) -> Iterator[UUID]:
        thing = new_id()
        self._control.execute(SQL["remove_abandoned"])
        self._control.execute(SQL["put_thing"], {"thing": thing, "quantity": stock})
        try:
            yield thing
        finally:
            self._control.execute(SQL["remove"], {"thing": thing})

    def _interrupt(self) -> None:
        """End all waits in PostgreSQL."""
        for connection in self._connections:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=LEAVE_SECONDS)


@contextlib.contextmanager
def opened(url: str, redis_url: str) -> Iterator[Arena]:
    """Open an arena on a database and a Redis. Raises DatabaseUnavailable."""
    with (
        contextlib.closing(_connect(url)) as control,
        contextlib.closing(
            clients.connect(
                redis_url, timeout_seconds=REDIS_TIMEOUT_SECONDS, retries=1, connections_max=USERS_MAX + 1
            )
        ) as redis,
        contextlib.closing(Arena(url, redis, control)) as arena,
        connections.faults(),
    ):
        yield arena


def _connect(url: str) -> Connection:
    return connections.connect(
        url, application_name="teller race lab", statement_timeout_ms=STATEMENT_TIMEOUT_MS
    )
