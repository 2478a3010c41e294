"""
The running system of the stories: two `teller api`, `teller worker`s, PostgreSQL and Valkey, each a process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg

from processor.clients import keys
from processor.domain.partitioning import partition_of
from processor.storage import connections
from processor.verify.checks import verify
from teller.embedded.child import Child, _start
from tests.scenarios.crowd import Caller, Crowd, Reply
from tests.servers import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from processor.settings import Settings

#: Processes that serve, and processes that decide.
APIS = 2
WORKERS = 2
#: Nothing in these stories takes longer, in seconds, unless something is broken.
PATIENCE_SECONDS = 20.0
#: A process is asked to stop and has so long, in seconds.
STOP_SECONDS = 8.0

TELLER = ("-P", "-m", "teller")

Document = dict[str, Any]


def eventually(condition: Callable[[], Any], within: float = PATIENCE_SECONDS) -> float:
    """
    Wait until the condition holds; returns after how many seconds it did, and fails after `within`.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, f"not within {within} s"
        time.sleep(0.005)
    return time.monotonic() - began


class Process:
    """One process of the system, and what it logs. It dies with us."""

    def __init__(self, arguments: Sequence[str], settings: Settings, log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._child: Child = _start(
                [sys.executable, *arguments],
                signal.SIGTERM,
                signal.SIGKILL,
                None,
                (),
                {"env": {**os.environ, **settings.environment()}, "stderr": output, "stdout": output},
            )
        self.pid = self._child.pid

    def events(self) -> list[Document]:
        """What it logged so far; a line that is none, as it is, under `line`."""
        return [_event(line) for line in self._log.read_text().splitlines()]

    def stop(self) -> None:
        """In order: it must end by itself, with status 0."""
        self._child.stop(STOP_SECONDS)
        assert self._child.process.returncode == 0, self._log.read_text()[-2000:]

    def kill(self) -> None:
        """Whatever state it is in."""
        self._child.stop(0)


def _event(line: str) -> Document:
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    return {"line": line}


class System:
    """
    The processes, and those who use them. `close` ends everything; `check_books` before says whether all is right.
    """

    def __init__(self, settings: Settings, logs: Path) -> None:
        self.settings = settings
        self.owner = psycopg.connect(settings.database_url, autocommit=True)
        with contextlib.closing(
            connections.connect(settings.database_url, application_name="scenarios")
        ) as connection:
            self.admin = Caller(keys.create_key(connection, "admin", "admin").key)
            self.client = Caller(keys.create_key(connection, "client", "client").key)
            self.other = Caller(keys.create_key(connection, "other", "client").key)
        self.addresses: list[tuple[str, int]] = []
        self.workers: list[Process] = []
        self._logs = logs
        self._apis: list[Process] = []
        self._all: list[Process] = []
        self._names = Counter[str]()

    def start(self) -> None:
        """Returns when all serve."""
        for _ in range(APIS):
            port = _free_port()
            self.addresses.append(("127.0.0.1", port))
            self._apis.append(self._started("api", [*TELLER, "api"], replace(self.settings, port=port)))
        eventually(lambda: all(_is_ready(address) for address in self.addresses))
        self.start_all_workers()

    def close(self) -> None:
        """End all processes, gently unless they have been already."""
        for process in self._all:
            process.kill()
        self.owner.close()

    # ------------------------------------------------------------ workers

    def start_worker(self, arguments: Sequence[str] = (*TELLER, "worker")) -> Process:
        """Returns before it is ready: see `until_shared`."""
        worker = self._started("worker", arguments, self.settings)
        self.workers.append(worker)
        return worker

    def stop_worker(self, worker: Process) -> None:
        """In order; its partitions are free afterwards."""
        self.workers.remove(worker)
        worker.stop()

    def stop_workers(self) -> None:
        """All of them: what is accepted from now on waits."""
        for worker in list(self.workers):
            self.stop_worker(worker)

    def start_all_workers(self) -> None:
        """After `stop_workers`; returns when they share the partitions."""
        for _ in range(WORKERS):
            self.start_worker()
        self.until_shared()

    def until_shared(self) -> None:
        """Until the partitions belong to these workers, evenly."""
        share = PARTITIONS // len(self.workers)
        expected = {worker.pid: share for worker in self.workers}
        eventually(lambda: self._shares() == expected)

    def owner_of(self, partition: int) -> str | None:
        """`host:pid` of the worker that drains it."""
        owner: str | None = self.partitions()[partition]["owner"]
        return owner

    def partitions(self) -> list[Document]:
        """As an admin sees them."""
        listed: list[Document] = self.ask(self.admin.get("/v1/admin/partitions")).document["data"]
        return listed

    def _shares(self) -> dict[int | None, int]:
        owners = [one["owner"] for one in self.partitions()]
        return dict(Counter(None if owner is None else int(owner.rpartition(":")[2]) for owner in owners))

    # ------------------------------------------------------------ asking

    def crowd(self, size: int, apis: int = APIS) -> Crowd:
        """So many connections, open and warm, spread over so many API processes."""
        return Crowd(self.addresses[:apis], size)

    def ask(self, request: bytes) -> Reply:
        """One request, from somebody who has just come."""
        with self.crowd(1, apis=1) as alone:
            [reply] = alone.ask([request])
        return reply

    def listed(self, caller: Caller, path: str) -> list[Document]:
        """All pages of a list, newest first."""
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

    # ------------------------------------------------------------ what it has

    def name(self, what: str, partition: int | None = None) -> str:
        """The id of a resource that nobody used before, in this partition if one is named."""
        while True:
            self._names[what] += 1
            name = f"{what}-{self._names[what]}"
            if partition is None or partition_of(name, PARTITIONS) == partition:
                return name

    def open(self, resource: str, kind: str, available: int, **rules: Any) -> Document:
        """A resource that is there; returns its opening, completed."""
        body = {"id": resource, "kind": kind, "available": available, **rules}
        reply = self.ask(self.admin.post("/v1/resources", body, Prefer="wait=20"))
        assert (reply.status, reply.document["status"]) == (200, "completed"), reply.body
        opening: Document = reply.document
        return opening

    def resource(self, resource: str) -> Document:
        """As the client sees it."""
        reply = self.ask(self.client.get(f"/v1/resources/{resource}"))
        assert reply.status == 200, reply.body
        found: Document = reply.document
        return found

    # ------------------------------------------------------------ too many to ask for each

    def until_decided(self, request_ids: Sequence[str]) -> None:
        """Until all of them are."""
        eventually(lambda: len(self.sequences(request_ids)) == len(request_ids))

    def sequences(self, request_ids: Sequence[str]) -> list[int]:
        """The numbers of their decisions, in the order of the ids; without those that are not decided."""
        rows = self.owner.execute(
            "SELECT d.sequence FROM unnest(%s::uuid[]) WITH ORDINALITY AS asked (id, turn)"
            " JOIN decisions d ON d.request_id = asked.id AND d.version = 2 ORDER BY turn",
            (list(request_ids),),
        )
        return [sequence for (sequence,) in rows]

    def check_sequences(self) -> None:
        """In each partition the decisions are numbered from 1 without a gap."""
        rows = self.owner.execute(
            "SELECT p.id, p.sequence, count(DISTINCT d.sequence), max(d.sequence)"
            " FROM partitions p JOIN requests r ON r.partition = p.id"
            " JOIN decisions d ON d.request_id = r.id AND d.version = 2 GROUP BY 1, 2"
        ).fetchall()
        assert [row for row in rows if not row[1] == row[2] == row[3]] == []

    # ------------------------------------------------------------ afterwards

    def check_books(self) -> None:
        """
        Once all stories are told: every process ends in order, nothing is left to do, every balance, hold, sequence
        and digest follows from the entries, and PostgreSQL saw no deadlock.
        """
        self.stop_workers()
        for api in self._apis:
            api.stop()
        self.check_sequences()
        with contextlib.closing(
            connections.connect(self.settings.database_url, application_name="scenarios")
        ) as connection:
            assert [str(found) for found in verify(connection)] == []
        [(waiting,)] = self.owner.execute("SELECT count(*) FROM inbox").fetchall()
        assert waiting == 0
        [(deadlocks,)] = self.owner.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchall()
        assert deadlocks == 0
        faults = [
            event
            for process in self._all
            for event in process.events()
            if event.get("level") in ("error", "critical") or "Traceback" in event.get("line", "")
        ]
        assert faults == []

    def _started(self, what: str, arguments: Sequence[str], settings: Settings) -> Process:
        process = Process(arguments, settings, self._logs / f"{what}-{len(self._all)}.log")
        self._all.append(process)
        return process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_ready(address: tuple[str, int]) -> bool:
    try:
        with Crowd([address], 1) as prober:
            [reply] = prober.ask([Caller("").get("/readyz")])
    except OSError:
        return False
    return reply.status == 200 and reply.document == {"degraded": []}
