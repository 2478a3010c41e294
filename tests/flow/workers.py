"""
Worker processes on one database, and a client that hands in requests without an API.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from processor.domain.partitioning import partition_of
from processor.intake.intake import Intake, Submission
from processor.storage import connections
from tests.servers import PARTITIONS, names_of
from tests.stack import Process, Stack
from tests.waiting import Deadline, eventually
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from pathlib import Path

    from processor.settings import Settings

#: More than the rows of any test.
BACKLOG_LIMIT = 1_000_000
#: The command line, in a process whose sweep finds nothing neglected.
WITHOUT_SWEEP = ["-P", "-m", "tests.flow.without_sweep"]


class WorkerStack(Stack):
    """Workers, and an intake and a doorbell as the API has them."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        super().__init__(settings.environment(), logs)
        self.settings = settings
        self.names = names_of(settings.database_url)
        self.bell = Doorbell(settings.redis_url, lambda: self.names)
        self._intake: Intake | None = None
        self._rings = True

    def use_redis(self, url: str) -> None:
        """
        Use another Redis. Call it before anything is started.
        """
        self.bell.close()
        self.environment = {**self.environment, "REDIS_URL": url}
        self.bell = Doorbell(url, lambda: self.names)

    def start_worker(self, *, sweeps: bool = True) -> Process:
        """
        Start a worker. Returns before it is ready. Without the sweep, only notifications and claims lead to batches.
        """
        if sweeps:
            return self.start("worker")
        return self.start("worker", program=WITHOUT_SWEEP)

    def start_workers(self, count: int, *, sweeps: bool = True) -> list[Process]:
        """
        Start workers. Returns when all workers own even shares of the partitions.
        """
        started = [self.start_worker(sweeps=sweeps) for _ in range(count)]
        self.until_shared()
        return started

    def partitions_of(self, worker: Process) -> list[int]:
        """
        Return the partitions that a worker owns.
        """
        rows = self.owner.execute(
            "SELECT partition FROM ownership o JOIN workers w ON w.id = o.worker_id WHERE w.pid = %s",
            (worker.pid,),
        )
        return sorted(partition for (partition,) in rows)

    def submit(self, resource_ids: list[str], *, ring: bool = True) -> list[uuid.UUID]:
        """
        Open these resources in this order, with one request each. Returns when they are committed.
        """
        if self._intake is None:
            self._intake = Intake(
                lambda: connections.connect(self.settings.api_database_url, application_name="test intake"),
                PARTITIONS,
                BACKLOG_LIMIT,
                lambda partitions: self.bell.notify_all(partitions) if self._rings else None,
            )
            self._intake.start()
        self._rings = ring
        receipts = self._intake.accept([_opening(resource_id) for resource_id in resource_ids])
        requests = [receipt.request for receipt in receipts]
        return [request.id for request in requests if request is not None]

    def decided(self, request_ids: list[uuid.UUID]) -> int:
        """
        Return how many of these requests are decided.
        """
        [(count,)] = self.owner.execute(
            "SELECT count(DISTINCT request_id) FROM decisions WHERE request_id = ANY(%s)", (request_ids,)
        ).fetchall()
        return int(count)

    def are_decided(self, request_ids: list[uuid.UUID]) -> bool:
        """
        Say whether all these requests are decided.
        """
        return self.decided(request_ids) == len(request_ids)

    def until_decided(self, request_ids: list[uuid.UUID], within: float | None = None) -> float:
        """
        Wait until all these requests are decided. Returns the seconds that this took.

        `within` is a promised time, which a `Deadline` measures from now.
        """
        if within is None:
            return eventually(lambda: self.are_decided(request_ids))
        return Deadline(within).until(lambda: self.are_decided(request_ids))

    def check_order(self) -> None:
        """
        Fail unless every request was decided once, and in each partition in the order of acceptance, without gaps.
        """
        rows = self.owner.execute(
            "SELECT r.partition, array_agg(d.sequence ORDER BY r.id), count(DISTINCT r.id)"
            " FROM requests r JOIN decisions d ON d.request_id = r.id GROUP BY 1"
        ).fetchall()
        for partition, sequences, requests in rows:
            assert sequences == list(range(1, requests + 1)), f"partition {partition}"

    def close(self) -> None:
        """
        End the workers, the intake and the doorbell.
        """
        super().close()
        if self._intake is not None:
            self._intake.stop()
        self.bell.close()


def _opening(resource_id: str) -> Submission:
    return Submission(
        client_id="client",
        key_id=uuid.UUID(int=0),
        idempotency_key=resource_id,
        fingerprint=bytes(32),
        kind="opening",
        resource_id=resource_id,
        account=None,
        amount=1,
        details={"kind": "stock"},
    )


def resources_in(partition: int, count: int, name: str = "r") -> list[str]:
    """
    Return ids of `count` resources that all belong to this partition.
    """
    found: list[str] = []
    number = 0
    while len(found) < count:
        resource_id = f"{name}-{number}"
        if partition_of(resource_id, PARTITIONS) == partition:
            found.append(resource_id)
        number += 1
    return found
