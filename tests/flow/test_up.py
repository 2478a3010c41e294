"""
`teller up` for its user: one line when everything serves, restarts after a death, and a clean end.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from teller.embedded import keys as kept_keys
from tests.servers import temporary_home
from tests.stack import TELLER, bare_environment, fetch
from tests.waiting import TIMEOUT_SECONDS, Deadline, eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, *TELLER]
#: The promised time until a dead process is started again, in seconds.
RESTART_SECONDS = 2.0
#: The promised time of a stop, in seconds.
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """A process, as ps shows it."""

    pid: int
    parent: int
    command: str


def processes() -> list[Seen]:
    """All that run now; those that are dead and only wait to be asked for do not count."""
    listing = subprocess.run(
        ["/bin/ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="], check=True, capture_output=True, text=True
    )
    rows = [line.split(None, 3) for line in listing.stdout.splitlines()]
    return [Seen(int(row[0]), int(row[1]), row[3]) for row in rows if len(row) == 4 and row[2][0] != "Z"]


def environment(home: Path) -> dict[str, str]:
    """
    Return the environment of the tests with this home, and no other variable of Teller.
    """
    return {**bare_environment(), "TELLER_HOME": str(home)}


class Up:
    """A `teller up` in a home, its processes and its output."""

    def __init__(self, home: Path, port: int, log: Path) -> None:
        self.home = home
        self.port = port
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--port", str(port), "--workers", "2"],
                env=environment(home),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def until_ready(self) -> str:
        """
        Wait for the line that it prints when it is ready. Returns the line.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return line

    def tree(self) -> list[Seen]:
        """It, and all below it."""
        seen = processes()
        found = [one for one in seen if one.pid == self.process.pid]
        for one in found:
            found += [child for child in seen if child.parent == one.pid]
        return found

    def started(self, word: str) -> list[int]:
        """The processes that it has started itself, by a word of their command line."""
        return [one.pid for one in self.tree() if one.parent == self.process.pid and word in one.command]

    def call(self, method: str, path: str, body: Any = None, key: str = "none") -> tuple[int, Any]:
        """One HTTP request as the first admin; status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        headers = {
            "Authorization": f"Bearer {kept_keys.read(self.home)['TELLER_ADMIN_KEY']}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "Prefer": "wait=15",
        }
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def opens(self, name: str) -> bool:
        """Whether a request is accepted and decided: all parts work together. Faults count as no."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            body = {"id": name, "kind": "stock", "available": 1}
            status, document = self.call("POST", "/v1/resources", body, key=name)
            return status == 200 and document["status"] == "completed"
        return False

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command on the same home, while this one runs."""
        return run(self.home, *arguments)


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


@contextlib.contextmanager
def teller_up(home: Path, log: Path) -> Iterator[Up]:
    """Ends it, and sees to it that nothing of it is left, whatever the test did."""
    started = Up(home, free_port(), log)
    try:
        yield started
    finally:
        left = started.tree()
        started.process.kill()
        started.process.wait()
        assert started.process.stdout is not None
        started.process.stdout.close()
        eventually(lambda: not alive(left))


def alive(among: list[Seen]) -> list[Seen]:
    """Which of these run still."""
    now = {one.pid: one for one in processes()}
    return [one for one in among if one.pid in now]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A system that has never run before, and is ready."""
    log = tmp_path_factory.mktemp("up") / "log"
    with temporary_home() as home, teller_up(home, log) as started:
        assert started.until_ready() == f"teller is ready: http://127.0.0.1:{started.port}\n"
        yield started


def test_ready_means_that_a_request_is_decided_at_once(system: Up) -> None:
    """
    When the line is there, the very first request is accepted and decided.
    """
    assert system.opens("first")


def test_it_names_where_to_go_on(system: Up) -> None:
    """
    Behind the line come the addresses of console, documentation and lab, and the file with the keys. A browser that
    opens the address alone is led to the console; a program is not.
    """
    eventually(lambda: "  keys " in system.log.read_text())
    said = system.log.read_text()

    base = f"http://127.0.0.1:{system.port}"
    for name, place in (("console", "/admin"), ("documentation", "/docs"), ("race lab", "/lab")):
        assert f"  {name:<14} {base}{place}\n" in said
    assert f"  {'keys':<14} {system.home}/keys.env " in said
    for accept, status in (("text/html,*/*", 303), ("application/json", 404), ("*/*", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=TIMEOUT_SECONDS)
        connection.request("GET", "/", headers={"Accept": accept})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Location"]) == (status, "/admin" if status == 303 else None)
        connection.close()


def test_the_metrics_of_all_processes_are_those_of_the_api(system: Up) -> None:
    """
    The API shows what workers and couriers count. The counts go on when a worker is killed and started again.
    """

    def metrics() -> dict[str, float]:
        text = fetch(f"http://127.0.0.1:{system.port}/metrics").text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name.partition("{")[0]: float(value) for name, _, value in lines}

    assert system.opens("counted")
    before = metrics()
    names = {
        *("teller_backlog", "teller_oldest_seconds", "teller_partitions_paused", "teller_partitions_unowned"),
        *(
            "teller_decided_total",
            "teller_swept_total",
            "teller_batch_seconds_count",
            "teller_batch_rows_count",
        ),
        *("teller_gateway_calls_total", "teller_deliveries_total", "teller_deliveries_failed"),
        "teller_effects_overdue",
    }
    assert names <= before.keys()
    assert before["teller_batch_rows_count"] >= 1
    workers = system.started("teller worker")
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    eventually(lambda: system.opens("counted-again"))

    assert not set(workers) & set(system.started("teller worker"))
    assert metrics()["teller_batch_rows_count"] > before["teller_batch_rows_count"]


def test_the_first_start_keeps_two_keys_and_says_where(system: Up) -> None:
    """
    An admin's key and a client's, each of a client of its own, for the owner's eyes alone, and never printed.
    """
    file = kept_keys.path(system.home)
    kept = kept_keys.read(system.home)
    said = system.log.read_text()
    listed = json.loads(system.run("keys", "list", "--json").stdout)["data"]

    assert file.stat().st_mode & 0o777 == 0o600
    assert str(file) in said
    assert kept["TELLER_ADMIN_KEY"] not in said
    assert kept["TELLER_CLIENT_KEY"] not in said
    assert sorted((key["name"], key["role"]) for key in listed) == [("admin", "admin"), ("client", "client")]
    assert len({key["client"] for key in listed}) == 2


def test_each_part_is_a_process_whose_command_line_names_it(system: Up) -> None:
    """
    API, each worker, courier, PostgreSQL and Valkey are children that an operator finds by name.
    """
    parts = ("teller api", "teller worker", "teller courier", "/postgres", "/valkey-server")

    assert [len(system.started(part)) for part in parts] == [1, 2, 1, 1, 1]


@pytest.mark.parametrize(
    "part", ["teller courier", "teller worker", "/valkey-server", "teller api", "/postgres"]
)
def test_a_part_that_is_killed_is_started_again_within_two_seconds(system: Up, part: str) -> None:
    """
    Killed with -9, each part is there again in time, under another process id, and requests are decided.
    """
    before = system.started(part)

    os.kill(before[0], signal.SIGKILL)

    Deadline(RESTART_SECONDS).until(
        lambda: len(now := system.started(part)) == len(before) and before[0] not in now
    )
    eventually(lambda: system.opens(f"after{part.replace('/', '-').replace(' ', '-')}"))


def test_the_process_that_serves_is_replaced_within_two_seconds(system: Up) -> None:
    """
    The API's own child, which answers, killed with -9: another one answers in its place.
    """
    [api] = system.started("teller api")
    [serving] = [one.pid for one in system.tree() if one.parent == api]

    os.kill(serving, signal.SIGKILL)

    def replaced() -> bool:
        apis = system.started("teller api")
        return any(one.parent in apis and one.pid != serving for one in system.tree())

    Deadline(RESTART_SECONDS).until(replaced)
    eventually(lambda: system.opens("after-serving"))


def test_a_second_start_on_the_same_home_is_refused_in_one_line(system: Up) -> None:
    """
    Also with another port; and the first goes on.
    """
    for port in (system.port, free_port()):
        second = system.run("up", "--port", str(port))

        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr == f"teller: another Teller already runs on {system.home}\n"
    assert system.opens("after-the-second")


def test_a_taken_port_is_refused_in_one_line_and_nothing_is_made(system: Up) -> None:
    """
    Another home, the port of the system that runs: one line that names the port, and the home stays empty.
    """
    with temporary_home() as other:
        refused = run(other, "up", "--port", str(system.port))

        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith(f"teller: cannot listen on 127.0.0.1:{system.port}: ")
        assert refused.stderr.count("\n") == 1
        assert list(other.iterdir()) == []


def test_a_stop_leaves_nothing_a_kill_leaves_nothing_and_what_was_there_is_there(tmp_path: Path) -> None:
    """
    Ctrl-C ends it with status 0 within 10 s, and so does SIGTERM. After a kill -9 no process is left. The next start
    has all requests, the same keys, and accepts a code that was sent before (scenario 10).
    """
    with temporary_home() as home:
        with teller_up(home, tmp_path / "first") as first:
            first.until_ready()
            assert first.opens("before")
            keys = kept_keys.read(home)
            stop(first, signal.SIGINT)

        with teller_up(home, tmp_path / "second") as second:
            second.until_ready()
            assert second.call("POST", "/v1/codes", {"destination": "ada@example.com"})[0] == 202
            eventually(lambda: list(home.glob("outbox/code_*.eml")))
            everything = second.tree()
            assert len(everything) > 7
            second.process.kill()
            second.process.wait()
            eventually(lambda: not alive(everything))

        with teller_up(home, tmp_path / "third") as third:
            third.until_ready()
            assert third.call("GET", "/v1/resources/before")[1]["available"] == 1
            [mail] = home.glob("outbox/code_*.eml")
            found = re.search(r"^Your code: (\d{6})$", mail.read_text(), re.MULTILINE)
            assert found
            typed = {"destination": "ada@example.com", "code": found[1]}
            assert third.call("POST", "/v1/codes/verify", typed) == (200, {"verified": True})
            Deadline(RESTART_SECONDS).until(lambda: third.opens("after"))
            assert kept_keys.read(home) == keys
            stop(third, signal.SIGTERM)


def stop(up: Up, signal_number: signal.Signals) -> None:
    """Asked to stop, it does so in time, with status 0, and leaves no process."""
    everything = up.tree()
    limit = Deadline(STOP_SECONDS)
    up.process.send_signal(signal_number)
    assert up.process.wait(TIMEOUT_SECONDS) == 0, up.log.read_text()
    limit.check()
    assert alive(everything) == []


def test_another_number_of_partitions_is_refused_in_one_line(system: Up) -> None:
    """
    The number is fixed for the life of a database: a start with another one changes nothing and says so.
    """
    refused = subprocess.run(
        [*COMMAND, "migrate"],
        check=False,
        env={**environment(system.home), "TELLER_PARTITIONS": "8"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )

    assert refused.returncode == 1
    assert refused.stderr.startswith("teller: TELLER_PARTITIONS is 8, but this database was made with 64")
    assert refused.stderr.count("\n") == 1
