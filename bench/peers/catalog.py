"""
The peers, with the program and the setting of each.

Each setting is the fastest found that keeps the peer's promise. Where a key's requests must not overtake each other,
it takes one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """
    An alternative and its setting.

    `rate` is its approximate number of decisions a second for one key, so that a run takes about as long as planned.
    `concurrency` is the number of keys that it works on at once, where there are several.
    """

    name: str
    program: str
    setting: str
    rate: int
    concurrency: int = 4
    #: True if it has a place in the latency table.
    is_paced: bool = False

    @property
    def needs_node(self) -> bool:
        """True for a Node.js program."""
        return self.program.endswith(".mjs")


PEERS = (
    Peer(
        "Dramatiq (Redis)",
        "raw_dramatiq.py",
        "one queue for a single key, 4 for many; a process of one thread for each;"
        " prefetch 128, no results, no retries",
        rate=1_300,
        is_paced=True,
    ),
    Peer(
        "Celery (Redis)",
        "celery_queue.py",
        "one queue, pool solo, prefetch 128, no results, early acknowledgement",
        rate=700,
        concurrency=1,
    ),
    Peer(
        "procrastinate",
        "procrastinate_lock.py",
        "`lock=` the key; one worker, one job at a time for a single key, 8 for many",
        rate=500,
        concurrency=8,
        is_paced=True,
    ),
    Peer(
        "DBOS",
        "dbos_partitions.py",
        "partitioned queue, partition concurrency 1, polled each millisecond",
        rate=120,
        concurrency=8,
    ),
    Peer(
        "graphile-worker",
        "graphile_worker.mjs",
        "queue name = the key; no local queue (it breaks the order); 1 job at a time for a single key, 8 for many",
        rate=900,
        concurrency=8,
        is_paced=True,
    ),
    Peer(
        "pg-boss",
        "pg_boss.mjs",
        "policy `key_strict_fifo`; fetched and completed one by one, 8 at once for many keys",
        rate=700,
        concurrency=8,
    ),
    Peer(
        "BullMQ (Redis)",
        "bullmq.mjs",
        "one queue for a single key, 8 for many; a worker of concurrency 1 for each; finished jobs removed",
        rate=1_500,
        concurrency=8,
    ),
)
