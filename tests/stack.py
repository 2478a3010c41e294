"""
A whole Teller as processes, for the tests that need one: APIs, workers, couriers, and clients with keys.

`Process` is one process with its log. `Stack` is the processes on one database and one Redis. It takes the
environment that an operator would set, and each process may change some of it. All of them die with the tests.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import psycopg

from processor.clients import keys
from processor.storage import connections
from processor.verify.checks import verify
from teller.embedded.child import Child, spawn_part
from tests import fork_server
from tests.servers import PARTITIONS
from tests.waiting import TIMEOUT_SECONDS, eventually, free_port, is_free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from processor.settings import Settings
    from tests.servers import Database

#: The arguments of the interpreter that make it the command `teller`.
TELLER = ("-P", "-m", "teller")
#: The directory of the code.
TOP = Path(__file__).resolve().parents[1]
#: The variables of Teller in an environment begin with these.
VARIABLES = ("TELLER_", "DATABASE_URL", "REDIS_URL")
#: The time that a client waits for an answer, in seconds.
ANSWER_SECONDS = 60.0
#: For clients of servers without TLS. By default httpx loads all certificates, which takes 20 ms each time.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_numbers = itertools.count(1)

Document = dict[str, Any]


def bare_environment() -> dict[str, str]:
    """
    Return the environment of the tests without any variable of Teller.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}


def fetch(url: str) -> httpx.Response:
    """
    Return the response to a GET without a key.
    """
    return httpx.get(url, trust_env=False, verify=NO_CERTIFICATES, timeout=ANSWER_SECONDS)


def environment_of(settings: Settings, database: Database, **changes: str) -> dict[str, str]:
    """
    Return the variables of a Teller on these servers, with this database and each role's own account.
    """
    return {
        **settings.environment(),
        "DATABASE_URL": database.url,
        "TELLER_API_DATABASE_URL": database.api_url,
        "TELLER_WORKER_DATABASE_URL": database.worker_url,
        "TELLER_COURIER_DATABASE_URL": database.courier_url,
        "TELLER_ARCHIVE_DATABASE_URL": database.archive_url,
        **changes,
    }


@dataclass
class Process:
    """One process of Teller: the way to start it, its log, and the process that runs now or ran last."""

    part: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    #: A command that runs the interpreter, such as `ip netns exec NAME`.
    prefix: Sequence[str] = ()
    starts: int = 0
    child: Child | None = None

    def start(self) -> None:
        """
        Start it, or start it again, from the main thread alone.

        The kernel kills the process when the thread that started it ends. An API waits for its port: its serving
        process ends a moment after a main process that was killed.
        """
        if self.part == "api" and self.starts:
            eventually(lambda: is_free(int(self.environment["TELLER_PORT"])))
        environment = {**bare_environment(), **self.environment}
        with self.log.open("ab") as output:
            if not self.prefix and fork_server.can_fork(self.arguments):
                _, _, module, *arguments = self.arguments
                forked = fork_server.server(environment.get("PYTHONPATH")).start(
                    module, arguments, environment, output
                )
                self.child = Child(forked, signal.SIGTERM, None)
            else:
                self.child = spawn_part([*self.prefix, sys.executable, *self.arguments], environment, output)
        self.starts += 1

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self.child is not None
        return self.child.pid

    def pids(self) -> list[int]:
        """
        Return the ids of the process and its children.
        """
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        with contextlib.suppress(OSError):
            return [self.pid, *map(int, children.read_text().split())]
        return [self.pid]

    def alive(self) -> bool:
        """
        Say whether it runs.
        """
        return self.child is not None and self.child.alive()

    def stop(self) -> None:
        """
        Ask it to stop, and wait. Fails if its exit status is not zero.
        """
        self.send(signal.SIGTERM)
        assert self.wait() == 0, self.last_lines()

    def wait(self) -> int:
        """
        Wait for its end. Returns the exit status.
        """
        assert self.child is not None
        return self.child.process.wait(TIMEOUT_SECONDS)

    def kill(self) -> None:
        """
        End it at once, also while it is suspended. Returns when it is gone.
        """
        if self.child is not None and self.child.alive():
            self.child.process.kill()
            self.child.process.wait()

    def send(self, signal_number: signal.Signals) -> None:
        """
        Send it a signal.
        """
        assert self.child is not None
        self.child.process.send_signal(signal_number)

    def suspend(self) -> None:
        """
        Stop it where it is. Returns when none of its threads runs, which takes a moment on a busy machine.
        """
        self.send(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        if tasks.exists():  # only Linux has it
            eventually(lambda: all(_is_suspended(task) for task in tasks.iterdir()))

    def resume(self) -> None:
        """
        Let it run again after `suspend`.
        """
        self.send(signal.SIGCONT)

    def events(self, name: str | None = None) -> list[Document]:
        """
        Return the lines of its log, or those of this name. A line that is not JSON has its text under `line`.
        """
        found = [_event(line) for line in self.log.read_text(errors="replace").splitlines()]
        return [event for event in found if name is None or event.get("event") == name]

    def last_lines(self) -> str:
        """
        Return the end of its log, for the message of a failed assertion.
        """
        return self.log.read_text(errors="replace")[-2000:]


def _is_suspended(task: Path) -> bool:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return True


def _event(line: str) -> Document:
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    return {"line": line}


class Client:
    """A client of the HTTP API, with a key."""

    def __init__(self, url: str, key: keys.CreatedKey) -> None:
        self.key = key
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key.key}"},
            timeout=ANSWER_SECONDS,
            trust_env=False,
            verify=NO_CERTIFICATES,
            limits=httpx.Limits(max_connections=64),
        )

    def get(self, path: str, status: int = 200) -> Any:
        """
        Return the document of a GET.
        """
        return self._document(self.http.get(path), status)

    def put(self, path: str, body: Document) -> Any:
        """
        Return the document of a PUT.
        """
        return self._document(self.http.put(path, json=body), 200)

    def post(self, path: str, body: Document, *statuses: int, key: str | None = None, wait: int = 0) -> Any:
        """
        Return the document of a POST. The server waits for the decision for up to `wait` seconds.
        """
        headers = {"Idempotency-Key": key or f"key-{next(_numbers)}"}
        headers |= {"Prefer": f"wait={wait}"} if wait else {}
        return self._document(self.http.post(path, json=body, headers=headers), *statuses)

    @staticmethod
    def _document(answer: httpx.Response, *statuses: int) -> Any:
        assert answer.status_code in statuses, answer.text
        return answer.json()


class Stack:
    """The processes of one Teller on one database, and the clients that use it."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self.environment = environment
        self.logs = logs
        self.processes: list[Process] = []
        #: The ports of the APIs.
        self.ports: list[int] = []
        self._clients: list[Client] = []

    @functools.cached_property
    def owner(self) -> psycopg.Connection[Any]:
        """A connection as the owner of the database."""
        return psycopg.connect(self.environment["DATABASE_URL"], autocommit=True)

    # ------------------------------------------------------------ processes

    def start(
        self, part: str, *, program: Sequence[str] = TELLER, prefix: Sequence[str] = (), **changes: str
    ) -> Process:
        """
        Start an api, a worker or a courier, with some variables changed. Returns before it is ready.
        """
        log = self.logs / f"{part}-{len(self.processes)}.log"
        process = Process(part, [*program, part], {**self.environment, **changes}, log, prefix)
        self.processes.append(process)
        process.start()
        return process

    def start_api(self, **changes: str) -> Process:
        """
        Start an API on a free port, which becomes the last of `ports`. Returns when it is ready.
        """
        port = free_port()
        api = self.start("api", TELLER_PORT=str(port), **changes)
        self.ports.append(port)
        self.until_ready(api)
        return api

    def until_ready(self, api: Process) -> None:
        """
        Wait until this API answers that it is ready.
        """
        url = f"http://127.0.0.1:{api.environment['TELLER_PORT']}/readyz"

        def is_ready() -> bool:
            assert api.alive(), api.last_lines()
            with contextlib.suppress(httpx.TransportError):
                return fetch(url).status_code == 200
            return False

        eventually(is_ready)

    def of(self, part: str) -> list[Process]:
        """
        Return the processes of a part that run.
        """
        return [process for process in self.processes if process.part == part and process.alive()]

    def shares(self) -> dict[int | None, int]:
        """
        Return how many partitions each worker owns, by its process id. None: no worker that is alive.
        """
        rows = self.owner.execute(
            "SELECT w.pid, count(*) FROM ownership o"
            " LEFT JOIN workers w ON w.id = o.worker_id AND w.alive_until > clock_timestamp() GROUP BY 1"
        )
        return dict(rows.fetchall())

    def until_shared(self) -> None:
        """
        Wait until the running workers own all partitions in even shares.
        """
        share = PARTITIONS // len(self.of("worker"))
        eventually(lambda: self.shares() == {worker.pid: share for worker in self.of("worker")})

    # ------------------------------------------------------------ clients

    @property
    def url(self) -> str:
        """The address of the first API."""
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def home(self) -> Path:
        """The home of the processes, with the outbox of mails."""
        return Path(self.environment["TELLER_HOME"])

    def new_client(self, role: str, name: str | None = None, url: str | None = None) -> Client:
        """
        Return a client of its own, with a key of this role, at the first API or at another one.
        """
        with self.connect() as connection:
            made = Client(url or self.url, keys.create_key(connection, name or role, role))
        self._clients.append(made)
        return made

    # ------------------------------------------------------------ the end

    @contextlib.contextmanager
    def connect(self) -> Iterator[connections.Connection]:
        """
        Open a connection as the owner of the database, for functions of the product.
        """
        url = self.environment["DATABASE_URL"]
        with contextlib.closing(connections.connect(url, application_name="test")) as connection:
            yield connection

    def check_ledger(self) -> None:
        """
        Fail unless every balance, hold, sequence and status follows from the entries.
        """
        with self.connect() as connection:
            assert [str(found) for found in verify(connection)] == []

    def stop(self) -> None:
        """
        Stop all processes together. Fails if one does not end with status zero.
        """
        running = [process for process in self.processes if process.alive()]
        for process in running:
            process.send(signal.SIGTERM)
        for process in running:
            assert process.wait() == 0, process.last_lines()

    def close(self) -> None:
        """
        End all processes and connections, in whatever state they are.
        """
        for client in self._clients:
            client.http.close()
        for process in self.processes:
            process.kill()
        if "owner" in self.__dict__:
            self.owner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def at_once(count: int, act: Callable[[Client, int], Any], clients: Sequence[Client]) -> list[Any]:
    """
    Call `act(client, number)` `count` times at the same instant, with these clients in turn.
    """
    together = threading.Barrier(count)

    def one(number: int) -> Any:
        together.wait()
        return act(clients[number % len(clients)], number)

    with ThreadPoolExecutor(count) as crowd:
        return list(crowd.map(one, range(count)))
