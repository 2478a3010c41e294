"""
Attacks of one client, with the latency of another client measured beside them.

    python -m bench.attacks [--only reads,batches] [--through nginx] [--seconds 4]

The other client reads one of its requests, and makes one and waits for its decision, in turn on one connection. Each
attack runs in a process of its own. The table shows the latencies of the other client shortly before an attack and
during it, and the answers of the attacker.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import fill, lab, load, proxy, system
from processor.clients import keys
from processor.domain.partitioning import partition_of
from processor.settings import RATE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Event

    from processor.storage.connections import Connection

#: Past requests of the hot resource, for the attacks with reads.
PAST = 200_000
#: Pause of the other client between two requests, in seconds.
PAUSE_SECONDS = 0.01
#: Time for an attack to reach its full strength, in seconds.
RISE_SECONDS = 1.0
#: Items of one batch, and the bytes of one large body.
ITEMS, LARGE_BYTES = 1_000, 1024 * 1024 - 2_048
#: A process started with this module answers names of this domain after SILENT_SECONDS, as a silent name server does.
SILENT = "silent.example"
SILENT_SECONDS = 10
_SITE = f"""
import socket, time
_found = socket.getaddrinfo
def _slow(host, *rest, **more):
    if str(host).endswith({SILENT!r}):
        time.sleep({SILENT_SECONDS})
        raise socket.gaierror("silent")
    return _found(host, *rest, **more)
socket.getaddrinfo = _slow
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """The address of a Teller, and the key of the attacker."""

    url: str
    key: str
    #: A request whose partition is paused, so it never ends.
    endless: str

    @property
    def host(self) -> str:
        """The value of the Host header."""
        return self.url.removeprefix("http://")

    def get(self, path: str, *headers: str) -> bytes:
        """Return the bytes of a GET."""
        lines = (f"GET {path} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {self.key}", *headers)
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    def post(self, path: str, body: Any, *headers: str) -> bytes:
        """Return the bytes of a POST. A body of bytes is sent as it is."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return load.post(path, self.host, self.key, raw, *headers)


@dataclasses.dataclass(frozen=True)
class Attack:
    """Requests of one client over a number of connections."""

    connections: int
    requests: Callable[[Target], Iterator[bytes]]


def _names(target: Target) -> Iterator[bytes]:
    names = {f"n{number}": 1 for number in range(LARGE_BYTES // 13)}
    return itertools.repeat(target.post("/v1/batches", {"requests": [names]}))


def _escape(target: Target) -> Iterator[bytes]:
    body = {"requests": [{"metadata": [1] * (LARGE_BYTES // 3), "account": "\u00e9"}]}
    return itertools.repeat(target.post("/v1/batches", body))


def _reads(target: Target) -> Iterator[bytes]:
    paths = (
        "/v1/resources/r1/entries?limit=100",
        "/v1/requests?kind=deposit&limit=100",
        "/v1/requests?resource=r1&kind=deposit&limit=100",
        "/v1/requests?status=rejected&limit=100",
        "/v1/resources/r1?at=2020-01-01T00:00:00Z",
    )
    return itertools.cycle([target.get(path) for path in paths])


def _gets(target: Target) -> Iterator[bytes]:
    return itertools.repeat(target.get("/v1/requests?limit=100"))


def _singles(target: Target) -> Iterator[bytes]:
    body = {"resource": "r2", "account": "attacker", "amount": 1}
    return (target.post("/v1/redemptions", body) for _ in itertools.count())


def _batches(target: Target) -> Iterator[bytes]:
    numbers = itertools.count()
    while True:
        items = [
            {
                "kind": "redemption",
                "resource": "r2",
                "account": "attacker",
                "idempotency_key": f"{time.time_ns()}-{next(numbers)}",
            }
            for _ in range(ITEMS)
        ]
        yield target.post("/v1/batches", {"requests": items})


def _waits(target: Target) -> Iterator[bytes]:
    return itertools.repeat(target.get(f"/v1/requests/{target.endless}", "Prefer: wait=20"))


def _lookups(target: Target) -> Iterator[bytes]:
    return (
        target.post("/v1/webhooks", {"url": f"https://n{number}.{SILENT}/"}) for number in itertools.count()
    )


def _slow(target: Target) -> Iterator[bytes]:
    body = {"resource": "till", "account": "attacker", "amount": 1, "destination": "slow"}
    return (target.post("/v1/withdrawals", body) for _ in range(2_000))


ATTACKS = {
    "names": Attack(16, _names),
    "escape": Attack(16, _escape),
    "reads": Attack(16, _reads),
    "gets": Attack(64, _gets),
    "singles": Attack(64, _singles),
    "batches": Attack(16, _batches),
    "waits": Attack(300, _waits),
    "lookups": Attack(300, _lookups),
    "slow": Attack(64, _slow),
}


def attack(name: str, target: Target, seconds: float, answers: Any, begun: Event) -> None:
    """Run an attack in a process of its own."""
    chosen = ATTACKS[name]
    requests = chosen.requests(target)
    first = next(requests)
    begun.set()
    found = load.closed(target.url, itertools.chain([first], requests), chosen.connections, seconds)
    answers.put((found.statuses, found.rate))


class Other:
    """The other client, which sends one request after the other."""

    def __init__(self, teller: system.Teller, key: str) -> None:
        self._target = Target(teller.url, key, "")
        made = teller.ask("POST", "/v1/redemptions", {"resource": "r9", "account": "other"}, key)
        self._get = self._target.get(f"/v1/requests/{made['id']}")
        self.refused = 0

    def measure(self, seconds: float) -> tuple[list[float], list[float]]:
        """Return the latencies of reads, and from a POST to its decision, in milliseconds."""
        reads: list[float] = []
        decisions: list[float] = []
        self._connection = load.Connection(self._target.url)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            reads.append(self._ask(self._get))
            time.sleep(PAUSE_SECONDS)
            body = {"resource": "r9", "account": "other"}
            decisions.append(self._ask(self._target.post("/v1/redemptions", body, "Prefer: wait=10")))
            time.sleep(PAUSE_SECONDS)
        self._connection.socket.close()
        return reads, decisions

    def _ask(self, request: bytes) -> float:
        began = time.perf_counter()
        status = self._connection.ask(request)
        if status != 200:
            self.refused += 1
        return (time.perf_counter() - began) * 1_000


def measure(teller: system.Teller, other: Other, target: Target, name: str, seconds: float) -> str:
    """Measure the other client before and during one attack. Returns a row of the table."""
    before = other.measure(seconds / 2)
    context = multiprocessing.get_context("fork")
    answers, begun = context.Queue(), context.Event()
    attacker = context.Process(
        target=attack, args=(name, target, seconds + RISE_SECONDS, answers, begun), daemon=True
    )
    attacker.start()
    begun.wait()
    time.sleep(RISE_SECONDS)
    other.refused = 0
    during = other.measure(seconds)
    statuses, rate = answers.get()
    attacker.join()
    cells = [f"{_figures(calm)} | {_figures(busy)}" for calm, busy in zip(before, during, strict=True)]
    with teller.connect() as connection:
        _settle(connection)
    return f"| {name} | {' | '.join(cells)} | {other.refused} | {rate:,.0f}/s {statuses} |"


def _figures(latencies: list[float]) -> str:
    ordered = sorted(latencies)
    return f"{statistics.median(ordered):.1f} / {ordered[int(len(ordered) * 0.99)]:.0f}"


def _settle(connection: Connection) -> None:
    """Wait until the requests of an attack are decided."""
    end = time.perf_counter() + 60
    while time.perf_counter() < end:
        [(waiting,)] = connection.execute("SELECT count(*) FROM inbox WHERE verb = 'decide'").fetchall()
        if waiting <= 1:  # the endless one
            return
        time.sleep(0.1)


def main() -> None:
    """Start a Teller, and print a row of the table for each attack."""
    parser = argparse.ArgumentParser(prog="python -m bench.attacks", description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ATTACKS))
    parser.add_argument("--through", choices=["nginx"])
    parser.add_argument("--seconds", type=float, default=4.0)
    asked = parser.parse_args()
    lab.forget_environment()
    with lab.home() as home:
        (home / "sitecustomize.py").write_text(_SITE)
        (home / "sitecustomize.py").chmod(0o644)
        path = f"{home}:{Path.cwd()}"
        limit = str(RATE_LIMIT)
        with system.up_in(home, TELLER_WORKERS="2", TELLER_RATE_LIMIT=limit, PYTHONPATH=path) as teller:
            way = proxy.nginx(home / "nginx", teller.host) if asked.through else nullcontext(teller.url)
            with way as url:
                _run(dataclasses.replace(teller, url=url), asked.only, asked.seconds)


def _run(teller: system.Teller, names: list[str], seconds: float) -> None:
    partitions = teller.settings.partitions
    teller.open("till", gateway="sandbox")
    with teller.connect() as owner:
        fill.open_resources(owner, [1, 2, 9, 10], partitions)
        attacker, other = (keys.create_key(owner, name, "client").key for name in ("attacker", "other"))
        if {"reads", "gets"} & set(names):
            fill.past(teller.settings.database_url, PAST, [1], partitions)
            owner.execute("ANALYZE")
    paused = next(key for key in itertools.count(100) if _is_alone(key, partitions))
    with teller.connect() as owner:
        fill.open_resources(owner, [paused], partitions)
    teller.pause(fill.partition(paused, partitions))
    sent = load.Connection(teller.url)
    target = Target(teller.url, attacker, "")
    body = {"resource": fill.name(paused), "account": "attacker"}
    assert sent.ask(target.post("/v1/redemptions", body)) == 202
    with teller.connect() as owner:
        [(endless,)] = owner.execute(
            "SELECT id FROM requests WHERE resource_id = %s", [fill.name(paused)]
        ).fetchall()
    target = dataclasses.replace(target, endless=str(endless))
    client = Other(teller, other)
    client.measure(2)  # warm
    print(
        "| attack | GET before | during | POST to decided before | during | refused | the attacker's answers |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in names:
        print(measure(teller, client, target, name, seconds), flush=True)


def _is_alone(key: int, partitions: int) -> bool:
    """Return whether no other resource of this run has the partition of this one."""
    others = {fill.partition(one, partitions) for one in (1, 2, 9, 10)} | {partition_of("till", partitions)}
    return fill.partition(key, partitions) not in others


if __name__ == "__main__":
    main()
