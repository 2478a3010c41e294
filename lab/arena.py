"""
Where the races are run: a connection for each user, a barrier, and everybody let go at the same instant.

Leaves nothing behind: what a race puts into the database is removed when it is over or called off.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from typing import TYPE_CHECKING, Final

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from lab.outcomes import Outcome, UserResult
from lab.strategies import SQL, Turn
from processor.errors import TellerError
from processor.ids import new_id
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from processor.storage.connections import Connection

#: More users need more threads and connections than one process and a usual PostgreSQL have to spare.
USERS_MAX: Final = 200
#: More pieces than any number of users can take would show nothing.
STOCK_MAX: Final = 1_000_000
#: No statement of a race takes longer, waits for locks included, in milliseconds.
STATEMENT_TIMEOUT_MS: Final = 30_000
#: A Redis that takes longer to answer counts as away, in seconds.
REDIS_TIMEOUT_SECONDS: Final = 5.0
#: How long all users may take to get ready, and to leave when the race is called off, in seconds.
READY_SECONDS: Final = 10.0
LEAVE_SECONDS: Final = 1.0
#: Between two looks whether they have left, in seconds.
LEAVE_PAUSE_SECONDS: Final = 0.05


class TooManyUsers(TellerError):
    """PostgreSQL does not take as many connections as there are users."""

    code = "too_many_users"


class RedisUnavailable(TellerError):
    """The Redis lock was asked for, and Redis does not answer."""

    code = "redis_unavailable"


class NotReady(TellerError):
    """The machine is too busy for so many users."""

    code = "users_not_ready"


class Crowd:
    """
    Users, each a thread, let go at the same instant: when all of them are ready. `clock` counts from then.
    """

    def __init__(self, acts: Sequence[Callable[[Crowd], None]]) -> None:
        self._released = 0.0
        self._barrier = threading.Barrier(len(acts), action=self._release, timeout=READY_SECONDS)
        self._threads = [
            threading.Thread(target=self._take_part, args=(act,), name=f"user-{number}", daemon=True)
            for number, act in enumerate(acts, 1)
        ]
        #: Set when the race is called off.
        self.called_off = threading.Event()

    def clock(self) -> float:
        """Milliseconds since all were let go."""
        return (time.perf_counter() - self._released) * 1000

    def start(self) -> None:
        """Let them get ready, and go."""
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        """Whether somebody is still at it."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Until everybody is done. Raises NotReady when they never were let go."""
        for thread in self._threads:
            thread.join()
        if self._barrier.broken:
            raise NotReady(
                f"{len(self._threads)} users were not ready within {READY_SECONDS:.0f} s: try fewer"
            )

    def call_off(self, interrupt: Callable[[], None] = lambda: None) -> None:
        """
        Send everybody home, and wait a moment for them. `interrupt` is called again and again: who is between two
        waits when it is called once, would not be woken.
        """
        self.called_off.set()
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
    """See the module. Use `opened`."""

    def __init__(self, url: str, redis: Redis, control: Connection) -> None:
        self._url = url
        self._redis = redis
        self._control = control
        self._connections: list[Connection] = []

    def race(self, strategy: str, turns: Sequence[Callable[[Turn], None]], stock: int) -> Outcome:
        """
        One race: each of the turns is a user's. Raises TooManyUsers, NotReady, DatabaseUnavailable.
        """
        self._make_room(len(turns))
        results = [UserResult(number) for number in range(1, len(turns) + 1)]
        with self._thing(stock) as thing:
            everybody = zip(turns, results, self._connections, strict=False)  # kept connections may be more
            crowd = Crowd([functools.partial(self._act, thing, *one) for one in everybody])
            try:
                crowd.start()
                crowd.join()
            except BaseException:
                crowd.call_off(self._interrupt)
                raise
            [(final, approved)] = self._control.execute(SQL["read_books"], {"thing": thing}).fetchall()
        return Outcome(strategy, stock, approved, final, results)

    def need_redis(self) -> None:
        """Raises RedisUnavailable when Redis does not answer."""
        try:
            self._redis.ping()
        except RedisError as fault:
            raise RedisUnavailable(f"Redis does not answer: {connections.first_line(fault)}") from fault

    def close(self) -> None:
        """Let go of the connections."""
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
        """One user's turn; what goes wrong is that user's result, and nothing was approved then."""
        try:
            turn(Turn(result, thing, connection, self._redis, crowd.clock, crowd.called_off))
        except (psycopg.Error, RedisError, TellerError) as fault:
            result.approved = False
            result.error = connections.first_line(fault)

    def _make_room(self, users: int) -> None:
        """A connection for each user, kept for the next race."""
        missing = users - len(self._connections)
        if missing <= 0:
            return
        [(room,)] = self._control.execute(SQL["count_room"]).fetchall()
        if missing > room:
            raise TooManyUsers(
                f"{users} users need as many connections, and PostgreSQL has {max(0, room)} left (max_connections)"
            )
        for _ in range(missing):
            self._connections.append(_connect(self._url))

    @contextlib.contextmanager
    def _thing(self, stock: int) -> Iterator[UUID]:
        thing = new_id()
        self._control.execute(SQL["remove_forgotten"])
        self._control.execute(SQL["put_thing"], {"thing": thing, "quantity": stock})
        try:
            yield thing
        finally:
            self._control.execute(SQL["remove"], {"thing": thing})

    def _interrupt(self) -> None:
        """Whoever waits in PostgreSQL waits no more."""
        for connection in self._connections:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=LEAVE_SECONDS)


@contextlib.contextmanager
def opened(url: str, redis_url: str) -> Iterator[Arena]:
    """An arena on a database and a Redis. Raises DatabaseUnavailable."""
    with (
        contextlib.closing(_connect(url)) as control,
        contextlib.closing(
            Redis.from_url(
                redis_url,
                socket_timeout=REDIS_TIMEOUT_SECONDS,
                socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
                max_connections=USERS_MAX + 1,
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
