"""
Runs a peer: enqueues the work, lets the peer decide, and checks the result.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import redis

from bench import lab, processes, work
from bench.peers import install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.peers.catalog import Peer
    from bench.peers.install import Installed
    from bench.work import Checked
    from processor.storage.connections import Connection
    from teller.embedded.servers import Servers

#: Time limits for enqueueing, and for a peer without progress, in seconds.
ENQUEUE_SECONDS, STALL_SECONDS = 90.0, 15.0
#: Messages that a consumer of Dramatiq fetches in advance. With enough of them it sleeps before it polls again.
DRAMATIQ_PREFETCH = 128
#: Interval between two readings of the progress, in seconds.
LOOK_SECONDS = 0.05

_DONE = "SELECT count(*) FROM asked WHERE status <> 'processing'"


class PeerFailed(Exception):
    """A peer could not be measured. The message is one line with the reason."""


class Run:
    """One peer on its own database, with the requests of `keys` waiting."""

    def __init__(self, peer: Peer, installed: Installed, url: str, servers: Servers, log: Path) -> None:
        self._peer = peer
        self._log = log
        program = install.HERE / peer.program
        if peer.needs_node:
            program = install.PLACE / "node" / peer.program
        interpreter = installed.node if peer.needs_node else installed.python
        assert interpreter is not None
        self._program = [interpreter, program]
        self._environment = {
            "BENCH_DATABASE_URL": url,
            "BENCH_REDIS_URL": servers.settings.redis_url,
            "BENCH_REDIS_SOCKET": _socket(servers.settings.redis_url),
            "BENCH_STATEMENT": work.STATEMENT,
            "BENCH_ASK": work.ASK,
            "dramatiq_queue_prefetch": str(DRAMATIQ_PREFETCH),
        }

    def do(self, *arguments: str, concurrency: int, keys: int = 1, seconds: float = ENQUEUE_SECONDS) -> None:
        """Run one of the peer's commands to the end. Raises PeerFailed."""
        try:
            processes.finish(
                [*self._program, *arguments],
                self._environment | _numbers(concurrency, keys),
                seconds,
                self._log,
            )
        except RuntimeError as fault:
            raise PeerFailed(str(fault)) from fault

    @contextlib.contextmanager
    def working(self, concurrency: int) -> Iterator[None]:
        """Let the peer decide while the block runs."""
        with processes.running(
            [*self._program, "work"], self._environment | _numbers(concurrency, 1), self._log
        ):
            yield

    def await_decided(self, connection: Connection, count: int) -> None:
        """Wait until all are decided. Raises PeerFailed if the peer makes no progress."""
        done, since = 0, time.monotonic()
        while True:
            [(now,)] = connection.execute(_DONE).fetchall()
            if now >= count:
                return
            if now > done:
                done, since = now, time.monotonic()
            if time.monotonic() - since > STALL_SECONDS:
                raise PeerFailed(f"stopped after {done} of {count}: {processes.last_lines(self._log)}")
            time.sleep(LOOK_SECONDS)


@contextlib.contextmanager
def prepared(
    peer: Peer, installed: Installed, servers: Servers, wanted: list[int]
) -> Iterator[tuple[Run, Connection]]:
    """Create a database with these requests waiting, and prepare the peer on it."""
    kind = "Node.js" if peer.needs_node else "Python"
    if kind in installed.missing:
        raise PeerFailed(f"not installed: {installed.missing[kind]}")
    redis.Redis.from_url(servers.settings.redis_url).flushall()
    with (
        lab.empty_database(servers.settings.database_url, "bench_peer") as url,
        lab.connect(url) as connection,
        lab.home() as home,
    ):
        work.prepare(connection, wanted)
        run = Run(peer, installed, url, servers, home / "peer.log")
        run.do("prepare", concurrency=1)
        yield run, connection


def drain(peer: Peer, installed: Installed, servers: Servers, wanted: list[int], *, many: bool) -> Checked:
    """Measure how the peer decides requests that were all enqueued before it starts. Raises PeerFailed."""
    concurrency = peer.concurrency if many else 1
    with prepared(peer, installed, servers, wanted) as (run, connection):
        run.do("enqueue", concurrency=concurrency)
        with run.working(concurrency):
            run.await_decided(connection, len(wanted))
        found = work.check(connection)
    if found.faults:
        raise PeerFailed(f"wrong: {', '.join(found.faults)}")
    return found


def latencies(
    peer: Peer, installed: Installed, servers: Servers, rate: int, seconds: float, keys: int
) -> list[float]:
    """Return milliseconds from the planned time of each request to its decision. Raises PeerFailed."""
    count = int(rate * seconds)
    with prepared(peer, installed, servers, []) as (run, connection):
        with run.working(peer.concurrency):
            time.sleep(2)  # the peer starts; only its steady state is measured
            run.do(
                "pace",
                str(rate),
                str(seconds),
                concurrency=peer.concurrency,
                keys=keys,
                seconds=seconds * 2 + 20,
            )
            run.await_decided(connection, count)
        found = work.check(connection)
        if found.faults or found.decided != count:
            raise PeerFailed(f"wrong: {found.faults}, {found.decided} of {count}")
        rows = connection.execute(
            "SELECT extract(epoch FROM decided_at - created_at)::float8 * 1000 FROM asked"
        ).fetchall()
    return [milliseconds for (milliseconds,) in rows]


def _numbers(concurrency: int, keys: int) -> dict[str, str]:
    return {"BENCH_CONCURRENCY": str(concurrency), "BENCH_KEYS": str(keys)}


def _socket(url: str) -> str:
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else ""
