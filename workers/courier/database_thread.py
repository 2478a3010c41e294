"""
Blocking work beside the event loop: a connection to PostgreSQL on a thread of its own, and a thread for one work.

Daemon threads, unlike those of asyncio's executors: one that hangs never holds up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from processor.storage.connections import Connection

#: The rest after something was claimed, in seconds: what ends meanwhile makes room for one claim of several.
GATHER_SECONDS: Final = 0.01

Result = TypeVar("Result")


class _Job(Generic[Result]):
    """Something to be done on another thread, and the future that the event loop waits for."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Result] = self._loop.create_future()

    def do(self) -> None:
        """On the other thread."""
        try:
            result = self._work()
        except BaseException as fault:  # noqa: BLE001 - raised again where it is waited for
            self._tell(self.future.set_exception, fault)
        else:
            self._tell(self.future.set_result, result)

    def _tell(self, tell: Callable[[Any], None], what: object) -> None:
        def unless_given_up() -> None:
            if not self.future.done():
                tell(what)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(unless_given_up)


async def in_thread(work: Callable[[], Result]) -> Result:
    """Do it on a thread that lives only for it."""
    job = _Job(work)
    threading.Thread(target=job.do, name="courier work", daemon=True).start()
    return await job.future


class Line:
    """
    One connection, made when it is first needed, on one thread. After any fault it is made anew: nobody knows what
    the old one is in the middle of.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="courier line", daemon=True).start()

    async def run(
        self,
        work: Callable[..., Result],
        *arguments: Any,
    ) -> Result:
        """`work(connection, *arguments)`, after what was asked for before. Raises what it raises."""

        def with_connection() -> Result:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return work(self._connection, *arguments)
            except BaseException:
                self._hang_up()
                raise

        job = _Job(with_connection)
        self._jobs.put(job)
        return await job.future

    def close(self) -> None:
        """End the thread when it is done with what it has."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.do()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
