"""
The real server: a main process, and a worker process that serves.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest

from api.server import OTHER_FILES
from api.services import VIEWS_AT_ONCE
from api.web import idle_connections
from processor.clients import keys
from processor.reading import keys as key_queries
from tests.stack import NO_CERTIFICATES, Process, Stack, bare_environment, fetch
from tests.waiting import TIMEOUT_SECONDS, Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings

REDEMPTION = {"resource": "sneaker", "account": "u_42"}
#: Connections of a flood. Most processes may have 1,024 file descriptors unless they raise the limit.
CONNECTIONS = 1_100


@dataclass
class Running:
    """An API process, and a client that calls it."""

    process: Process
    url: str
    key: str

    @property
    def worker(self) -> psutil.Process:
        """The process that serves."""
        [worker] = [
            child
            for child in psutil.Process(self.process.pid).children()
            if "resource_tracker" not in str(child.cmdline())
        ]
        return worker

    @property
    def port(self) -> int:
        """The port on which the server listens."""
        return int(self.process.environment["TELLER_PORT"])

    def post(self, key: str, **headers: str) -> httpx.Response:
        """
        Make a redemption.
        """
        sent = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": key, **headers}
        return httpx.post(
            f"{self.url}/v1/redemptions",
            json=REDEMPTION,
            headers=sent,
            timeout=TIMEOUT_SECONDS,
            verify=NO_CERTIFICATES,
        )

    def get(self, path: str) -> httpx.Response:
        """
        Read a path without a key.
        """
        return fetch(f"{self.url}{path}")


def fail_to_start(environ: dict[str, str], *options: str) -> str:
    """
    Start `teller api`, which ends at once with status 1. Returns its standard error.
    """
    ended = subprocess.run(
        [Path(sys.executable).with_name("teller"), "api", *options],
        env={**bare_environment(), **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    return ended.stderr


@pytest.fixture
def stack(settings: Settings, tmp_path: Path) -> Iterator[Stack]:
    """
    Processes on the database of the test.
    """
    with Stack(settings.environment(), tmp_path) as running:
        yield running


@pytest.fixture
def server(stack: Stack) -> Running:
    """
    An API that is ready, and a client.
    """
    process = stack.start_api()
    return Running(process, stack.url, stack.new_client("client").key.key)


def test_fifty_simultaneous_calls_over_http_make_one_request(server: Running) -> None:
    """
    One call makes the request, and 49 are replays, through the real server.
    """
    with ThreadPoolExecutor(50) as callers:
        answers = list(callers.map(lambda _: server.post("the-one"), range(50)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum(answer.headers.get("Idempotency-Replayed") == "true" for answer in answers) == 49


def test_a_header_that_is_sent_twice_is_one_value_or_a_refusal(server: Running) -> None:
    """
    The server joins two headers with a comma and no space, by which `api.web.headers` finds them.
    """

    def send(name: str, *values: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {server.key}", "Idempotency-Key": "k"}
        headers.pop(name, None)
        lines = [*headers.items(), *((name, value) for value in values)]
        return httpx.post(
            f"{server.url}/v1/redemptions", json=REDEMPTION, headers=lines, verify=NO_CERTIFICATES
        )

    key = f"Bearer {server.key}"
    refused = [
        send("Idempotency-Key", "a", "b"),
        send("Idempotency-Key", '"a"', '"b"'),
        send("Prefer", "wait=1", "wait=2"),
        send("Authorization", key, f"{key}x"),
        send("X-Request-Id", "a", "b"),
        send("Content_Length", "5"),
        send("Content_Type", "text/plain"),
    ]
    taken = [
        send("Idempotency-Key", "k", "k"),
        send("Idempotency-Key", '"k"', '"k"'),
        send("Prefer", "respond-async", "wait=0"),
        send("Authorization", key, key),
        send("Idempotency-Key", "k, l"),
    ]

    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(400, "malformed")}
    assert [answer.status_code for answer in taken] == [202] * 5
    assert len({answer.json()["id"] for answer in taken}) == 2


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_in_both_encodings(server: Running, *, chunked: bool) -> None:
    """
    A large body returns 413 with and without Content-Length. A chunked body of the right size is read.
    """

    def send(size: int) -> httpx.Response:
        body = b'{"resource": "sneaker", "account": "u_42"}'.ljust(size)
        parts = (body[start : start + 65_536] for start in range(0, size, 65_536))
        headers = {
            "Authorization": f"Bearer {server.key}",
            "Idempotency-Key": "k",
            "Content-Type": "application/json",
        }
        return httpx.post(
            f"{server.url}/v1/redemptions",
            content=parts if chunked else body,
            headers=headers,
            verify=NO_CERTIFICATES,
        )

    assert send(1024 * 1024).status_code == 202
    refused = send(1024 * 1024 + 1)
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ("Transfer-Encoding: chunked", "zz\r\n", 400),  # a broken chunk: the server ends the body there
        ("Transfer-Encoding: chunked", "0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked", '5\r\n{"amo\r\nzz\r\n', 400),
        ("Content-Length: 13", "", 400),
        ("Content-Length: 13", "{}", 400),
        ("Transfer-Encoding: chunked", "2\r\n{}\r\n0\r\n\r\n", 404),
        ("Content-Length: 0", "", 404),
        ("Content-Length: 2", "{}", 404),
    ],
)
def test_a_body_that_breaks_off_is_not_an_empty_one(
    server: Running, headers: str, body: str, status: int
) -> None:
    """
    A capture without a body takes everything that is held. A body whose end is missing must not count as none.
    """
    path = f"/v1/requests/{UUID(int=1)}/capture"
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {server.key}", headers, "", body)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as connection:
        connection.sendall("\r\n".join(lines).encode())
        if headers == "Content-Length: 13":  # else the server waits for the rest
            connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096).decode()

    assert answer.startswith(f"HTTP/1.1 {status} ")


def test_slow_bodies_do_not_delay_other_calls(server: Running) -> None:
    """
    More calls with unfinished bodies than the server serves at once do not delay calls with complete bodies.
    """
    address = ("127.0.0.1", server.port)
    lines = ("POST {} HTTP/1.1", "Host: x", "Authorization: Bearer {}", "Content-Length: 1000", "", "{{")
    head = "\r\n".join(lines)
    with contextlib.ExitStack() as slow:
        for number in range(VIEWS_AT_ONCE + 50):
            path = "/sandbox/gateway" if number % 3 == 0 else "/v1/redemptions"
            connection = slow.enter_context(socket.create_connection(address))
            connection.sendall(head.format(path, server.key).encode())
        with ThreadPoolExecutor(50) as callers:
            answers = list(callers.map(lambda number: server.post(f"quick-{number}"), range(50)))
        assert {answer.status_code for answer in answers} == {202}
        assert server.get("/readyz").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the time of the last byte sent")
def test_a_thousand_idle_and_slow_connections_keep_no_one_out(server: Running) -> None:
    """
    Connections that send nothing, or a head line by line, hold no threads. Others connect and are answered meanwhile.
    """
    address = ("127.0.0.1", server.port)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files[1] < CONNECTIONS + OTHER_FILES:
        pytest.skip("the limit of file descriptors is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files[0], CONNECTIONS + OTHER_FILES), files[1]))
    try:
        with contextlib.ExitStack() as flood:
            connections = [
                flood.enter_context(socket.create_connection(address, TIMEOUT_SECONDS))
                for _ in range(CONNECTIONS)
            ]
            for connection in connections[:100]:
                connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
            answer = httpx.get(f"{server.url}/healthz", timeout=idle_connections.SILENT_SECONDS / 2)
            assert answer.status_code == 200
            assert server.post("k").status_code == 202
            assert server.worker.num_threads() < 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)


@contextlib.contextmanager
def pairs(count: int) -> Iterator[tuple[int, list[tuple[socket.socket, socket.socket]]]]:
    """Yield a port, and connections to it: the client's end and the server's end of each."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listening.getsockname()[1]
        made = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS))
            made.append((client, stack.enter_context(listening.accept()[0])))
        yield port, made


def test_only_a_connection_without_an_answer_is_closed() -> None:
    """
    A request that is not answered in time ends, also if its bytes keep coming. An idle connection does not, and a
    request on it has all of its time. A connection on which no byte comes ends early.
    """
    limits = idle_connections.Limits(idle=60.0, unanswered=1.0, silent=0.5)
    with pairs(4) as (port, [slow, idle, silent, late]), pairs(1) as (_, [foreign]):
        connections = idle_connections.Connections(port, limits)
        for client, server in (idle, late, foreign):
            client.send(b"x")
            server.send(b"y")
            assert client.recv(1) == b"y"
        slow[0].send(b"x")
        assert connections.close_overdue() == 0
        for _ in range(12):
            time.sleep(0.1)
            slow[0].send(b"x")
        late[0].send(b"x")

        assert connections.close_overdue() == 2

        for closed in (slow, silent):
            assert closed[0].recv(1) == b""
        for client, server in (idle, late, foreign):
            server.send(b"z")
            assert client.recv(1) == b"z"


def test_an_idle_connection_outlives_those_of_proxies(server: Running) -> None:
    """
    A connection that was idle for longer than 75 s, the longest default of a proxy, still takes a POST.
    """
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_SECONDS)
    with contextlib.closing(connection):
        connection.connect()
        kept = connection.sock
        for number, idle_seconds in enumerate((0, 76)):
            time.sleep(idle_seconds)
            connection.request(
                "POST", "/v1/redemptions", json.dumps(REDEMPTION), {**headers, "Idempotency-Key": f"{number}"}
            )
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, connection.sock) == (202, kept)


def test_a_stop_answers_waiting_calls_within_five_seconds(server: Running) -> None:
    """
    After SIGTERM, calls that wait for 20 s return 202 at once. Then both processes end.
    """
    worker = server.worker
    with ThreadPoolExecutor(5) as callers:
        answers = [callers.submit(server.post, f"k{n}", Prefer="wait=20") for n in range(5)]
        eventually(lambda: "teller_waiting_answers 5.0" in server.get("/metrics").text)
        server.process.send(signal.SIGTERM)
        limit = Deadline(5)
        statuses = [answer.result().status_code for answer in answers]
        assert server.process.wait() == 0
        limit.check()

    assert statuses == [202] * 5
    assert not worker.is_running()


def test_a_killed_worker_is_restarted(server: Running) -> None:
    """
    The server accepts calls again within four seconds, and an accepted request is not lost.
    """
    first = server.post("k").json()["id"]
    server.worker.kill()

    def accepts_again() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return bool(server.post("k").json()["id"] == first)
        return False

    Deadline(4).until(accepts_again)


def test_the_worker_ends_with_a_killed_main_process(server: Running) -> None:
    """
    The worker ends within two seconds, so that the next start finds the port free.
    """
    worker = server.worker
    server.process.kill()

    Deadline(2).until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_a_taken_port_is_reported_in_one_line(stack: Stack, server: Running) -> None:
    """
    Exit status 1, and the first server continues.
    """
    environ = {**stack.environment, "TELLER_PORT": str(server.port)}
    address = f"127.0.0.1:{server.port}"
    detail = f"cannot listen on {address}: Address already in use (TELLER_HOST, TELLER_PORT)"

    assert fail_to_start(environ) == f"teller: {detail}\n"
    error = json.loads(fail_to_start(environ, "--json"))["error"]
    assert (error["code"], error["detail"]) == ("port_taken", detail)
    assert server.get("/readyz").status_code == 200


def test_a_database_without_the_schema_is_reported_in_one_line(stack: Stack, empty_database: str) -> None:
    """
    Exit status 1, because only an operator can change that.
    """
    environ = {**stack.environment, "TELLER_API_DATABASE_URL": empty_database}

    detail = "the database has no Teller schema yet: run `teller migrate`"
    assert fail_to_start(environ) == f"teller: {detail}\n"
    assert json.loads(fail_to_start(environ, "--json")) == {
        "error": {"code": "schema_mismatch", "detail": detail}
    }


def test_a_key_is_revoked_within_a_second_in_every_process(stack: Stack, server: Running) -> None:
    """
    Two API processes have cached the key and answer its calls. A second after the revocation both refuse it.
    """
    stack.start_api()
    addresses = [f"http://127.0.0.1:{port}" for port in stack.ports]
    headers = {"Authorization": f"Bearer {server.key}"}
    with httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS, verify=NO_CERTIFICATES) as client:

        def statuses() -> list[int]:
            return [client.get(f"{address}/v1/requests").status_code for address in addresses]

        assert statuses() == [200, 200]
        with stack.connect() as connection:
            [key] = key_queries.list_keys(connection).rows
            assert statuses() == [200, 200]
            keys.revoke_key(connection, key.id)
        Deadline(1).until(lambda: statuses() == [401, 401])
