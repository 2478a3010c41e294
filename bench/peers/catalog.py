"""
The peers: which program, and in which setting.

Each setting is the fastest found for it that keeps its promise; where a key's requests must not overtake each other,
that means one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """
    `rate`: roughly what it decides in a second for one key, so that a run takes about as long as planned.
    `lanes`: how many keys it works on at once, where there are many.
    """

    name: str
    program: str
    setting: str
    rate: int
    lanes: int = 4
    #: Whether it has a place in the latency table.
    is_paced: bool = False

    @property
    def needs_node(self) -> bool:
        """Whether it is a Node.js program."""
        return self.program.endswith(".mjs")


PEERS = (
    Peer(
        "Dramatiq (Redis)",
        "raw_dramatiq.py",
        "one queue for each lane, each with a process of one thread, prefetch 128; no results, no retries",
        rate=1_300,
        is_paced=True,
    ),
    Peer(
        "Celery (Redis)",
        "celery_queue.py",
        "one queue, pool solo, prefetch 128, no results, early acknowledgement",
        rate=700,
        lanes=1,
    ),
    Peer(
        "procrastinate",
        "procrastinate_lock.py",
        "`lock=` the key; one worker, one job at a time for a single key, 8 for many",
        rate=500,
        lanes=8,
        is_paced=True,
    ),
    Peer(
        "DBOS",
        "dbos_partitions.py",
        "partitioned queue, partition concurrency 1, polled each millisecond",
        rate=120,
        lanes=8,
    ),
    Peer(
        "graphile-worker",
        "graphile_worker.mjs",
        "queue name = the key; no local queue (it breaks the order); 1 job at a time for a single key, 8 for many",
        rate=900,
        lanes=8,
        is_paced=True,
    ),
    Peer(
        "pg-boss",
        "pg_boss.mjs",
        "policy `key_strict_fifo`; fetched and completed one by one, 8 at once for many keys",
        rate=700,
        lanes=8,
    ),
    Peer(
        "BullMQ (Redis)",
        "bullmq.mjs",
        "a queue for each lane, each with a worker of concurrency 1; finished jobs removed",
        rate=1_500,
        lanes=8,
    ),
)
