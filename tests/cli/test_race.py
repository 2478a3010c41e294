"""
`teller race`: its output, exit status and refusals, on the lab's own tables and against any URL.
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

from lab import endpoint, endpoint_results, following, strategies
from lab.strategies import STRATEGIES
from teller.commands import race_drawing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from processor.settings import Settings
    from tests.cli.result import Result
    from tests.store.store import Store

#: Races depend on timing. A strategy without one in this number of tries is taken as safe.
TRIES = 20
USERS = 12


def strategies_of(printed: Result) -> dict[str, Any]:
    """Return the documents of a run by strategy."""
    return {one["strategy"]: one for one in printed.document["strategies"]}


def test_all_strategies_as_json(store: Store, teller: Callable[..., Result]) -> None:
    """
    The document has the promised fields. The safe strategies hold without workers, and the exit status is 0.
    """
    printed = teller("race", "--users", "50", "--stock", "3", "--json")

    assert (printed.status, printed.err) == (0, "")
    found = strategies_of(printed)
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


def test_a_race_of_the_naive_strategy_is_no_error(teller: Callable[..., Result]) -> None:
    """
    The naive strategy exists to show a race. It has one within a few tries, and the exit status stays 0.
    """
    printed = [teller("race", "--strategy", "naive", "--json") for _ in range(3)]

    assert {one.status for one in printed} == {0}
    assert any(strategies_of(one)["naive"]["race"] for one in printed)


def test_a_race_of_a_safe_strategy_is_exit_status_1(
    teller: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The row lock without FOR UPDATE is as unsafe as the naive strategy. The race is printed, and the status is 1.
    """
    monkeypatch.setitem(strategies.SQL, "read_quantity_for_update", strategies.SQL["read_quantity"])

    printed = next(
        (
            one
            for one in (teller("race", "--strategy", "rowlock", "--json") for _ in range(TRIES))
            if one.status
        ),
        None,
    )

    assert printed is not None
    assert printed.status == 1
    assert strategies_of(printed)["rowlock"]["race"] is True


def test_a_pipe_gets_one_line_for_each_strategy(teller: Callable[..., Result]) -> None:
    """
    A line has no colours. Its columns are the numbers, the verdict, and a mark for each user.
    """
    printed = teller("race", "--users", "5", "--strategy", "atomic")

    [[strategy, approved, final, time, verdict, marks]] = printed.rows
    assert (strategy, approved, final, verdict) == ("atomic", "1", "0", "holds: 1 approved, 0 left")
    assert time.endswith(" ms")
    assert sorted(marks) == sorted("✓····")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_a_table_and_bars(
    teller: Callable[..., Result], terminal: Callable[[int], None], columns: int
) -> None:
    """
    A terminal gets a mark for each user, a table, bars and the expected race. No line exceeds its width.
    """
    terminal(columns)

    printed = teller("race", "--users", "100", "--stock", "2")

    lines = click.unstyle(printed.out).splitlines()
    assert printed.status == 0
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
def test_wrong_usage_is_one_line_and_status_2(
    run_teller: Callable[..., Result], words: tuple[str, ...]
) -> None:
    """
    Wrong arguments are refused before a race starts.
    """
    printed = run_teller("race", *words)

    assert (printed.status, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert printed.err.startswith("teller: ")


def test_a_queue_without_decisions_is_one_line(
    teller: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    If all partitions are paused, there is no verdict about Teller's queue.
    """
    monkeypatch.setattr("lab.tellers_queue.DECISION_TIMEOUT_SECONDS", 0.2)
    store.owner.execute("INSERT INTO pauses (partition, actor) SELECT id, 'test' FROM partitions")

    printed = teller("race", "--strategy", "queue", "--users", "2", "--json")

    assert "paused" in printed.refuses(1, "not_decided")


def test_too_many_users_for_postgresql_is_one_line(
    teller: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The error has the number of available connections.
    """
    monkeypatch.setitem(strategies.SQL, "count_free_connections", "SELECT 7")

    assert "PostgreSQL has 7 left" in teller("race", "--strategy", "naive", "--json").refuses(
        1, "too_many_users"
    )


def test_without_redis_only_its_lock_fails(
    teller: Callable[..., Result], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The other strategies run without Redis.
    """
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")

    assert teller("race", "--strategy", "queue", "--users", "2").status == 0
    assert "Redis does not answer" in teller("race", "--strategy", "redislock", "--json").refuses(
        1, "redis_unavailable"
    )


# ---------------------------------------------------------------- against any URL


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 256


class SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by the base class
        pass


@dataclass
class Shop:
    """
    Sells one piece at each address. At `/racy` it answers after all expected users have read the stock.
    """

    url: str = ""
    expected: int = USERS
    stock: dict[str, int] = field(default_factory=lambda: {"/racy": 1, "/safe": 1})
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    reads: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.all_users = threading.Barrier(self.expected)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
        with self.lock:
            self.seen.append((environ["REQUEST_METHOD"], body, environ.get("HTTP_IDEMPOTENCY_KEY")))
        match path:
            case "/racy":
                left = self.stock[path]
                self.all_users.wait(60)  # until all users have read the stock
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
            case "/refused":
                start_response("200 OK", [])
                return [b'{"status": "rejected"}']
            case "/queued" | "/stuck" | "/elsewhere" | "/forbidden" | "/accepted":
                return self._accept(path, start_response)
            case _ if path.startswith("/orders/"):
                return self._order(path, environ, start_response)
        start_response("404 Not Found", [])
        return []

    def _accept(self, path: str, start_response: StartResponse) -> Iterable[bytes]:
        """Answer 202, with a Location that depends on the address."""
        with self.lock:
            number = len(self.seen)
        locations = {
            "/queued": f"/orders/{number}",
            "/stuck": "orders/stuck",
            "/elsewhere": "http://127.0.0.2:1/orders/1",
            "/forbidden": "/orders/forbidden",
        }
        location = [("Location", locations[path])] if path in locations else []
        start_response("202 Accepted", location)
        return [b'{"status": "processing"}']

    def _order(self, path: str, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Show an order: the first two reads are too early, and the first order is sold."""
        with self.lock:
            self.reads[path] = self.reads.get(path, 0) + 1
            reads = self.reads[path]
        if environ.get("HTTP_AUTHORIZATION") != "Bearer mine" or path == "/orders/forbidden":
            start_response("403 Forbidden", [])
            return []
        if path == "/orders/stuck" or reads == 1:
            start_response("200 OK", [])
            return [b'{"status": "processing"}']
        if reads == 2:
            start_response("503 Service Unavailable", [])
            return []
        start_response("200 OK", [])
        return [b'{"status": "completed", "n": 1}' if path == "/orders/1" else b'{"status": "rejected"}']


@pytest.fixture
def shop() -> Iterator[Shop]:
    """
    A shop on its own port.
    """
    open_shop = Shop()
    server = make_server("127.0.0.1", 0, open_shop, server_class=Server, handler_class=SilentHandler)
    open_shop.url = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    serving.start()
    with server:
        try:
            yield open_shop
        finally:
            server.shutdown()
            serving.join()


def test_a_racy_endpoint_is_detected(shop: Shop, run_teller: Callable[..., Result]) -> None:
    """
    All calls arrive at the same time, or none would be answered. All succeed, so the exit status is 1.
    """
    printed = run_teller(
        "race",
        *("--url", f"{shop.url}/racy", "--users", str(USERS), "--expect", "1", "--json"),
        *("--body", '{"user": {n}, "of": {}}', "--header", "Idempotency-Key: {uuid}"),
    )

    assert (printed.status, printed.err) == (1, "")
    document = printed.document
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


def test_calls_without_a_body_arrive_together_too(shop: Shop, run_teller: Callable[..., Result]) -> None:
    """
    Without a body there is no last byte to hold back. All calls connect first, and then send.
    """
    printed = run_teller(
        "race", "--url", f"{shop.url}/racy", "--users", str(USERS), "--expect", "1", "--method", "delete"
    )

    assert printed.status == 1
    assert printed.out.splitlines()[-1] == f"RACE: {USERS} of {USERS} succeeded where 1 was expected"
    assert {method for method, _, _ in shop.seen} == {"DELETE"}


def test_a_safe_endpoint_passes(
    shop: Shop, run_teller: Callable[..., Result], terminal: Callable[[int], None]
) -> None:
    """
    The endpoint answers 200 to all calls. A text in the answer marks the one that succeeded.
    """
    terminal(80)
    arguments = ("race", "--url", f"{shop.url}/safe", "--body", "{}", "--expect", "1")

    printed = run_teller(*arguments, "--accept-text", '"sold": true')
    counted_by_status = run_teller(*arguments)

    lines = click.unstyle(printed.out).splitlines()
    assert printed.status == 0
    assert lines[-1] == "no race: 1 of 50 succeeded, 1 was expected at the most"
    assert sum(line.count(race_drawing.APPROVED) for line in lines[3:]) == 1
    assert counted_by_status.status == 1


def test_redirects_and_long_and_empty_answers_are_reported(
    shop: Shop, run_teller: Callable[..., Result]
) -> None:
    """
    A redirect is not followed, a long answer is cut, and an empty answer may count as a success.
    """

    def ask(path: str, *more: str) -> tuple[int, Any]:
        printed = run_teller(
            "race", "--url", shop.url + path, "--users", "3", "--expect", "3", "--json", *more
        )
        return printed.status, printed.document["results"][0]

    status, result = ask("/moved", "--method", "GET")
    assert (status, result["status"], result["succeeded"]) == (0, 302, False)
    status, result = ask("/huge", "--method", "GET")
    assert (status, result["status"], result["body"]) == (0, 200, "x" * endpoint_results.BODY_CHARACTERS_KEPT)
    status, result = ask("/silent", "--accept-status", "200, 204")
    assert (status, result["status"], result["succeeded"]) == (0, 204, True)
    status, result = ask("/nowhere")
    assert (status, result["status"], result["succeeded"]) == (0, 404, False)


def accepted(shop: Shop, run_teller: Callable[..., Result], path: str, *more: str) -> tuple[int, Any]:
    """Return the exit status and the document of a race of 4 users at an address that answers 202."""
    words = ("--url", shop.url + path, "--users", "4", "--header", "Authorization: Bearer mine", "--json")
    printed = run_teller("race", *words, *more)
    return printed.status, printed.document


def test_what_is_only_accepted_is_followed_to_its_outcome(
    shop: Shop, run_teller: Callable[..., Result]
) -> None:
    """
    The Location is read with the same headers until the status is final. One of four orders is completed.
    """
    status, document = accepted(shop, run_teller, "/queued", "--expect", "1")

    assert (status, document["succeeded"], document["undecided"], document["race"]) == (0, 1, 0, False)
    assert document["verdict"] == "no race: 1 of 4 succeeded, 1 was expected at the most"
    assert [(one["status"], one["followed_status"]) for one in document["results"]] == [(202, 200)] * 4
    assert set(shop.reads.values()) == {3}
    [won] = [one for one in document["results"] if one["succeeded"]]
    assert won["followed_body"] == '{"status": "completed", "n": 1}'


def test_more_outcomes_than_expected_are_a_race(shop: Shop, run_teller: Callable[..., Result]) -> None:
    """
    A text decides instead of the status, if it is given.
    """
    status, document = accepted(shop, run_teller, "/queued", "--expect", "1", "--accept-text", "rejected")

    assert (status, document["verdict"]) == (1, "RACE: 3 of 4 succeeded where 1 was expected")


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/accepted", 1, "the answer has no Location"),
        ("/elsewhere", 1, "its Location is of another origin"),
        ("/forbidden", 1, "its Location answered 403, which shows no outcome"),
        ("/stuck", 3, "no outcome at its Location within"),
    ],
)
def test_a_202_without_an_outcome_is_no_success(
    shop: Shop,
    run_teller: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    status: int,
    why: str,
) -> None:
    """
    The verdict says that it is open, why, and which option helps. Nothing else was refused or sold.
    """
    monkeypatch.setattr(following, "FOLLOW_SECONDS", 0.5)

    ended, document = accepted(shop, run_teller, path, "--expect", "1")

    assert (ended, document["succeeded"], document["undecided"], document["race"]) == (status, 0, 4, False)
    assert document["verdict"].startswith("undecided: 0 of 4 succeeded where 1 was expected")
    assert why in document["verdict"]
    assert "--accept-text" in document["verdict"]
    assert all(one["undecided"] and why in one["error"] for one in document["results"])


def test_undecided_calls_that_cannot_be_too_many_are_no_race(
    shop: Shop, run_teller: Callable[..., Result]
) -> None:
    """
    Four calls were accepted, and four may succeed. A text that the answer itself has decides at once.
    """
    status, document = accepted(shop, run_teller, "/accepted", "--expect", "4")
    by_text = accepted(shop, run_teller, "/accepted", "--expect", "1", "--accept-text", "processing")
    without = accepted(shop, run_teller, "/accepted", "--expect", "1", "--accept-text", "sold")

    assert (status, document["undecided"]) == (0, 4)
    assert (by_text[0], by_text[1]["succeeded"]) == (1, 4)
    assert (without[0], without[1]["succeeded"], without[1]["undecided"]) == (0, 0, 0)


def test_a_200_that_says_no_is_no_success(shop: Shop, run_teller: Callable[..., Result]) -> None:
    """
    A status of the JSON such as rejected counts against the HTTP status.
    """
    status, document = accepted(shop, run_teller, "/refused", "--expect", "1")

    assert (status, document["succeeded"]) == (0, 0)


def test_a_terminal_marks_what_is_undecided(
    shop: Shop, run_teller: Callable[..., Result], terminal: Callable[[int], None]
) -> None:
    """
    A question mark for each user, and the verdict in the last line.
    """
    terminal(80)

    printed = run_teller("race", "--url", f"{shop.url}/accepted", "--users", "4", "--expect", "1")

    lines = click.unstyle(printed.out).splitlines()
    assert printed.status == 1
    assert lines[4] == race_drawing.UNDECIDED * 4
    assert lines[-1].startswith("undecided: ")


def test_an_unreachable_endpoint_gives_no_verdict(run_teller: Callable[..., Result]) -> None:
    """
    If no call is answered, the command prints one line and ends with status 1.
    """
    arguments = ("race", "--url", "http://127.0.0.1:1/", "--users", "3", "--expect", "1")

    assert "none of 3 calls was answered: no connection" in run_teller(*arguments, "--json").refuses(
        1, "endpoint_unreachable"
    )
    assert run_teller(*arguments).err.count("\n") == 1


def test_an_endpoint_that_does_not_answer_times_out(
    run_teller: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An endpoint that accepts a connection and does not answer counts as unreachable.
    """
    monkeypatch.setattr(endpoint, "ANSWER_SECONDS", 0.2)
    with make_server("127.0.0.1", 0, Shop()) as silent:  # it listens, but does not serve
        printed = run_teller(
            "race",
            "--url",
            f"http://127.0.0.1:{silent.server_port}/",
            "--users",
            "2",
            "--expect",
            "1",
            "--json",
        )

    assert "no answer within 0 s" in printed.refuses(1, "endpoint_unreachable")
