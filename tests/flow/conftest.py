"""
Real worker processes on a database and a Redis of the test's own, and a client that hands in requests.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from processor.domain.partitioning import partition_of
from processor.intake.intake import Intake, Submission
from processor.storage import connections as db
from tests.servers import PARTITIONS
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
#: Nothing in these stories takes longer, in seconds, unless something is broken.
PATIENCE_SECONDS = 15.0


def eventually(condition: Callable[[], Any], within: float = PATIENCE_SECONDS) -> float:
    """
    Wait until the condition holds; returns after how many seconds it did, and fails after `within`.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, f"not within {within} s"
        time.sleep(0.01)
    return time.monotonic() - began


def freeze(process: subprocess.Popen[bytes]) -> None:
    """
    SIGSTOP; returns when none of its threads runs any more, which takes a moment on a busy machine.
    """
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    if tasks.exists():  # elsewhere nobody tells
        eventually(lambda: all(_state(task) == "T" for task in tasks.iterdir()))


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return "T"


class WorkerProcess:
    """One worker, and what it logs."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.flow.worker_process"],
                env={**os.environ, **settings.environment()},
                cwd=ROOT,
                stderr=file,
            )
        self.pid = self._process.pid

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it logged under this name."""
        lines = self.log.read_text().splitlines()
        return [event for event in map(_event, lines) if event.get("event") == name]

    def send(self, signal_number: signal.Signals) -> None:
        """And go on."""
        self._process.send_signal(signal_number)

    def freeze(self) -> None:
        """Stop it where it is."""
        freeze(self._process)

    def end(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """Send it, wait for the end, return the exit status."""
        self._process.send_signal(signal_number)
        return self._process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """Whatever state it is in, stopped too."""
        if self._process.poll() is None:
            self.end(signal.SIGKILL)


def _event(line: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    return {}


class Installation:
    """A database with workers: hands in requests and sees what becomes of them."""

    def __init__(self, settings: Settings, logs: Path, owner: psycopg.Connection[Any]) -> None:
        self.settings = settings
        self.owner = owner
        self.bell = Doorbell(settings.redis_url)
        self.workers: list[WorkerProcess] = []
        self._logs = logs
        self._intake: Intake | None = None
        self._rings = True

    def use_redis(self, settings: Settings) -> None:
        """Another one than the tests' own; before anything is started."""
        self.bell.close()
        self.settings = settings
        self.bell = Doorbell(settings.redis_url)

    def start_worker(self) -> WorkerProcess:
        """Returns before it is ready."""
        worker = WorkerProcess(self.settings, self._logs / f"worker-{len(self.workers)}.log")
        self.workers.append(worker)
        return worker

    def start_workers(self, count: int) -> list[WorkerProcess]:
        """Returns when the partitions are shared evenly among them."""
        started = [self.start_worker() for _ in range(count)]
        share = PARTITIONS // len(self.workers)
        eventually(lambda: self.shares() == {worker.pid: share for worker in self.workers})
        return started

    def shares(self) -> dict[int | None, int]:
        """Process id of each owner that lives, None for nobody → how many partitions."""
        rows = self.owner.execute(
            "SELECT w.pid, count(*) FROM ownership o"
            " LEFT JOIN workers w ON w.id = o.worker_id AND w.alive_until > clock_timestamp() GROUP BY 1"
        )
        return dict(rows.fetchall())

    def partitions_of(self, worker: WorkerProcess) -> list[int]:
        """Those that it owns."""
        rows = self.owner.execute(
            "SELECT partition FROM ownership o JOIN workers w ON w.id = o.worker_id WHERE w.pid = %s",
            (worker.pid,),
        )
        return sorted(partition for (partition,) in rows)

    def submit(self, resource_ids: list[str], *, ring: bool = True) -> list[uuid.UUID]:
        """Open these resources, each a request of its own, in this order; returns when they are durable."""
        if self._intake is None:
            self._intake = Intake(
                lambda: db.connect(self.settings.api_database_url, application_name="test intake"),
                PARTITIONS,
                1_000_000,
                lambda partitions: self.bell.notify_all(partitions) if self._rings else None,
            )
            self._intake.start()
        self._rings = ring
        receipts = self._intake.accept([_opening(resource_id) for resource_id in resource_ids])
        requests = [receipt.request for receipt in receipts]
        return [request.id for request in requests if request is not None]

    def decided(self, request_ids: list[uuid.UUID]) -> int:
        """How many of them are."""
        [(count,)] = self.owner.execute(
            "SELECT count(DISTINCT request_id) FROM decisions WHERE request_id = ANY(%s)", (request_ids,)
        ).fetchall()
        return int(count)

    def until_decided(self, request_ids: list[uuid.UUID], within: float = PATIENCE_SECONDS) -> float:
        """Returns after how many seconds all were decided."""
        return eventually(lambda: self.decided(request_ids) == len(request_ids), within)

    def check_order(self) -> None:
        """
        Every request was decided once, in the order of acceptance within its partition, and numbered without gaps.
        """
        rows = self.owner.execute(
            "SELECT r.partition, array_agg(d.sequence ORDER BY r.id), count(DISTINCT r.id)"
            " FROM requests r JOIN decisions d ON d.request_id = r.id GROUP BY 1"
        ).fetchall()
        for partition, sequences, requests in rows:
            assert sequences == list(range(1, requests + 1)), f"partition {partition}"

    def close(self) -> None:
        """End everything that was started here."""
        for worker in self.workers:
            worker.kill()
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
    """Ids of resources that all belong to this partition."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        resource_id = f"{name}-{number}"
        if partition_of(resource_id, PARTITIONS) == partition:
            found.append(resource_id)
        number += 1
    return found


@pytest.fixture
def installation(settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    """
    Ends what it started, also after a failure; every request must have been decided once and in order.
    """
    with psycopg.connect(settings.database_url, autocommit=True) as owner:
        made = Installation(settings, tmp_path, owner)
        try:
            yield made
            made.check_order()
        finally:
            made.close()
