"""
procrastinate: jobs in PostgreSQL. `lock=` is the key, so that one at a time of each key is taken, the oldest first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import procrastinate
import psycopg_pool
from job import CONCURRENCY, DATABASE_URL, STATEMENT, main

if TYPE_CHECKING:
    from collections.abc import Sequence

    from job import Job

#: Jobs stored by one statement.
CHUNK = 1_000

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=DATABASE_URL, min_size=2, max_size=CONCURRENCY + 4)
)
pools: list[psycopg_pool.AsyncConnectionPool] = []
opened: list[procrastinate.App] = []


@app.task(name="decide")
async def decide(request: int) -> None:
    """Run the job, on a connection of its own pool."""
    async with pools[0].connection() as connection:
        await connection.execute(STATEMENT, {"request": request}, prepare=True)


def prepare() -> None:
    """Create its tables and functions."""
    with app.open():
        app.schema_manager.apply_schema()


def enqueue(jobs: Sequence[Job]) -> None:
    """Enqueue one job for each request, in order."""
    if not opened:
        opened.append(app.open())
    for at in range(0, len(jobs), CHUNK):
        made = [
            decide.configure(lock=f"r{key}").make_new_job(request=request)
            for request, key in jobs[at : at + CHUNK]
        ]
        app.job_manager.batch_defer_jobs(jobs=made)


async def consume() -> None:
    """Run one worker, which wakes when a job is announced."""
    async with (
        psycopg_pool.AsyncConnectionPool(
            DATABASE_URL, min_size=CONCURRENCY, max_size=CONCURRENCY, kwargs={"autocommit": True}
        ) as pool,
        app.open_async(),
    ):
        pools.append(pool)
        await app.run_worker_async(concurrency=CONCURRENCY, fetch_job_polling_interval=0.5)


if __name__ == "__main__":
    main(prepare=prepare, enqueue=enqueue, work=lambda: asyncio.run(consume()))
