"""
The system for the faults: PostgreSQL, Valkey, two APIs, workers and a courier, each a child process.

A process that dies and should run is started again, as `teller up` does (tests/flow/test_up.py tests that
one). APIs, workers and the courier connect to PostgreSQL through proxies. Everything is in a new home, also a
copy of the code, so that later changes of the sources have no effect. All processes end with this one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg

from processor.clients import keys
from processor.errors import DatabaseUnavailable, ServerError
from processor.storage import connections, migrations
from teller.embedded import home as homes
from teller.embedded import postgres, valkey
from teller.embedded.postgres import Postgres
from teller.embedded.valkey import Valkey
from tests.faults.parts import Part, sources
from tests.faults.proxy import SOCKET_NAME, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TELLER = ("-P", "-m", "teller")
MOVED_CLOCK = ("-P", "-m", "tests.faults.moved_clock")
PARTITIONS = 64
#: Part of a batch's message when another transaction changed its partition: the lock did not hold.
NOT_ALONE = "changed while the batch was under way"
#: Time limit for everything else, in seconds.
WAIT_SECONDS = 30.0
#: Interval between two checks for dead processes, in seconds.
LOOK_SECONDS = 0.02
#: Settings that end gateway calls soon: tries, first pause and time limit in seconds.
GATEWAY = {
    "TELLER_GATEWAY_TRIES": "3",
    "TELLER_GATEWAY_BACKOFF_SECONDS": "0.2",
    "TELLER_GATEWAY_TIMEOUT_SECONDS": "1",
}


@dataclass(frozen=True)
class Caller:
    """A client with its key."""

    client: str
    key: str


@dataclass
class System:
    """The system between `start` and `close`. The main thread calls `mend` meanwhile."""

    home: Path
    gateway_url: str
    workers_at_first: int = 2
    parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        homes.prepare(self.home)
        self.postgres, self.valkey = Postgres(self.home), Valkey(self.home)
        #: The servers that should run.
        self.wanted: list[Postgres | Valkey] = [self.postgres, self.valkey]
        self.ports: list[int] = []
        self._mended_at = 0.0
        self._urls = postgres.environment(self.home)
        self.owner_url = self._urls["DATABASE_URL"]
        self.redis_url = valkey.environment(self.home)["REDIS_URL"]
        socket_path = homes.run_directory(self.home) / "postgres" / SOCKET_NAME
        self.api_proxy = Proxy(self.home / "pa", socket_path)
        self.courier_proxy = Proxy(self.home / "pc", socket_path)
        #: Proxies that workers use in turn.
        self.worker_proxies = [Proxy(self.home / name, socket_path) for name in ("pw0", "pw1")]
        self.environment = {
            "PYTHONPATH": str(sources(self.home / "code")),
            "TELLER_HOME": str(self.home),
            "TELLER_SECRET": secrets.token_hex(),
            "TELLER_GATEWAY_SECRET": "whsec_" + "c2VjcmV0" * 4,
            "TELLER_GATEWAYS": f"bank={self.gateway_url},sandbox=builtin",
            "TELLER_ALLOW_PRIVATE_WEBHOOKS": "1",
            "REDIS_URL": self.redis_url,
            **GATEWAY,
            **self._urls,
        }
        self.environment["TELLER_API_DATABASE_URL"] = self.through(self.api_proxy, "teller_api")
        self.environment["TELLER_COURIER_DATABASE_URL"] = self.through(self.courier_proxy, "teller_courier")

    def through(self, proxy: Proxy, role: str) -> str:
        """Return the URL of the database for this role, through a proxy."""
        return f"postgresql:///{postgres.OWNER}?host={proxy.directory}&user={role}"

    # ------------------------------------------------------------ start and end

    def start(self) -> None:
        """Start everything. Returns when it is ready."""
        self.postgres.start()
        self.valkey.start()
        migrations.migrate(self.owner_url, PARTITIONS)
        with contextlib.closing(connections.connect(self.owner_url, application_name="faults")) as connection:
            made = [keys.create_key(connection, role, role) for role in ("admin", "client")]
        self.admin, self.client = (Caller(one.client, one.key) for one in made)
        for _ in range(2):
            self.ports.append(_free_port())
            self.add_part("api", {"TELLER_PORT": str(self.ports[-1])})
        # The first API serves the sandbox.
        self.add_part("courier", {"TELLER_PORT": str(self.ports[0])})
        for _ in range(self.workers_at_first):
            self.add_worker()
        self.until(lambda: all(self.is_ready(port) for port in self.ports))
        self.until(self.is_shared)

    def add_worker(self) -> Part:
        """Start one more worker, through the proxy that has fewer."""
        workers = self.living("worker")
        proxy = min(self.worker_proxies, key=lambda one: sum(self.is_behind(part, one) for part in workers))
        return self.add_part("worker", {"TELLER_WORKER_DATABASE_URL": self.through(proxy, "teller_worker")})

    def is_behind(self, worker: Part, proxy: Proxy) -> bool:
        """Return whether a worker connects through this proxy."""
        return str(proxy.directory) in worker.environment["TELLER_WORKER_DATABASE_URL"]

    def add_part(
        self,
        kind: str,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = TELLER,
        prefix: Sequence[str] = (),
    ) -> Part:
        """Start one more process of this kind."""
        log = self.home / "log" / f"{kind}-{len(self.parts)}.log"
        part = Part(kind, [*program, kind], {**self.environment, **(environment or {})}, log, prefix)
        self.parts.append(part)
        part.start()
        return part

    def close(self) -> None:
        """End everything, in any state."""
        for part in self.parts:
            part.wanted = False
        for part in self.parts:
            if part.child is not None and part.alive():
                part.child.process.kill()
        for part in self.parts:
            part.end(kill=True)
        for server in (self.valkey, self.postgres):
            with contextlib.suppress(ProcessLookupError):
                if server.pid is not None:
                    os.kill(server.pid, signal.SIGCONT)
            server.stop()
        for proxy in (self.api_proxy, self.courier_proxy, *self.worker_proxies):
            proxy.close()

    @contextlib.contextmanager
    def second_host(self, address: str, postgres_port: int, redis_port: int) -> Iterator[dict[str, str]]:
        """
        Open PostgreSQL and Redis on TCP while the block runs. Yields the settings of a worker on another
        host.
        """
        sockets = homes.run_directory(self.home)
        proxies = []
        for name, target, port in (
            ("ph", sockets / "postgres" / SOCKET_NAME, postgres_port),
            ("rh", Path(urlsplit(self.redis_url).path), redis_port),
        ):
            proxies.append(Proxy(Path(tempfile.mkdtemp(dir=self.home, prefix=name)) / "socket", target))
            proxies[-1].listen_on(address, port)
        where = f"{address}:{postgres_port}/{postgres.OWNER}?sslmode=disable&gssencmode=disable"
        try:
            yield {
                "DATABASE_URL": f"postgresql://teller@{where}",
                "TELLER_WORKER_DATABASE_URL": f"postgresql://teller_worker@{where}",
                "REDIS_URL": f"redis://{address}:{redis_port}",
            }
        finally:
            for proxy in proxies:
                proxy.close()

    # ------------------------------------------------------------ supervision

    def living(self, name: str) -> list[Part]:
        """Return the parts of this name that should run."""
        return [part for part in self.parts if part.name == name and part.wanted]

    def mend(self) -> None:
        """Start each dead process that should run. Must run in the main thread."""
        for server in self.wanted:
            if not server.alive():
                with contextlib.suppress(ServerError):
                    server.start()
        for part in self.parts:
            if part.wanted and not part.alive():
                part.start()

    def _unavailable(self) -> str:
        """Describe the processes that should run and do not."""
        missing = [
            one.name
            for one in (*self.wanted, *(part for part in self.parts if part.wanted))
            if not one.alive()
        ]
        return f"; not running: {', '.join(missing)}" if missing else ""

    def restore(self) -> None:
        """Undo what an interrupted fault may have left."""
        self.wanted = [self.postgres, self.valkey]
        for proxy in (self.api_proxy, self.courier_proxy, *self.worker_proxies):
            proxy.losses, proxy.delay_seconds = [], 0.0
            proxy.thaw()

    def pause(self, seconds: float) -> None:
        """Let the system run for `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.mend()
            time.sleep(min(left, LOOK_SECONDS))

    def until(self, condition: Callable[[], Any], within: float = WAIT_SECONDS) -> float:
        """Let the system run until this holds. Returns the seconds. Raises AssertionError after `within`."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < within, f"not within {within:.0f} s{self._unavailable()}"
            self.mend()
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    def is_ready(self, port: int) -> bool:
        """Return whether an API reports that it is ready."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False

    def is_shared(self) -> bool:
        """Return whether each partition belongs to a live worker."""
        rows = self.query(
            "SELECT count(*) FROM ownership o JOIN workers w ON w.id = o.worker_id"
            " WHERE w.alive_until > clock_timestamp()"
        )
        return rows == [(PARTITIONS,)]

    def is_shared_by_all(self) -> bool:
        """Return whether each worker that should run has started and has its share."""
        rows = self.query(
            "SELECT DISTINCT w.pid FROM ownership o JOIN workers w ON w.id = o.worker_id"
            " WHERE w.alive_until > clock_timestamp()"
        )
        return rows is not None and {part.pid for part in self.living("worker")} <= {pid for (pid,) in rows}

    def query(self, text: str, *parameters: object) -> list[tuple[Any, ...]] | None:
        """Return the rows of a query as the owner, or None if PostgreSQL is unavailable."""
        try:
            with (
                connections.faults(),
                psycopg.connect(
                    self.owner_url, connect_timeout=2, options="-c statement_timeout=20000"
                ) as asked,
            ):
                return asked.execute(text, parameters).fetchall()
        except DatabaseUnavailable:
            return None

    def verify(self) -> list[str]:
        """Run `teller verify`. Returns one line for each discrepancy."""
        done = subprocess.run(
            [sys.executable, *TELLER, "verify"],
            check=False,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return []
        return done.stdout.splitlines() or done.stderr.splitlines()

    def last_words(self, name: str) -> str:
        """Return the last warning of any part of this name, as a possible reason."""
        warned = [
            f"{part.log.name}: {line[:100]} … {line[-300:]}"
            for part in self.living(name)
            for line in part.log.read_text(errors="replace").splitlines()
            if '"level": "warning"' in line or '"level": "error"' in line
        ]
        return warned[-1] if warned else f"no {name} has warned of anything"

    def faults_logged(self) -> list[str]:
        """Return the log lines of unexpected faults."""
        return [
            f"{part.log.name}: {line[-400:]}"
            for part in self.parts
            for line in part.log.read_text(errors="replace").splitlines()
            if '"exception"' in line or line.startswith("Traceback") or NOT_ALONE in line
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
