"""
Floods without a key, with `/healthz` and good clients measured beside them.

    python -m bench.flood [--only heads,bodies] [--through nginx] [--seconds 8] [--good 200]

Each flood and the good clients run in processes of their own. The table shows the latencies of `/healthz`, over a new
connection each time, and those of the good clients, shortly before a flood and during it. It also shows memory and
threads of the API process, and the most log lines of one second about refused requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import resource
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import lab, processes, proxy, system
from processor.clients import keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.synchronize import Event

#: Interval between two questions for `/healthz`, and between two requests of a good client, in seconds.
HEALTH_SECONDS, GOOD_SECONDS = 0.05, 2.0
#: Interval between two bytes of a slow connection, in seconds.
BYTE_SECONDS = 1.0
#: Time for a flood to reach its full strength, in seconds.
RISE_SECONDS = 3.0
#: Connections that are opened at the same time.
OPENED_AT_ONCE = 64
#: Time after which an answer counts as lost, in seconds.
LOST_SECONDS = 10.0
FILES = 20_000


def _get(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: teller", *headers)).encode() + b"\r\n\r\n"


async def _slow_head(host: str, port: int, number: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /v1/requests HTTP/1.1\r\nHost: teller\r\n")
    await _drip(reader, writer, f"X-{number}: 1\r\n".encode())


async def _slow_body(host: str, port: int, _number: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /sandbox/gateway HTTP/1.1\r\nHost: teller\r\nContent-Length: 1000\r\n\r\n")
    await _drip(reader, writer, b" ")


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, part: bytes) -> None:
    """Send a part now and then until the server closes the connection."""
    while not reader.at_eof():
        writer.write(part)
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BYTE_SECONDS):
                await reader.read(65_536)
    writer.close()


async def _idle(host: str, port: int, _number: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    await reader.read()
    writer.close()


async def _wrong_keys(host: str, port: int, number: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    for turn in range(1_000_000):
        key = f"{keys.PREFIX}{number:021d}{turn:022d}"
        writer.write(_get("/v1/requests", f"Authorization: Bearer {key}"))
        await _read_answer(reader)


async def _read_answer(reader: asyncio.StreamReader) -> int:
    """Read one answer. Returns its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
    await reader.readexactly(int(length or 0))
    return int(head[9:12])


@dataclasses.dataclass(frozen=True)
class Flood:
    """A number of connections, each of which is made again when it ends."""

    connections: int
    connection: Callable[[str, int, int], Awaitable[None]]


FLOODS = {
    "heads": Flood(1_000, _slow_head),
    "bodies": Flood(1_000, _slow_body),
    "idle": Flood(10_000, _idle),
    "keys": Flood(64, _wrong_keys),
}


async def _keep(flood: Flood, host: str, port: int, number: int, gate: asyncio.Semaphore) -> None:
    while True:
        with contextlib.suppress(OSError, EOFError):
            async with gate:
                await asyncio.sleep(0.001)
            await flood.connection(host, port, number)


async def _run(flood: Flood, connections: int, address: tuple[str, int], seconds: float) -> None:
    gate = asyncio.Semaphore(OPENED_AT_ONCE)
    async with asyncio.timeout(seconds):
        await asyncio.gather(*(_keep(flood, *address, number, gate) for number in range(connections)))


def run_flood(name: str, connections: int, address: tuple[str, int], seconds: float, begun: Event) -> None:
    """Run a flood in a process of its own."""
    _allow_files()
    begun.set()
    with contextlib.suppress(TimeoutError):
        asyncio.run(_run(FLOODS[name], connections, address, seconds))


def _allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))


@dataclasses.dataclass
class Seen:
    """Latencies in milliseconds, and the answers other than 200 by status. 0: none came."""

    latencies: list[float] = dataclasses.field(default_factory=list)
    failed: Counter[int] = dataclasses.field(default_factory=Counter)

    def count(self, began: float, status: int) -> None:
        """Count an answer."""
        self.latencies.append((time.perf_counter() - began) * 1_000)
        if status != 200:
            self.failed[status] += 1

    def text(self) -> str:
        """Return the median and the longest latency, and the failures if there are any."""
        ordered = sorted(self.latencies)
        share = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        text = f"{statistics.median(ordered):.1f} / {share:.0f} / {ordered[-1]:.0f}"
        return f"{text} {dict(self.failed)}" if self.failed else text


async def _ask_health(address: tuple[str, int], end: float, seen: Seen) -> None:
    request = _get("/healthz", "Connection: close")
    while time.perf_counter() < end:
        began = time.perf_counter()
        status = 0
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(LOST_SECONDS):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(request)
                status = await _read_answer(reader)
                writer.close()
        seen.count(began, status)
        await asyncio.sleep(HEALTH_SECONDS)


async def _be_good(address: tuple[str, int], request: bytes, begin: float, end: float, seen: Seen) -> None:
    """Read one request now and then, over one connection while it lasts."""
    await asyncio.sleep(begin)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while time.perf_counter() < end:
        began = time.perf_counter()
        status = 0
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(LOST_SECONDS):
                streams = streams or await asyncio.open_connection(*address)
                streams[1].write(request)
                status = await _read_answer(streams[0])
        if status == 0 and streams is not None:
            streams[1].close()
            streams = None
        seen.count(began, status)
        await asyncio.sleep(GOOD_SECONDS)
    if streams is not None:
        streams[1].close()


async def _measure(address: tuple[str, int], request: bytes, good: int, seconds: float) -> tuple[Seen, Seen]:
    health, clients = Seen(), Seen()
    end = time.perf_counter() + seconds
    await asyncio.gather(
        _ask_health(address, end, health),
        *(
            _be_good(address, request, GOOD_SECONDS * number / max(1, good), end, clients)
            for number in range(good)
        ),
    )
    return health, clients


def measure(
    teller: system.Teller,
    url: str,
    request: bytes,
    name: str,
    *,
    good: int,
    seconds: float,
    part: float = 1.0,
) -> tuple[list[Seen], list[Seen], str]:
    """
    Measure `/healthz` and good clients before and during a flood of `part` of its connections.

    Returns both, and the state of the API process as text.
    """
    host, _, port = url.removeprefix("http://").rpartition(":")
    address = (host, int(port))
    before = asyncio.run(_measure(address, request, good, seconds / 2))
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    connections = int(FLOODS[name].connections * part)
    flood = context.Process(
        target=run_flood, args=(name, connections, address, seconds + RISE_SECONDS, begun), daemon=True
    )
    lines = _refusals(teller)
    flood.start()
    begun.wait()
    time.sleep(RISE_SECONDS)
    during = asyncio.run(_measure(address, request, good, seconds))
    state = api_state(teller)
    flood.join()
    added = _refusals(teller) - lines
    most = max(added.values(), default=0)
    return [before[0], during[0]], [before[1], during[1]], f"{state}, {most} lines/s"


def api_state(teller: system.Teller) -> str:
    """Return memory and threads of the API process that serves."""
    memory, threads = 0.0, 0
    for process, seen in processes.tree(teller.pid, memory=True).items():
        if processes.part_of(seen) == "api":
            memory += seen.mib
            with contextlib.suppress(OSError):
                threads += sum(1 for _ in Path(f"/proc/{process}/task").iterdir())
    return f"{memory:.0f} MiB, {threads} threads"


def _refusals(teller: system.Teller) -> Counter[str]:
    """Return the number of log lines about refused requests in each second."""
    counts: Counter[str] = Counter()
    for line in (teller.home / "up.log").read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line[line.index("{") :])
            if entry.get("event") == "http_requests_refused" or entry.get("status", 200) >= 400:
                counts[str(entry.get("timestamp", ""))[:19]] += 1
    return counts


def good_request(teller: system.Teller) -> bytes:
    """Make a request, and return the bytes that read it."""
    made = teller.ask("POST", "/v1/redemptions", {"resource": "good", "account": "good"}, teller.client_key)
    return _get(f"/v1/requests/{made['id']}", f"Authorization: Bearer {teller.client_key}")


def main() -> None:
    """Start a Teller, and print a row of the table for each flood."""
    parser = argparse.ArgumentParser(prog="python -m bench.flood", description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(FLOODS))
    parser.add_argument("--through", choices=["nginx"])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--good", type=int, default=200)
    asked: Any = parser.parse_args()
    _allow_files()
    lab.forget_environment()
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(lab.home())
        teller = stack.enter_context(system.up_in(home))
        url = teller.url
        if asked.through:
            url = stack.enter_context(proxy.nginx(home / "nginx", teller.host))
        teller.open("good")
        request = good_request(teller)
        print("| flood | /healthz before | during | good clients before | during | the API |")
        print("|---|---|---|---|---|---|")
        for name in asked.only:
            health, clients, state = measure(
                teller, url, request, name, good=asked.good, seconds=asked.seconds
            )
            cells = [seen.text() for seen in (*health, *clients)]
            print(f"| {name} | {' | '.join(cells)} | {state} |", flush=True)


if __name__ == "__main__":
    main()
