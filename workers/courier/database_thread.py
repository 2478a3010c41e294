"""
Blocking work beside the event loop: a thread with a connection to PostgreSQL, and a thread for one piece of work.

They are daemon threads, unlike those of asyncio's executors, so a thread that blocks does not delay the end of the
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from processor.storage.connections import Reconnecting

if TYPE_CHECKING:
    from collections.abc import Callable

    from processor.storage.connections import Connection

Result = TypeVar("Result")


class _Job(Generic[Result]):
    """Work for another thread, and the future that the event loop awaits."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Result] = self._loop.create_future()

    def do(self) -> None:
        """Run the work, on the other thread, and set the future."""
        try:
            result = self._work()
        except BaseException as fault:  # noqa: BLE001 - raised again where the future is awaited
            self._complete(self.future.set_exception, fault)
        else:
            self._complete(self.future.set_result, result)

    def _complete(self, complete: Callable[[Any], None], value: object) -> None:
        def unless_cancelled() -> None:
            if not self.future.done():
                complete(value)

        with contextlib.suppress(RuntimeError):  # the loop is closed, and the future has no reader
            self._loop.call_soon_threadsafe(unless_cancelled)


async def in_thread(work: Callable[[], Result]) -> Result:
    """Run the work on a new thread. Returns its result. Raises what it raises."""
    job = _Job(work)
    threading.Thread(target=job.do, name="courier work", daemon=True).start()
    return await job.future


class DatabaseThread:
    """
    One thread with one connection, which is opened for the first job.

    After a fault the next job gets a new connection, because the state of the old one is undefined.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connection = Reconnecting(connect)
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="courier database", daemon=True).start()

    async def run(
        self,
        work: Callable[..., Result],
        *arguments: Any,
    ) -> Result:
        """Run `work(connection, *arguments)` after the jobs before it. Returns its result. Raises what it raises."""

        def with_connection() -> Result:
            try:
                return work(self._connection.get(), *arguments)
            except BaseException:
                self._connection.close()
                raise

        job = _Job(with_connection)
        self._jobs.put(job)
        return await job.future

    def close(self) -> None:
        """End the thread after its last job."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.do()
        self._connection.close()
