"""
Dramatiq over Redis: a queue for each lane, a process with one thread for each queue.

One thread is what keeps a queue in order while nothing fails. Its consumers poll: each 10 ms, here.
"""

from __future__ import annotations

import multiprocessing
import signal
from typing import TYPE_CHECKING

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from job import LANES, REDIS_URL, decide, lane, main

if TYPE_CHECKING:
    from collections.abc import Sequence

    from job import Job

#: How long a consumer sleeps when its queue is empty, in milliseconds.
POLL_MS = 10

broker = RedisBroker(client=redis.Redis.from_url(REDIS_URL), middleware=[])
dramatiq.set_broker(broker)
actors = [
    dramatiq.actor(decide, actor_name=f"decide-{number}", queue_name=f"lane-{number}")
    for number in range(LANES)
]


def enqueue(jobs: Sequence[Job]) -> None:
    """One message for each request."""
    for request, key in jobs:
        actors[lane(key)].send(request)


def consume(number: int) -> None:
    """One queue, one thread."""
    worker = dramatiq.Worker(broker, queues={f"lane-{number}"}, worker_threads=1, worker_timeout=POLL_MS)
    worker.start()
    signal.signal(signal.SIGTERM, lambda *_: worker.stop(timeout=1_000))
    worker.join()
    signal.pause()


def work() -> None:
    """One process for each lane."""
    lanes = [multiprocessing.Process(target=consume, args=(number,), daemon=True) for number in range(LANES)]
    for one in lanes:
        one.start()
    for one in lanes:
        one.join()


if __name__ == "__main__":
    main(prepare=lambda: None, enqueue=enqueue, work=work)
