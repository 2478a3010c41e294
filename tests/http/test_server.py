"""
The real server: one process that watches, one that serves.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest

from api.app import VIEWS_AT_ONCE
from api.web import idle_connections
from processor.clients import keys
from processor.storage import connections as database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.settings import Settings

REDEMPTION = {"resource": "sneaker", "account": "u_42"}
SERVE = """
import os, sys
from api.server import serve
from processor import log
from processor.settings import Settings
log.configure()
sys.exit(serve(Settings.from_environment(os.environ)))
"""
#: How long anything here may take to happen, in seconds.
PATIENCE = 10


def until(happened: Callable[[], bool]) -> float:
    """How long it took, in seconds."""
    started = time.monotonic()
    while not happened():
        assert time.monotonic() - started < PATIENCE
        time.sleep(0.02)
    return time.monotonic() - started


@dataclass
class Running:
    """A server, and how to call it."""

    process: subprocess.Popen[bytes]
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

    def post(self, key: str, **headers: str) -> httpx.Response:
        """A redemption."""
        sent = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": key, **headers}
        return httpx.post(f"{self.url}/v1/redemptions", json=REDEMPTION, headers=sent, timeout=30)

    def answers(self) -> bool:
        """Whether it is there."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz").status_code == 200
        return False


def environment(settings: Settings, port: int) -> dict[str, str]:
    """What a server of its own needs to know."""
    return {**os.environ, **settings.environment(), "TELLER_PORT": str(port)}


def fail_to_start(environ: dict[str, str], *options: str) -> str:
    """What `teller api` says that ends at once with status 1."""
    ended = subprocess.run(
        [Path(sys.executable).with_name("teller"), "api", *options],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    return ended.stderr


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


@pytest.fixture
def server(settings: Settings, port: int) -> Iterator[Running]:
    """A server that answers."""
    with database.connect(settings.database_url, application_name="test") as connection:
        key = keys.create_key(connection, "client", "client").key
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], env=environment(settings, port), stderr=subprocess.DEVNULL
    ) as process:
        running = Running(process, f"http://127.0.0.1:{port}", key)
        try:
            until(running.answers)
            yield running
        finally:
            process.terminate()


def test_the_same_request_fifty_times_at_once_over_http_is_one_request(server: Running) -> None:
    """
    One request and 49 replays, through the real server.
    """
    with ThreadPoolExecutor(50) as people:
        answers = list(people.map(lambda _: server.post("the-one"), range(50)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum(answer.headers.get("Idempotency-Replayed") == "true" for answer in answers) == 49


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_however_it_is_sent(server: Running, *, chunked: bool) -> None:
    """
    413 with a length announced and without, and a chunked body of the right size is read.
    """

    def send(size: int) -> httpx.Response:
        body = b'{"resource": "sneaker", "account": "u_42"}'.ljust(size)
        parts = (body[start : start + 65_536] for start in range(0, size, 65_536))
        headers = {
            "Authorization": f"Bearer {server.key}",
            "Idempotency-Key": "k",
            "Content-Type": "application/json",
        }
        return httpx.post(f"{server.url}/v1/redemptions", content=parts if chunked else body, headers=headers)

    assert send(1024 * 1024).status_code == 202
    refused = send(1024 * 1024 + 1)
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


def test_whoever_is_slow_to_send_his_bodies_keeps_nobody_else_waiting(server: Running) -> None:
    """
    More of them than are worked on at once, some with a key and some without: others are answered as ever.
    """
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    head = "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 1000\r\n\r\n{{"
    with contextlib.ExitStack() as slow:
        for number in range(VIEWS_AT_ONCE + 50):
            path = "/sandbox/gateway" if number % 3 == 0 else "/v1/redemptions"
            connection = slow.enter_context(socket.create_connection(address))
            connection.sendall(head.format(path, server.key).encode())
        with ThreadPoolExecutor(50) as people:
            answers = list(people.map(lambda number: server.post(f"quick-{number}"), range(50)))
        assert {answer.status_code for answer in answers} == {202}
        assert server.answers()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when something was last sent")
def test_a_connection_that_gets_no_answer_is_closed() -> None:
    """
    Also when bytes go on coming in; one that was answered a moment ago, and others' connections, stay.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_server(("127.0.0.1", 0)) as foreign,
    ):
        port = listening.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port)) as silent,
            socket.create_connection(("127.0.0.1", port)) as answered,
            socket.create_connection(foreign.getsockname()) as other,
            listening.accept()[0] as to_silent,
            listening.accept()[0] as to_answered,
            foreign.accept()[0] as to_other,
        ):
            for _ in range(10):
                silent.send(b"x")
                time.sleep(0.05)
            to_answered.send(b"y")
            assert idle_connections.close_unanswered(port, 0.4) == 1
            silent.settimeout(5)
            assert silent.recv(1) == b""
            assert answered.recv(1) == b"y"
            for one, another in ((answered, to_answered), (other, to_other)):
                one.send(b"z")
                assert another.recv(1) == b"z"
            assert idle_connections.close_unanswered(port, 60) == 0
            assert to_silent.recv(10) == b"x" * 10


def test_a_stop_answers_what_is_in_flight_within_five_seconds(server: Running) -> None:
    """
    SIGTERM: who waits for 20 s is answered at once, with 202; then the processes are gone.
    """
    worker = server.worker
    with ThreadPoolExecutor(5) as people:
        answers = [people.submit(server.post, f"k{n}", Prefer="wait=20") for n in range(5)]
        until(lambda: "teller_waiting_answers 5.0" in httpx.get(f"{server.url}/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        statuses = [answer.result().status_code for answer in answers]
        server.process.wait(PATIENCE)

    assert statuses == [202] * 5
    assert time.monotonic() - started < 5
    assert server.process.returncode == 0
    assert not worker.is_running()


def test_a_killed_worker_is_started_again(server: Running) -> None:
    """
    Within two seconds it answers again, and what was accepted is still there.
    """
    first = server.post("k").json()["id"]
    server.worker.kill()

    def accepts_again() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return bool(server.post("k").json()["id"] == first)
        return False

    assert until(accepts_again) < 4


def test_the_worker_does_not_outlive_a_killed_main_process(server: Running) -> None:
    """
    A kill -9 of the one is the end of both, so that the next start finds the port free.
    """
    worker = server.worker
    server.process.kill()

    assert until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE) < 2


def test_a_taken_port_is_told_in_one_line(settings: Settings, server: Running, port: int) -> None:
    """
    Exit status 1, and the first server goes on.
    """
    said = fail_to_start(environment(settings, port))

    assert said == (
        f"teller: cannot listen on 127.0.0.1:{port}: Address already in use (TELLER_HOST, TELLER_PORT)\n"
    )
    told = json.loads(fail_to_start(environment(settings, port), "--json"))["error"]
    assert (told["code"], told["detail"]) == ("port_taken", said.removeprefix("teller: ").strip())
    assert server.answers()


def test_a_database_without_the_schema_is_told_in_one_line(
    settings: Settings, empty_database: str, port: int
) -> None:
    """
    Exit status 1: it will not change by itself.
    """
    environ = {**environment(settings, port), "TELLER_API_DATABASE_URL": empty_database}

    said = "the database has no Teller schema yet: run `teller migrate`"
    assert fail_to_start(environ) == f"teller: {said}\n"
    assert json.loads(fail_to_start(environ, "--json")) == {
        "error": {"code": "schema_mismatch", "detail": said}
    }


def test_a_key_is_revoked_within_a_second_in_every_process(
    settings: Settings, server: Running, port: int
) -> None:
    """
    Two API processes that both know the key and are busy with it: a second after it was revoked neither does.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        other_port = probe.getsockname()[1]
    addresses = [f"http://127.0.0.1:{number}" for number in (port, other_port)]
    with (
        subprocess.Popen(
            [sys.executable, "-c", SERVE], env=environment(settings, other_port), stderr=subprocess.DEVNULL
        ) as process,
        httpx.Client(headers={"Authorization": f"Bearer {server.key}"}) as client,
    ):
        try:
            until(Running(process, addresses[1], server.key).answers)

            def statuses() -> list[int]:
                return [client.get(f"{address}/v1/requests").status_code for address in addresses]

            assert statuses() == [200, 200]
            with database.connect(settings.database_url, application_name="test") as connection:
                [key] = keys.list_keys(connection)
                assert statuses() == [200, 200]
                keys.revoke_key(connection, key.id)
            assert until(lambda: statuses() == [401, 401]) < 1
        finally:
            process.terminate()
