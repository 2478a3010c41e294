"""
The system that the faults are made to: PostgreSQL, Valkey, two APIs, workers and a courier.

A process that dies and is expected is started again, as `teller up` does (tests/flow/test_up.py tests that).
APIs, workers and the courier reach PostgreSQL through proxies. The home also holds a copy of the code: a process
that is started again runs the same code as before. Everything ends with the tests.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
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
from tests.faults.proxy import SOCKET_NAME, Proxy
from tests.servers import PARTITIONS
from tests.stack import TELLER, TOP, Process, Stack, bare_environment
from tests.waiting import TIMEOUT_SECONDS, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MOVED_CLOCK = ("-P", "-m", "tests.faults.moved_clock")
#: The error of a batch that did not have its partition for itself: the lock did not hold.
NOT_ALONE = "changed while the batch was under way"
#: The code of the processes.
SOURCES = ("teller", "api", "lab", "workers", "processor", "schema.sql", "tests/faults")
#: A process that was asked to stop is killed after this, in seconds.
STOP_SECONDS = 8.0
#: The pause between two looks at the processes, in seconds.
LOOK_SECONDS = 0.02
#: The wait for a lock after which PostgreSQL looks for a deadlock, in milliseconds. With its default of a second, a
#: batch that waits for the locks of others would give up before.
DEADLOCK_MS = 50
#: The line of PostgreSQL's log.
DEADLOCK = "deadlock detected"
#: A gateway call fails soon here: tries, first pause and timeout in seconds.
GATEWAY = {
    "TELLER_GATEWAY_TRIES": "3",
    "TELLER_GATEWAY_BACKOFF_SECONDS": "0.2",
    "TELLER_GATEWAY_TIMEOUT_SECONDS": "1",
}


@dataclass(frozen=True)
class Caller:
    """A client and its key."""

    client: str
    key: str


class FaultStack(Stack):
    """The servers and processes. After `begin` the main thread lets them run with `pause` or `until`."""

    def __init__(self, home: Path, gateway_url: str, workers_at_first: int = 2) -> None:
        homes.prepare(home)
        self._urls = postgres.environment(home)
        self.owner_url = self._urls["DATABASE_URL"]
        self.redis_url = valkey.environment(home)["REDIS_URL"]
        socket_path = homes.run_directory(home) / "postgres" / SOCKET_NAME
        self.api_proxy = Proxy(home / "pa", socket_path)
        self.courier_proxy = Proxy(home / "pc", socket_path)
        #: Each worker goes through one of these.
        self.worker_proxies = [Proxy(home / name, socket_path) for name in ("pw0", "pw1")]
        super().__init__(
            {
                "PYTHONPATH": str(_copy_of_sources(home / "code")),
                "TELLER_HOME": str(home),
                "TELLER_SECRET": secrets.token_hex(),
                "TELLER_GATEWAY_SECRET": "whsec_" + "c2VjcmV0" * 4,
                "TELLER_GATEWAYS": f"bank={gateway_url},sandbox=builtin",
                "TELLER_ALLOW_PRIVATE_WEBHOOKS": "1",
                "REDIS_URL": self.redis_url,
                **GATEWAY,
                **self._urls,
                "TELLER_API_DATABASE_URL": through(self.api_proxy, "teller_api"),
                "TELLER_COURIER_DATABASE_URL": through(self.courier_proxy, "teller_courier"),
            },
            home / "log",
        )
        self._workers_at_first = workers_at_first
        self.postgres, self.valkey = Postgres(home), Valkey(home)
        #: The servers and processes that are started again when they die.
        self.expected: list[Postgres | Valkey | Process] = [self.postgres, self.valkey]

    # ------------------------------------------------------------ start and end

    def begin(self) -> None:
        """
        Start everything. Returns when all is ready.
        """
        self.postgres.start()
        self.valkey.start()
        migrations.migrate(self.owner_url, PARTITIONS)
        with contextlib.closing(connections.connect(self.owner_url, application_name="faults")) as connection:
            connection.execute(f"ALTER SYSTEM SET deadlock_timeout = '{DEADLOCK_MS}ms'")
            connection.execute("SELECT pg_reload_conf()")
            made = [keys.create_key(connection, role, role) for role in ("admin", "client")]
        self.admin, self.client = (Caller(one.client, one.key) for one in made)
        for _ in range(2):
            self.ports.append(free_port())
            self.add("api", {"TELLER_PORT": str(self.ports[-1])})
        # The first API serves the sandbox.
        self.add("courier", {"TELLER_PORT": str(self.ports[0])})
        for _ in range(self._workers_at_first):
            self.add_worker()
        self.until(lambda: all(self.is_ready(port) for port in self.ports))
        self.until(self.is_shared)

    def add(self, part: str, environment: Mapping[str, str], prefix: Sequence[str] = ()) -> Process:
        """
        Start a process of a part, and expect it to run.
        """
        process = self.start(part, prefix=prefix, **environment)
        self.expected.append(process)
        return process

    def add_worker(self) -> Process:
        """
        Start a worker, through the proxy that has fewer.
        """
        workers = self.expected_of("worker")
        proxy = min(self.worker_proxies, key=lambda one: sum(is_behind(worker, one) for worker in workers))
        return self.add("worker", {"TELLER_WORKER_DATABASE_URL": through(proxy, "teller_worker")})

    def end(self, process: Process, *, kill: bool = False) -> None:
        """
        Stop or kill a process, and do not expect it to run. Returns when it is gone.
        """
        self.expected.remove(process)
        if process.child is not None:
            process.child.stop(0 if kill else STOP_SECONDS)

    def close(self) -> None:
        """
        End everything, in whatever state it is.
        """
        self.expected.clear()
        super().close()
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
        Let PostgreSQL and Redis be reached over TCP. Yields the variables of a worker on another host.
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

    # ------------------------------------------------------------ while it runs

    def expected_of(self, part: str) -> list[Process]:
        """
        Return the processes of a part that are expected to run.
        """
        return [one for one in self.expected if isinstance(one, Process) and one.part == part]

    def mend(self) -> None:
        """
        Start what has died and is expected to run. In the main thread.
        """
        for one in self.expected:
            if not one.alive():
                with contextlib.suppress(ServerError):
                    one.start()

    def _dead(self) -> str:
        """
        Return a text that names what is expected to run and does not.
        """
        dead = [
            one.part if isinstance(one, Process) else one.name for one in self.expected if not one.alive()
        ]
        return f"; not running: {', '.join(dead)}" if dead else ""

    def restore(self) -> None:
        """
        Undo what a fault may have left behind that ended in its middle.
        """
        for server in (self.valkey, self.postgres):
            if server not in self.expected:
                self.expected.insert(0, server)
        for proxy in (self.api_proxy, self.courier_proxy, *self.worker_proxies):
            proxy.losses, proxy.delay_seconds = [], 0.0
            proxy.thaw()

    def pause(self, seconds: float) -> None:
        """Let the system run for `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.mend()
            time.sleep(min(left, LOOK_SECONDS))

    def until(self, condition: Callable[[], Any], within: float = TIMEOUT_SECONDS) -> float:
        """Let the system run until this holds. Returns the seconds. Raises AssertionError after `within`."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < within, f"not within {within:.0f} s{self._dead()}"
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
        return rows is not None and {part.pid for part in self.expected_of("worker")} <= {
            pid for (pid,) in rows
        }

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
            env={**bare_environment(), **self.environment},
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
            for part in self.expected_of(name)
            for line in part.log.read_text(errors="replace").splitlines()
            if '"level": "warning"' in line or '"level": "error"' in line
        ]
        return warned[-1] if warned else f"no {name} has warned of anything"

    def faults_logged(self) -> list[str]:
        """Return the log lines of unexpected faults."""
        return [
            f"{part.log.name}: {line[-400:]}"
            for part in self.processes
            for line in part.log.read_text(errors="replace").splitlines()
            if '"exception"' in line or line.startswith("Traceback") or NOT_ALONE in line
        ]

    def deadlocks_logged(self) -> list[str]:
        """Return the lines of PostgreSQL's log about deadlocks."""
        log = homes.log_file(self.home, self.postgres.name).read_text(errors="replace")
        return [line for line in log.splitlines() if DEADLOCK in line]


def through(proxy: Proxy, role: str) -> str:
    """
    Return the URL of the database for this role, through a proxy.
    """
    return f"postgresql:///{postgres.OWNER}?host={proxy.directory}&user={role}"


def is_behind(worker: Process, proxy: Proxy) -> bool:
    """
    Say whether a worker goes through this proxy.
    """
    return str(proxy.directory) in worker.environment["TELLER_WORKER_DATABASE_URL"]


def _copy_of_sources(to: Path) -> Path:
    for name in SOURCES:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(TOP / name, to / name)
    return to
