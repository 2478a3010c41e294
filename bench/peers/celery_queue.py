"""
Celery over Redis: one queue and one worker process without a pool, so that it keeps its order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import Celery
from job import REDIS_SOCKET, REDIS_URL, decide, main

if TYPE_CHECKING:
    from collections.abc import Sequence

    from job import Job

#: Messages that the worker fetches in advance.
PREFETCH = 128

app = Celery("bench", broker=f"redis+socket://{REDIS_SOCKET}" if REDIS_SOCKET else REDIS_URL)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=PREFETCH,
    worker_concurrency=1,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="decide")
def task(request: int) -> None:
    """Run the job."""
    decide(request)


def enqueue(jobs: Sequence[Job]) -> None:
    """Send one message for each request, over one connection."""
    with app.producer_pool.acquire(block=True) as producer:
        for request, _ in jobs:
            task.apply_async((request,), producer=producer)


def work() -> None:
    """Run the worker."""
    app.worker_main(
        [
            "worker",
            "--pool=solo",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "-l",
            "error",
        ]
    )


if __name__ == "__main__":
    main(prepare=lambda: None, enqueue=enqueue, work=work)
