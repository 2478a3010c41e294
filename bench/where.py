"""
Measures where the time goes: microseconds of CPU for each request at intake, drain and settle, by component.

Reads /proc before and after a known number of requests. It has the time of each process in its own code (user) and in
the kernel (system: sockets and files).

Beside it stands the least possible time, measured in the same run. It comes from an empty handler, a loop that only
hashes, statements that only store, and a socket that only carries bytes.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import accept_server, lab, least, load, processes, system
from bench.report import Section, progress
from processor.settings import Settings
from teller.embedded.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.plan import Plan
    from bench.system import Teller
    from processor.storage.connections import Connection

CONNECTIONS = 32
#: Time limit of a stage, in seconds.
STAGE_SECONDS = 120
#: The most requests that go through the sandbox gateway, with one HTTP call each.
SETTLES = 4_000
#: The number of statements listed for a stage.
STATEMENTS = 4
#: Components that use the time: columns of the table.
WHO = ("Python", "its kernel part", "PostgreSQL", "its kernel part and background")

_STATEMENTS = """
SELECT left(regexp_replace(query, '\\s+', ' ', 'g'), 64), calls, total_exec_time * 1000, rows
  FROM pg_stat_statements
 WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND userid = (SELECT oid FROM pg_roles WHERE rolname = %s)
 ORDER BY total_exec_time DESC
 LIMIT %s
"""


@dataclass(frozen=True)
class Usage:
    """One stage: wall time, and the time of each component, in microseconds for each request."""

    stage: str
    requests: int
    wall: float
    #: Microseconds by WHO.
    micros: tuple[float, ...]
    #: The least possible microseconds by WHO.
    least: tuple[float, ...]
    statements: tuple[tuple[str, float], ...] = ()


def measure(plan: Plan) -> Section:
    """Measure and report."""
    section = Section("where", "8 · Where the time goes", plan.place)
    section.say(
        "Microseconds of CPU for each request. Each cell has the time used / the least possible. *Python* is the API"
        " at intake, and the worker at drain and settle. *Kernel* is sockets, files, and the sync of the log, as"
        " far as it is work and not waiting. Python and PostgreSQL work at the same time, so the wall"
        " can be less than their sum."
    )
    with lab.home() as home:
        counts = _prepare(home)
        with system.up_in(home, TELLER_WORKERS="1") as teller, teller.connect() as connection:
            if counts:
                connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            found = _Stages(plan, teller, connection, counts=counts).run()
    _report(section, found)
    return section


def _prepare(home: Path) -> bool:
    """Configure the server of this home to count its statements. Returns False if it cannot."""
    settings = Settings.from_environment({"TELLER_HOME": str(home)})
    with serve(settings, needs_valkey=False) as servers, lab.connect(servers.settings.database_url) as owner:
        [(there,)] = owner.execute(
            "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements')"
        ).fetchall()
        if there:
            owner.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    return bool(there)


class _Stages:
    """The stages in turn, on one Teller."""

    def __init__(self, plan: Plan, teller: Teller, connection: Connection, *, counts: bool) -> None:
        self._plan = plan
        self._teller = teller
        self._connection = connection
        self._counts = counts

    def run(self) -> list[Usage]:
        """Run all stages."""
        teller, connection, count = self._teller, self._connection, self._plan.where_requests
        teller.open("hot")
        teller.open("paid", gateway="sandbox")
        hot = teller.ask("GET", "/v1/resources/hot")["partition"]
        teller.pause(hot)
        rows = least.store(connection, "hot", hot, count)
        found = [*self._intake(count, rows)]
        [(waiting,)] = connection.execute(
            "SELECT count(*) FROM inbox WHERE partition = %s", (hot,)
        ).fetchall()
        before = system.decided(connection)
        store = least.decide(connection, hot)
        began = self._begin()
        teller.resume(hot)
        system.await_decided(connection, before + waiting, STAGE_SECONDS)
        python, kernel = least.hash_and_note(), least.carry(least.ROW_BYTES * 3)
        found.append(self._end("drain", "worker", "teller_worker", began, waiting, (python, kernel, *store)))
        found.append(self._settle(python, kernel))
        return found

    def _intake(self, count: int, rows: tuple[float, float]) -> Iterator[Usage]:
        with accept_server.beside(self._teller) as api:
            load.closed(
                api.url, self._singles(api, accept_server.EMPTY, CONNECTIONS * 20), CONNECTIONS, STAGE_SECONDS
            )
            began = self._begin()
            load.closed(api.url, self._singles(api, accept_server.EMPTY, count), CONNECTIONS, STAGE_SECONDS)
            empty = self._end("empty", "accept_server", "teller_api", began, count, (0,) * 4)
            began = self._begin()
            answers = load.closed(
                api.url, self._singles(api, "/v1/redemptions", count), CONNECTIONS, STAGE_SECONDS
            )
            assert answers.statuses == {202: count}, answers.statuses
            least_micros = (*empty.micros[:2], *rows)
            yield self._end(
                "intake, one at a time", "accept_server", "teller_api", began, count, least_micros
            )
            batches = [next(self._batches(api, "hot")) for _ in range(max(4, count // 1_000))]
            began = self._begin()
            answers = load.closed(api.url, iter(batches), 4, STAGE_SECONDS)
            assert set(answers.statuses) == {202}, answers.statuses
            parse = least.parse(len(batches[0].partition(b"\r\n\r\n")[2]), 1_000)
            carry = least.carry(len(batches[0]) // 1_000 + least.ROW_BYTES)
            items = len(batches) * 1_000
            yield self._end(
                "intake, batches of 1,000", "accept_server", "teller_api", began, items, (parse, carry, *rows)
            )

    def _settle(self, python: float, kernel: float) -> Usage:
        """
        Let the courier call the sandbox for each hold, then measure how the worker settles the recorded
        outcomes.
        """
        teller, connection = self._teller, self._connection
        partition = teller.ask("GET", "/v1/resources/paid")["partition"]
        count = max(1_000, min(SETTLES, self._plan.where_requests) // 1_000 * 1_000)
        batches = [next(self._batches(teller, "paid")) for _ in range(count // 1_000)]
        before = system.decided(connection)
        load.closed(teller.url, iter(batches), 1, STAGE_SECONDS)
        system.await_decided(connection, before + count, STAGE_SECONDS)
        teller.pause(partition)
        end = time.monotonic() + STAGE_SECONDS
        while connection.execute("SELECT FROM effects WHERE outcome IS NULL LIMIT 1").rowcount:
            assert time.monotonic() < end, "the courier did not call them all"
            time.sleep(0.1)
        [(waiting,)] = connection.execute("SELECT count(*) FROM inbox WHERE verb = 'settle'").fetchall()
        progress(f"{waiting:,} of {count:,} gateway calls wait to be settled")
        store = least.settle(connection, partition)
        began = self._begin()
        teller.resume(partition)
        while connection.execute("SELECT FROM inbox LIMIT 1").rowcount:
            assert time.monotonic() < end, "not all were settled"
            time.sleep(0.005)
        return self._end("settle", "worker", "teller_worker", began, waiting, (python, kernel, *store))

    # ------------------------------------------------------------ accounts

    def _begin(self) -> tuple[float, dict[int, processes.Seen]]:
        if self._counts:
            self._connection.execute("SELECT pg_stat_statements_reset()")
        return time.perf_counter(), self._seen()

    def _end(
        self,
        stage: str,
        program: str,
        role: str,
        began: tuple[float, dict[int, processes.Seen]],
        count: int,
        least_micros: tuple[float, ...],
    ) -> Usage:
        wall = time.perf_counter() - began[0]
        user = system_ = served = around = 0.0
        for process, now in self._seen().items():
            before = began[1].get(process)
            more_user = now.user - (before.user if before else 0.0)
            more_system = now.system - (before.system if before else 0.0)
            if now.name == "postgres":
                if role in now.command:
                    served += more_user
                    around += more_system
                elif " teller " not in now.command:  # checkpointer, writers, vacuum
                    around += more_user + more_system
            elif program in now.command.split() or f"bench.{program}" in now.command:
                user += more_user
                system_ += more_system
        micros = tuple(seconds / count * 1e6 for seconds in (user, system_, served, around))
        progress(
            f"{stage}: {', '.join(f'{who} {one:.1f}' for who, one in zip(WHO, micros, strict=True))} µs each"
        )
        return Usage(stage, count, wall / count * 1e6, micros, least_micros, self._statements(role, count))

    def _seen(self) -> dict[int, processes.Seen]:
        return processes.tree(self._teller.pid) | processes.tree(os.getpid())

    def _statements(self, role: str, count: int) -> tuple[tuple[str, float], ...]:
        if not self._counts:
            return ()
        rows = self._connection.execute(_STATEMENTS, (role, STATEMENTS)).fetchall()
        return tuple((text, micros / count) for text, _, micros, _ in rows)

    def _singles(self, api: Teller, path: str, count: int) -> Iterator[bytes]:
        for number in range(count):
            body = json.dumps({"resource": "hot", "account": f"u{number}"}).encode()
            yield load.post(path, api.host, api.client_key, body)

    def _batches(self, api: Teller, resource: str) -> Iterator[bytes]:
        from bench.accept import batches  # noqa: PLC0415 - it imports much that is not needed here

        return itertools.chain(batches(api, resource))


def _report(section: Section, found: list[Usage]) -> None:
    rows: list[list[Any]] = []
    for usage in found:
        cells = [
            f"{now:.1f} / {least_micros:.1f}"
            for now, least_micros in zip(usage.micros, usage.least, strict=True)
        ]
        total = f"{sum(usage.micros):.1f} / {sum(usage.least):.1f}"
        rows.append([usage.stage, f"{usage.requests:,}", *cells, total, f"{usage.wall:.1f}"])
    section.table(("stage", "requests", *(f"{who}, µs" for who in WHO), "all, µs", "wall, µs"), rows)
    section.say(
        "The least is measured so. Python at intake is an empty handler, or parsing the JSON of a batch. At drain and"
        " settle it is a loop that makes one digest and two rows. Its kernel part carries the bytes over a socket."
        " PostgreSQL stores the same rows by one statement for each table, in one transaction, without a client."
    )
    named = [(usage.stage, text, micros) for usage in found for text, micros in usage.statements]
    if named:
        section.table(("stage", "statement", "µs for each request"), [(s, f"`{t}`", m) for s, t, m in named])
    section.figures = {usage.stage: usage.__dict__ for usage in found}
