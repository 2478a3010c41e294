"""
Draining: who rings while we look is heard, and who is told of a batch finds it, for it is committed by then.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING
from unittest.mock import Mock, call

from processor.storage import connections as postgres
from tests.store.store import open_store
from workers.doorbell.ring import Doorbell
from workers.worker.assignments import Assignments
from workers.worker.drain import Drainer

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable

    import pytest

    from processor.storage.connections import Connection
    from tests.servers import Database


class ReadingBell(Doorbell):
    """Rings nobody; whoever it would ring for looks at once, on a connection of their own."""

    def __init__(self, reader: Connection) -> None:
        super().__init__("redis://nowhere.invalid")
        self._reader = reader
        #: Of those announced: which were decided already, and which were not.
        self.found: set[uuid.UUID] = set()
        self.missed: set[uuid.UUID] = set()
        #: Gateway calls that couriers found each time they were rung for.
        self.due: list[int] = []

    def announce(self, request_ids: Iterable[uuid.UUID]) -> None:
        """A client that waits looks at its request."""
        announced = set(request_ids)
        rows = self._reader.execute(
            "SELECT request_id FROM decisions WHERE request_id = ANY(%s)", [list(announced)]
        )
        decided = {request for (request,) in rows}
        self.found |= decided
        self.missed |= announced - decided

    def notify_couriers(self) -> None:
        """A courier looks for what is due."""
        rows = self._reader.execute("SELECT count(*) FROM effects WHERE due_at <= clock_timestamp()")
        self.due += (count for (count,) in rows)


def test_who_is_told_of_a_batch_finds_what_it_decided(database: Database) -> None:
    """
    Clients that wait and couriers look once when they are woken: a bell before the commit wakes them for nothing.
    """
    with (
        open_store(database) as store,
        contextlib.closing(postgres.connect(database.worker_url, application_name="test drain")) as reader,
    ):
        partition = store.open("cash", kind="balance", gateway="bank")
        asked = store.accept(*(store.asks("withdrawal", "cash", f"u{n}", 1) for n in range(3)))
        assignments, bell = Assignments(), ReadingBell(reader)
        assignments.hold({partition}, time.monotonic() + 60)

        assert Drainer(lambda: store.worker, assignments, bell).drain(partition) == (3, False)

    assert (bell.found, bell.missed) == (set(asked), set())
    assert bell.due == [3]


def test_a_doorbell_is_acknowledged_before_the_drain_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A commit during the drain notifies again. After the drain, the acknowledgement would swallow that notification.
    """
    calls = Mock()
    calls.drain.return_value = (0, False)
    drainer = Drainer(Mock(), Assignments(), calls)
    monkeypatch.setattr(drainer, "drain", calls.drain)

    drainer.answer(7)

    assert calls.mock_calls == [call.acknowledge(7), call.drain(7)]
