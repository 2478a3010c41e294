"""
DBOS: workflows from a queue that is partitioned by the key, one at a time for each partition.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from dbos import DBOS, DBOSConfig, SetEnqueueOptions
from job import DATABASE_URL, decide, main

if TYPE_CHECKING:
    from collections.abc import Sequence

    from job import Job

#: Interval between two polls of the queue, in seconds: the shortest possible.
POLL_SECONDS = 0.001
QUEUE = "decide"

config: DBOSConfig = {
    "name": "bench",
    "system_database_url": DATABASE_URL.replace("postgresql://", "postgresql+psycopg://", 1),
    "application_version": "bench",
    "log_level": "WARNING",
    "run_admin_server": False,
}
DBOS(config=config)


@DBOS.workflow()
def workflow(request: int) -> None:
    """Run the job."""
    decide(request)


def launch() -> None:
    """Create its tables and its queue, and start its threads in a worker."""
    DBOS.launch()
    DBOS.register_queue(QUEUE, partition_concurrency=1, polling_interval_sec=POLL_SECONDS)


launched = []


def enqueue(jobs: Sequence[Job]) -> None:
    """Enqueue one workflow for each request, in order."""
    if not launched:
        launched.append(True)
        DBOS.listen_queues([])
        launch()
    for request, key in jobs:
        with SetEnqueueOptions(queue_partition_key=f"r{key}"):
            DBOS.enqueue_workflow(QUEUE, workflow, request)


def work() -> None:
    """Run until the process is stopped."""
    launch()
    signal.pause()


if __name__ == "__main__":
    main(prepare=lambda: None, enqueue=enqueue, work=work)
