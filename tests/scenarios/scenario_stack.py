"""
The running system of the scenarios: two APIs and two workers, with clients that speak over raw connections.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from processor.domain.partitioning import partition_of
from tests.scenarios.crowd import Caller, Crowd, Reply
from tests.servers import PARTITIONS
from tests.stack import TELLER, Document, Process, Stack
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

#: The number of API processes.
APIS = 2
#: The number of worker processes.
WORKERS = 2


class ScenarioStack(Stack):
    """The processes, an admin and two clients."""

    def __init__(self, environment: Mapping[str, str], logs: Path, *, embeds_postgres: bool) -> None:
        super().__init__(environment, logs)
        #: Whether PostgreSQL is the tests' own, so that its settings may change.
        self.embeds_postgres = embeds_postgres
        self._names = Counter[str]()
        #: The times in which a drain may stall.
        self._stalls: list[tuple[datetime, datetime]] = []

    def begin(self) -> None:
        """
        Start the processes, and create the clients. Returns when all are ready.
        """
        for _ in range(APIS):
            self.start_api()
        self.admin, self.client, self.other = (
            Caller(self.new_client(role).key.key) for role in ("admin", "client", "client")
        )
        self.start_all_workers()

    # ------------------------------------------------------------ stalls

    @contextlib.contextmanager
    def may_stall(self) -> Iterator[None]:
        """
        Allow the log to name a stalled drain: a batch takes longer than usual here, on a busy machine for seconds.
        """
        begun_at = datetime.now(UTC)
        try:
            yield
        finally:
            self._stalls.append((begun_at, datetime.now(UTC)))

    def _may_stall_at(self, time: str) -> bool:
        at = datetime.fromisoformat(time)
        return any(begun_at <= at <= ended_at for begun_at, ended_at in self._stalls)

    # ------------------------------------------------------------ workers

    @property
    def workers(self) -> list[Process]:
        """The workers that run."""
        return self.of("worker")

    def start_worker(self, program: Sequence[str] = TELLER) -> Process:
        """
        Start a worker. Returns before it is ready.
        """
        return self.start("worker", program=program)

    def stop_workers(self) -> None:
        """
        Stop all workers. Requests that are accepted from now on wait.
        """
        for worker in self.workers:
            worker.stop()

    def start_all_workers(self) -> None:
        """
        Start the workers. Returns when they share the partitions.
        """
        for _ in range(WORKERS):
            self.start_worker()
        self.until_shared()

    def owner_of(self, partition: int) -> str | None:
        """
        Return `host:pid` of the worker that owns a partition.
        """
        owner: str | None = self.partitions()[partition]["owner"]
        return owner

    def partitions(self) -> list[Document]:
        """
        Return the partitions as an admin sees them.
        """
        listed: list[Document] = self.ask(self.admin.get("/v1/admin/partitions")).document["data"]
        return listed

    # ------------------------------------------------------------ requests

    def crowd(self, size: int, apis: int = APIS) -> Crowd:
        """
        Open `size` connections, spread over the first `apis` APIs.
        """
        return Crowd([("127.0.0.1", port) for port in self.ports[:apis]], size)

    def ask(self, request: bytes) -> Reply:
        """
        Send one request over a new connection.
        """
        with self.crowd(1, apis=1) as alone:
            [reply] = alone.ask([request])
        return reply

    def listed(self, caller: Caller, path: str) -> list[Document]:
        """
        Return the documents of all pages of a list, newest first.
        """
        found: list[Document] = []
        cursor = ""
        with self.crowd(1) as reader:
            while True:
                more = f"{path}{'&' if '?' in path else '?'}limit=100{cursor}"
                [reply] = reader.ask([caller.get(more)])
                assert reply.status == 200, reply.body
                page = reply.document
                found += page["data"]
                if page["next_cursor"] is None:
                    return found
                cursor = f"&cursor={page['next_cursor']}"

    # ------------------------------------------------------------ resources

    def name(self, prefix: str, partition: int | None = None) -> str:
        """
        Return an unused id of a resource, in this partition if one is given.
        """
        while True:
            self._names[prefix] += 1
            name = f"{prefix}-{self._names[prefix]}"
            if partition is None or partition_of(name, PARTITIONS) == partition:
                return name

    def open(self, resource: str, kind: str, available: int, **rules: Any) -> Document:
        """
        Open a resource. Returns the completed opening.
        """
        body = {"id": resource, "kind": kind, "available": available, **rules}
        reply = self.ask(self.admin.post("/v1/resources", body, Prefer="wait=20"))
        assert (reply.status, reply.document["status"]) == (200, "completed"), reply.body
        opening: Document = reply.document
        return opening

    def resource(self, resource: str) -> Document:
        """
        Return a resource as the client sees it.
        """
        reply = self.ask(self.client.get(f"/v1/resources/{resource}"))
        assert reply.status == 200, reply.body
        found: Document = reply.document
        return found

    # ------------------------------------------------------------ many decisions, by SQL

    def until_decided(self, request_ids: Sequence[str]) -> None:
        """
        Wait until all these requests are decided.
        """
        eventually(lambda: len(self.sequences(request_ids)) == len(request_ids))

    def sequences(self, request_ids: Sequence[str]) -> list[int]:
        """
        Return the sequence numbers of the decided ones of these requests, in the order of the ids.
        """
        rows = self.owner.execute(
            "SELECT d.sequence FROM unnest(%s::uuid[]) WITH ORDINALITY AS asked (id, turn)"
            " JOIN decisions d ON d.request_id = asked.id AND d.version = 2 ORDER BY turn",
            (list(request_ids),),
        )
        return [sequence for (sequence,) in rows]

    def check_sequences(self) -> None:
        """
        Fail unless the decisions of each partition are numbered from 1 without a gap.
        """
        rows = self.owner.execute(
            "SELECT p.id, p.sequence, count(DISTINCT d.sequence), max(d.sequence)"
            " FROM partitions p JOIN requests r ON r.partition = p.id"
            " JOIN decisions d ON d.request_id = r.id AND d.version = 2 GROUP BY 1, 2"
        ).fetchall()
        assert [row for row in rows if not row[1] == row[2] == row[3]] == []

    # ------------------------------------------------------------ the end

    def check_all(self) -> None:
        """
        Stop all processes and check that nothing is wrong: the ledger, the inbox, PostgreSQL's deadlocks, the logs.
        """
        self.stop()
        self.check_sequences()
        self.check_ledger()
        [(waiting,)] = self.owner.execute("SELECT count(*) FROM inbox").fetchall()
        assert waiting == 0
        [(deadlocks,)] = self.owner.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchall()
        assert deadlocks == 0
        faults = [
            event
            for process in self.processes
            for event in process.events()
            if event.get("level") in ("error", "critical") or "Traceback" in event.get("line", "")
            if not (event.get("event") == "drain_stalled" and self._may_stall_at(event["timestamp"]))
        ]
        assert faults == [], faults
