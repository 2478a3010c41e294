"""
`teller race`: what it prints, how it ends, and what it refuses; against the lab's own tables, and against any URL.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import click
import pytest

from lab import endpoint, strategies
from lab.strategies import STRATEGIES
from teller.commands import race_drawing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from processor.settings import Settings
    from tests.cli.said import Said
    from tests.store.store import Store

#: A race is a matter of luck: so many tries without one are none.
TRIES = 20
USERS = 12


def strategies_of(said: Said) -> dict[str, Any]:
    """The documents of a run, by strategy."""
    return {one["strategy"]: one for one in said.document["strategies"]}


def test_all_strategies_as_json(store: Store, teller: Callable[..., Said]) -> None:
    """
    Exactly the contract's shape, with more in it; those that hold hold, without workers and with the exit status 0.
    """
    said = teller("race", "--users", "50", "--stock", "3", "--json")

    assert (said.status, said.err) == (0, "")
    found = strategies_of(said)
    assert list(found) == list(STRATEGIES) == ["naive", "atomic", "rowlock", "redislock", "queue"]
    for one in found.values():
        assert (one["users"], one["stock"]) == (50, 3)
        assert [result["user"] for result in one["results"]] == list(range(1, 51))
        assert isinstance(one["race"], bool)
    for name in ("atomic", "rowlock", "redislock", "queue"):
        assert (found[name]["approved"], found[name]["final"], found[name]["race"]) == (3, 0, False)
    paused = found["redislock"]["paused_holder"]
    assert (paused["users"], paused["approved"], paused["final"], paused["race"]) == (2, 2, 0, True)
    assert [name for name in found if "paused_holder" in found[name]] == ["redislock"]
    assert store.one("SELECT count(*) FROM lab_things") == 0
    assert store.waiting() == 0


def test_the_textbook_may_fail_without_failing_the_command(teller: Callable[..., Said]) -> None:
    """
    It is there to be seen failing: within a few tries it does, and the exit status stays 0.
    """
    said = [teller("race", "--strategy", "naive", "--json") for _ in range(3)]

    assert {one.status for one in said} == {0}
    assert any(strategies_of(one)["naive"]["race"] for one in said)


def test_a_protection_that_fails_is_exit_status_1(
    teller: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The row lock without FOR UPDATE is the textbook again: printed, and told by the exit status.
    """
    monkeypatch.setitem(strategies.SQL, "read_quantity_for_update", strategies.SQL["read_quantity"])

    said = next(
        (
            one
            for one in (teller("race", "--strategy", "rowlock", "--json") for _ in range(TRIES))
            if one.status
        ),
        None,
    )

    assert said is not None
    assert said.status == 1
    assert strategies_of(said)["rowlock"]["race"] is True


def test_a_pipe_gets_one_line_a_strategy(teller: Callable[..., Said]) -> None:
    """
    Tabs, no colours: the numbers, the verdict, and a mark for each user.
    """
    said = teller("race", "--users", "5", "--strategy", "atomic")

    [[strategy, approved, final, time, verdict, marks]] = said.rows
    assert (strategy, approved, final, verdict) == ("atomic", "1", "0", "holds: 1 approved, 0 left")
    assert time.endswith(" ms")
    assert sorted(marks) == sorted("✓····")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_a_table_and_bars(
    teller: Callable[..., Said], terminal: Callable[[int], None], columns: int
) -> None:
    """
    Each strategy with a mark for each user, then a table, bars, and what is expected to fail; nothing is wider.
    """
    terminal(columns)

    said = teller("race", "--users", "100", "--stock", "2")

    lines = click.unstyle(said.out).splitlines()
    assert said.status == 0
    assert lines[0] == "100 users, 2 pieces, the same instant"
    assert max(map(len, lines)) <= columns
    assert sum(line.count(race_drawing.APPROVED) for line in lines[2:] if "users" not in line) >= 4 * 2
    assert [line.split() for line in lines if line.startswith("strategy ")] == [
        ["strategy", "approved", "final", "time", "verdict"]
    ]
    assert "approved, where there were 2" in lines
    bars = {line.split()[0]: line for line in lines if "█" in line}
    assert list(bars) == list(STRATEGIES)
    assert bars["atomic"].endswith(" 2")
    assert "This is expected." in " ".join(lines)


@pytest.mark.parametrize(
    "words",
    [
        ("--users", "0"),
        ("--users", "201"),
        ("--users", "many"),
        ("--stock", "0"),
        ("--stock", "-1"),
        ("--strategy", "hope"),
        ("--expect", "0"),
        ("--accept-text", ""),
        ("--method", "GET"),
        ("--header", "K: V"),
        ("--url", "http://localhost"),
        ("--url", "ftp://localhost", "--expect", "1"),
        ("--url", "http://", "--expect", "1"),
        ("--url", "http://h:port/", "--expect", "1"),
        ("--url", "http://localhost/a b", "--expect", "1"),
        ("--url", "http://localhost", "--expect", "-1"),
        ("--url", "http://localhost", "--expect", "1", "--stock", "1"),
        ("--url", "http://localhost", "--expect", "1", "--strategy", "naive"),
        ("--url", "http://localhost", "--expect", "1", "--body", "{"),
        ("--url", "http://localhost", "--expect", "1", "--method", "GET /"),
        ("--url", "http://localhost", "--expect", "1", "--header", "no colon"),
        ("--url", "http://localhost", "--expect", "1", "--header", "K: two\nlines"),
        ("--url", "http://localhost", "--expect", "1", "--header", "Content-Length: 7"),
        ("--url", "http://localhost", "--expect", "1", "--accept-status", "2xx"),
        ("--url", "http://localhost", "--expect", "1", "--accept-status", "600"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_status_2(speak: Callable[..., Said], words: tuple[str, ...]) -> None:
    """
    Nothing is run before the words make sense.
    """
    said = speak("race", *words)

    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("teller: ")


def test_a_partition_that_nobody_decides_is_one_line(
    teller: Callable[..., Said], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where all partitions are paused there is no verdict about Teller's queue.
    """
    monkeypatch.setattr("lab.tellers_queue.PATIENCE_SECONDS", 0.2)
    store.owner.execute("INSERT INTO pauses (partition, actor) SELECT id, 'test' FROM partitions")

    said = teller("race", "--strategy", "queue", "--users", "2", "--json")

    assert "paused" in said.refuses(1, "not_decided")


def test_too_many_users_for_postgresql_is_one_line(
    teller: Callable[..., Said], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It says how many connections there are.
    """
    monkeypatch.setitem(strategies.SQL, "count_room", "SELECT 7")

    assert "PostgreSQL has 7 left" in teller("race", "--strategy", "naive", "--json").refuses(
        1, "too_many_users"
    )


def test_without_redis_only_its_lock_is_in_vain(
    teller: Callable[..., Said], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The others need none.
    """
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")

    assert teller("race", "--strategy", "queue", "--users", "2").status == 0
    assert "Redis does not answer" in teller("race", "--strategy", "redislock", "--json").refuses(
        1, "redis_unavailable"
    )


# ---------------------------------------------------------------- against any URL


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 256


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        pass


@dataclass
class Shop:
    """
    Sells one piece at each address, at `/racy` after everybody who is expected has looked how many there are.
    """

    url: str = ""
    expected: int = USERS
    stock: dict[str, int] = field(default_factory=lambda: {"/racy": 1, "/safe": 1})
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.everybody = threading.Barrier(self.expected)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer."""
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
        with self.lock:
            self.seen.append((environ["REQUEST_METHOD"], body, environ.get("HTTP_IDEMPOTENCY_KEY")))
        match path:
            case "/racy":
                left = self.stock[path]
                self.everybody.wait(60)  # only those who are here at the same time get any further
                self.stock[path] = left - 1
                start_response("200 OK" if left else "409 Conflict", [])
                return [b'{"sold": true}' if left else b"{}"]
            case "/safe":
                with self.lock:
                    left, self.stock[path] = self.stock[path], max(self.stock[path] - 1, 0)
                start_response("200 OK", [])
                return [b'{"sold": true}' if left else b'{"sold": false}']
            case "/moved":
                start_response("302 Found", [("Location", f"{self.url}/safe")])
                return []
            case "/huge":
                start_response("200 OK", [])
                return (b"x" * 65_536 for _ in range(10_000))
            case "/silent":
                start_response("204 No Content", [])
                return []
        start_response("404 Not Found", [])
        return []


@pytest.fixture
def shop() -> Iterator[Shop]:
    """
    A shop on a port of its own.
    """
    open_shop = Shop()
    server = make_server("127.0.0.1", 0, open_shop, server_class=_Server, handler_class=_Silent)
    open_shop.url = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    serving.start()
    with server:
        try:
            yield open_shop
        finally:
            server.shutdown()
            serving.join()


def test_a_racy_endpoint_is_found_out(shop: Shop, speak: Callable[..., Said]) -> None:
    """
    All are there at the same time, or nobody would be answered; each is told yes, and the exit status is 1.
    """
    said = speak(
        "race",
        *("--url", f"{shop.url}/racy", "--users", str(USERS), "--expect", "1", "--json"),
        *("--body", '{"user": {n}, "of": {}}', "--header", "Idempotency-Key: {uuid}"),
    )

    assert (said.status, said.err) == (1, "")
    document = said.document
    assert (document["users"], document["succeeded"], document["expect"], document["race"]) == (
        USERS,
        USERS,
        1,
        True,
    )
    assert document["verdict"] == f"RACE: {USERS} of {USERS} succeeded where 1 was expected"
    assert [result["user"] for result in document["results"]] == list(range(1, USERS + 1))
    assert {result["status"] for result in document["results"]} == {200}
    assert all(result["ms"] > 0 and result["error"] is None for result in document["results"])
    methods, bodies, keys = zip(*shop.seen, strict=True)
    assert set(methods) == {"POST"}
    assert sorted(json.loads(body)["user"] for body in bodies) == list(range(1, USERS + 1))
    assert len(set(keys)) == USERS


def test_without_a_body_all_come_together_too(shop: Shop, speak: Callable[..., Said]) -> None:
    """
    There is no last byte to hold back: all connect first, and then ask.
    """
    said = speak(
        "race", "--url", f"{shop.url}/racy", "--users", str(USERS), "--expect", "1", "--method", "delete"
    )

    assert said.status == 1
    assert said.out.splitlines()[-1] == f"RACE: {USERS} of {USERS} succeeded where 1 was expected"
    assert {method for method, _, _ in shop.seen} == {"DELETE"}


def test_a_safe_endpoint_passes(
    shop: Shop, speak: Callable[..., Said], terminal: Callable[[int], None]
) -> None:
    """
    It answers 200 to all; which of them is a yes is in the answer.
    """
    terminal(80)
    arguments = ("race", "--url", f"{shop.url}/safe", "--body", "{}", "--expect", "1")

    said = speak(*arguments, "--accept-text", '"sold": true')
    counted_by_status = speak(*arguments)

    lines = click.unstyle(said.out).splitlines()
    assert said.status == 0
    assert lines[-1] == "no race: 1 of 50 succeeded, 1 was expected at the most"
    assert sum(line.count(race_drawing.APPROVED) for line in lines[3:]) == 1
    assert counted_by_status.status == 1


def test_statuses_redirects_and_long_answers(shop: Shop, speak: Callable[..., Said]) -> None:
    """
    A redirect is an answer of its own, of a huge one only the beginning is read, an empty one is one.
    """

    def ask(path: str, *more: str) -> tuple[int, Any]:
        said = speak("race", "--url", shop.url + path, "--users", "3", "--expect", "3", "--json", *more)
        return said.status, said.document["results"][0]

    status, result = ask("/moved", "--method", "GET")
    assert (status, result["status"], result["succeeded"]) == (0, 302, False)
    status, result = ask("/huge", "--method", "GET")
    assert (status, result["status"], result["body"]) == (0, 200, "x" * endpoint.BODY_CHARACTERS_KEPT)
    status, result = ask("/silent", "--accept-status", "200, 204")
    assert (status, result["status"], result["succeeded"]) == (0, 204, True)
    status, result = ask("/nowhere")
    assert (status, result["status"], result["succeeded"]) == (0, 404, False)


def test_an_endpoint_that_cannot_be_reached_is_no_verdict(speak: Callable[..., Said]) -> None:
    """
    One line, exit status 1: nothing is known about races.
    """
    arguments = ("race", "--url", "http://127.0.0.1:1/", "--users", "3", "--expect", "1")

    assert "none of 3 calls was answered: no connection" in speak(*arguments, "--json").refuses(
        1, "endpoint_unreachable"
    )
    assert speak(*arguments).err.count("\n") == 1


def test_an_endpoint_that_does_not_answer_is_given_up(
    speak: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whoever takes the connection and says nothing has not answered.
    """
    monkeypatch.setattr(endpoint, "ANSWER_SECONDS", 0.2)
    with make_server("127.0.0.1", 0, Shop()) as deaf:  # it listens, and nobody serves
        said = speak(
            "race",
            "--url",
            f"http://127.0.0.1:{deaf.server_port}/",
            "--users",
            "2",
            "--expect",
            "1",
            "--json",
        )

    assert "no answer within 0 s" in said.refuses(1, "endpoint_unreachable")
