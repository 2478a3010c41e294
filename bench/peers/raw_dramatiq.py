"""
Dramatiq over Redis: several queues, and a process with one thread for each queue.

One thread keeps a queue in order while nothing fails. Its consumers poll, here each 10 ms.
"""

from __future__ import annotations

import multiprocessing
import signal
from typing import TYPE_CHECKING

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from job import CONCURRENCY, REDIS_URL, decide, main, queue_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from job import Job

#: Sleep of a consumer whose queue is empty, in milliseconds.
POLL_MS = 10

broker = RedisBroker(client=redis.Redis.from_url(REDIS_URL), middleware=[])
dramatiq.set_broker(broker)
actors = [
    dramatiq.actor(decide, actor_name=f"decide-{number}", queue_name=f"queue-{number}")
    for number in range(CONCURRENCY)
]


def enqueue(jobs: Sequence[Job]) -> None:
    """Send one message for each request."""
    for request, key in jobs:
        actors[queue_number(key)].send(request)


def consume(number: int) -> None:
    """Consume one queue with one thread."""
    worker = dramatiq.Worker(broker, queues={f"queue-{number}"}, worker_threads=1, worker_timeout=POLL_MS)
    worker.start()
    signal.signal(signal.SIGTERM, lambda *_: worker.stop(timeout=1_000))
    worker.join()
    signal.pause()


def work() -> None:
    """Run one process for each queue."""
    consumers = [
        multiprocessing.Process(target=consume, args=(number,), daemon=True) for number in range(CONCURRENCY)
    ]
    for one in consumers:
        one.start()
    for one in consumers:
        one.join()


if __name__ == "__main__":
    main(prepare=lambda: None, enqueue=enqueue, work=work)
