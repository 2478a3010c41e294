"""
Measures one courier process: webhook deliveries and gateway calls a second, and its memory.

A sink in another process answers each POST: at once for webhooks, after 50 ms as the gateway. A delivery or a
call counts once the courier has recorded it. Rows are made in the database as a batch would have left them.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from bench import charts, lab, processes
from bench.report import Section, progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection as Pipe

    from bench.plan import Plan
    from processor.settings import Settings
    from teller.embedded.servers import Servers

#: Numbers of endpoints that receive the deliveries, one run each.
ENDPOINTS = (1, 50)
#: Time until the gateway answers, in seconds, and the calls of it at once.
GATEWAY_SECONDS = 0.05
CALLS_AT_ONCE = 256
#: Interval between two readings of the progress, and the limit without any progress, in seconds.
LOOK_SECONDS = 0.1
STALL_SECONDS = 20

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"

_REQUESTS = """
INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account,
                      amount, details)
SELECT md5('request' || n)::uuid, 'shop', md5('key')::uuid, 'key-' || n, sha256('x'), 'withdrawal', 0, 'till',
       'u' || n %% 1000, 5, '{"destination": "IBAN 1"}'
  FROM generate_series(1, %(count)s) AS n
"""
_DECISIONS = """
INSERT INTO decisions (request_id, version, status, stage, sequence, decided_at, at, actor)
SELECT id, 2, %(status)s, %(stage)s, row_number() OVER (ORDER BY id), now(), now(), 'teller'
  FROM requests
"""
_WEBHOOKS = """
INSERT INTO webhooks (id, client_id, url, secret)
SELECT md5('webhook' || n)::uuid, 'shop', %(url)s || n, sha256('secret')
  FROM generate_series(1, %(endpoints)s) AS n
"""
_DELIVERIES = """
INSERT INTO deliveries (request_id, version, type, webhook_id)
SELECT r.id, 2, 'request.completed', md5('webhook' || 1 + row_number() OVER () %% %(endpoints)s)::uuid
  FROM requests r
"""
_EFFECTS = """
INSERT INTO effects (request_id, partition, gateway, created_at, due_at)
SELECT id, 0, 'bank', now(), now()
  FROM requests
"""


class _Sink(asyncio.Protocol):
    """Just enough HTTP to answer POSTs."""

    def __init__(self, seen: Counter[str], delay_seconds: float) -> None:
        self._seen = seen
        self._delay_seconds = delay_seconds
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._seen["now"] += 1
            self._seen["all"] += 1
            self._seen["most"] = max(self._seen["most"], self._seen["now"])
            if self._delay_seconds:
                asyncio.get_running_loop().call_later(self._delay_seconds, self._answer)
            else:
                self._answer()

    def _answer(self) -> None:
        self._seen["now"] -= 1
        self._transport.write(_ANSWER)


def _serve(pipe: Pipe, delay_seconds: float) -> None:
    """Run the sink's process: send its port, and on request the counts of its POSTs."""
    seen: Counter[str] = Counter()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Sink(seen, delay_seconds), "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        asked = asyncio.Event()
        loop.add_reader(pipe.fileno(), asked.set)
        await asked.wait()
        pipe.send(dict(seen))

    asyncio.run(serve())


@contextlib.contextmanager
def sink(delay_seconds: float) -> Iterator[tuple[str, Pipe]]:
    """Run a sink. Yields its URL and the pipe that asks for its counts."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, delay_seconds), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/", ours
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def courier(settings: Settings) -> Iterator[int]:
    """Run one courier process. Yields its process id."""
    environ = {
        **settings.environment(),
        "TELLER_GATEWAYS": ",".join(f"{name}={url}" for name, url in settings.gateways.items()),
        "TELLER_GATEWAY_CALLS": str(CALLS_AT_ONCE),
        "TELLER_ALLOW_PRIVATE_WEBHOOKS": "1",
    }
    code = (
        "import os, sys; from processor import log; from processor.settings import Settings;"
        "from workers.courier.main import run_courier; log.configure();"
        "sys.exit(run_courier(Settings.from_environment(os.environ)))"
    )
    with processes.running([sys.executable, "-c", code], environ) as child:
        yield child.pid


def measure_courier(settings: Settings, left: str, count: int) -> tuple[float, float, float, list[int]]:
    """
    Run a courier until `count` rows are done. Returns its rate, the rate of the second half, its CPU for each row in
    microseconds, and its memory in MiB.
    """
    memory: list[int] = []
    spent: list[float] = []
    looks: list[tuple[float, int]] = []
    with courier(settings) as pid, psycopg.connect(settings.database_url, autocommit=True) as connection:
        since = time.monotonic()
        while not looks or looks[-1][1] < count:
            time.sleep(LOOK_SECONDS)
            [(waiting,)] = connection.execute(left).fetchall()
            if waiting < count:
                if not looks or looks[-1][1] < count - waiting:
                    since = time.monotonic()
                looks.append((time.monotonic(), count - waiting))
                memory.append(_resident_mib(pid))
                spent.append(_cpu_seconds(pid))
            assert time.monotonic() - since < STALL_SECONDS, f"the courier stopped with {waiting:,} left"
    (began, first), (ended, last) = looks[0], looks[-1]
    half, done = looks[len(looks) // 2]
    cpu = (spent[-1] - spent[0]) / max(1, last - first) * 1e6
    return (last - first) / (ended - began), (last - done) / max(ended - half, LOOK_SECONDS), cpu, memory


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / processes.CLOCK_TICKS  # utime and stime


def _resident_mib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


def fill(settings: Settings, statements: list[tuple[str, dict[str, Any]]]) -> None:
    """Insert rows as a batch would have left them."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        for statement, parameters in statements:
            connection.execute(statement, parameters)
        connection.execute("VACUUM ANALYZE")


def deliveries(settings: Settings, endpoints: int, count: int) -> tuple[object, ...]:
    """Measure webhook deliveries to a local sink."""
    with sink(0) as (url, pipe):
        fill(
            settings,
            [
                (_REQUESTS, {"count": count}),
                (_DECISIONS, {"status": "completed", "stage": None}),
                (_WEBHOOKS, {"url": url, "endpoints": endpoints}),
                (_DELIVERIES, {"endpoints": endpoints}),
            ],
        )
        rate, later, cpu, memory = measure_courier(
            settings, "SELECT count(*) FROM deliveries WHERE status = 'pending'", count
        )
        seen = _ask(pipe)
    assert seen["all"] == count, seen
    return (f"deliveries, {endpoints} endpoint(s)", rate, later, cpu, seen["most"], max(memory))


def calls(settings: Settings, count: int) -> tuple[object, ...]:
    """Measure gateway calls of 50 ms each."""
    with sink(GATEWAY_SECONDS) as (url, pipe):
        fill(
            settings,
            [
                (_REQUESTS, {"count": count}),
                (_DECISIONS, {"status": "processing", "stage": "settling"}),
                (_EFFECTS, {}),
            ],
        )
        named = replace(settings, gateways={"bank": url})
        rate, later, cpu, memory = measure_courier(
            named, "SELECT count(*) FROM effects WHERE outcome IS NULL", count
        )
        seen = _ask(pipe)
    with psycopg.connect(settings.database_url) as connection:
        [settles] = connection.execute("SELECT count(*) FROM inbox WHERE verb = 'settle'").fetchall()
    assert (settles, seen["all"]) == ((count,), count), seen
    return (f"gateway calls of {GATEWAY_SECONDS * 1_000:.0f} ms", rate, later, cpu, seen["most"], max(memory))


def _ask(pipe: Pipe) -> dict[str, int]:
    pipe.send("counts")
    seen: dict[str, int] = pipe.recv()
    return seen


def measure(plan: Plan, servers: Servers) -> Section:
    """Measure, check and report."""
    section = Section("courier", "7 · Courier: deliveries and gateway calls", plan.place)
    section.say(
        f"One courier process; {plan.deliveries:,} deliveries, {plan.gateway_calls:,} calls. Each counts once it is"
        " recorded, and the sink has counted the same number."
    )
    rows = []
    for endpoints in ENDPOINTS:
        with lab.fresh_database(servers, "bench_deliveries") as settings:
            rows.append(deliveries(settings, endpoints, plan.deliveries))
        progress(f"{rows[-1][0]}: {rows[-1][1]:,.0f}/s")
    with lab.fresh_database(servers, "bench_calls") as settings:
        rows.append(calls(settings, plan.gateway_calls))
    progress(f"{rows[-1][0]}: {rows[-1][1]:,.0f}/s")
    section.figures = {str(row[0]): row[1:] for row in rows}
    section.table(
        ("one courier", "a second", "over the 2nd half", "CPU for each, µs", "at once", "most memory, MiB"),
        rows,
    )
    section.chart(
        "courier",
        "Bar chart: deliveries and calls of one courier in a second",
        charts.bars(
            "One courier",
            "Recorded in PostgreSQL a second; more is better",
            [charts.Bar(str(row[0]), float(str(row[1])), "own") for row in rows],
        ),
    )
    return section
