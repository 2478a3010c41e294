"""
Draining: the notifications of a batch come after its commit.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import TYPE_CHECKING

from processor.storage import connections as postgres
from tests.store.store import open_store
from tests.waiting import eventually
from workers.doorbell.names import Names
from workers.doorbell.ring import Doorbell
from workers.metrics import WorkerMetrics
from workers.worker.assignments import Assignments
from workers.worker.drain import Drainer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from processor.storage.connections import Connection
    from tests.servers import Database


class ReadingDoorbell(Doorbell):
    """Sends nothing. It reads what each receiver would read, on another connection."""

    def __init__(self, reader: Connection) -> None:
        super().__init__("redis://nowhere.invalid", lambda: Names(uuid.UUID(int=0)))
        self._reader = reader
        #: The announced requests that were decided, and those that were not.
        self.found: set[uuid.UUID] = set()
        self.missed: set[uuid.UUID] = set()
        #: The gateway calls that were due at each notification of couriers.
        self.due: list[int] = []

    def acknowledge(self, partitions: Iterable[int]) -> None:
        """Do nothing."""

    def announce(self, request_ids: Iterable[uuid.UUID]) -> None:
        """Read the requests, as clients that wait do."""
        announced = set(request_ids)
        rows = self._reader.execute(
            "SELECT request_id FROM decisions WHERE request_id = ANY(%s)", [list(announced)]
        )
        decided = {request for (request,) in rows}
        self.found |= decided
        self.missed |= announced - decided

    def notify_couriers(self) -> None:
        """Read the effects that are due, as a courier does."""
        rows = self._reader.execute("SELECT count(*) FROM effects WHERE due_at <= clock_timestamp()")
        self.due += (count for (count,) in rows)


def test_a_batch_is_committed_before_its_notifications(database: Database) -> None:
    """
    Clients that wait and couriers read once for each notification. One before the commit would find nothing.
    """
    with (
        open_store(database) as store,
        contextlib.closing(postgres.connect(database.worker_url, application_name="test drain")) as reader,
    ):
        partition = store.open("cash", kind="balance", gateway="bank")
        asked = store.accept(*(store.asks("withdrawal", "cash", f"u{n}", 1) for n in range(3)))
        assignments, doorbell = Assignments(), ReadingDoorbell(reader)
        assignments.hold({partition}, time.monotonic() + 60)

        drainer = Drainer(lambda: store.worker, assignments, doorbell, WorkerMetrics())
        drainer.start()

        drainer.answer(partition)

        eventually(lambda: doorbell.due and not assignments.is_busy(partition))
        drainer.stop()
    assert (doorbell.found, doorbell.missed) == (set(asked), set())
    assert doorbell.due == [3]
