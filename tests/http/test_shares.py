"""
Shares of clients: a client that takes all it can get leaves places for the others, and fills no log.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from api.services import BODIES_OF_ONE_CLIENT, READS_AT_ONCE, READS_OF_ONE_CLIENT, VIEWS_OF_ONE_CLIENT
from api.v1 import webhooks
from api.web import access_log, deadline, turns
from tests.waiting import TIMEOUT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.teller import Reply, Teller

REDEMPTION = {"resource": "sneaker", "account": "u_42"}


def refused(answer: Reply) -> bool:
    """Return whether an answer refuses a request because its client has too many in progress."""
    assert (answer.status_code, answer.json["code"]) == (503, "too_many_at_once")
    return answer.headers["Retry-After"] == "1"


@contextlib.contextmanager
def slow_reads(teller: Teller, clients: list[str]) -> Iterator[None]:
    """
    Hold a connection for a read of each of these clients.
    """
    release = threading.Event()
    held = threading.Semaphore(0)

    def read_slowly(client: str) -> None:
        turns.act_for(client)
        with teller.services.connection():
            held.release()
            release.wait(TIMEOUT_SECONDS)

    with ThreadPoolExecutor(len(clients)) as slow:
        try:
            for client in clients:
                slow.submit(read_slowly, client)
                assert held.acquire(timeout=TIMEOUT_SECONDS)
            yield
        finally:
            release.set()


def test_a_client_holds_a_quarter_of_the_connections(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While slow reads of a client hold its share, its next read gets 503. Other clients, and the look-up of keys, find
    connections.
    """
    assert READS_OF_ONE_CLIENT * 4 == READS_AT_ONCE
    teller.client.get("/v1/requests")
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", 0.3)
    with slow_reads(teller, [teller.client.id] * READS_OF_ONE_CLIENT):
        assert refused(teller.client.get("/v1/requests"))
        assert teller.other.get("/v1/requests").status_code == 200
        assert teller.client.post("/v1/redemptions", REDEMPTION).status_code == 202
    assert teller.client.get("/v1/requests").status_code == 200


def test_slow_reads_of_several_clients_leave_connections_for_keys_and_waits(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While the slow reads of four clients hold all places, a key is looked up, and a wait ends with the decision.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", 0.5)
    clients = [f"slow {number % 4}" for number in range(READS_AT_ONCE)]
    with slow_reads(teller, clients), ThreadPoolExecutor(1) as caller:
        posted = caller.submit(teller.client.post, "/v1/redemptions", REDEMPTION, Prefer="wait=20")
        eventually(lambda: teller.services.waiters.count() == 1 or posted.done())
        teller.drain()
        answer = posted.result()
        assert (answer.status_code, answer.headers.get("Preference-Applied")) == (200, "wait=20")
        assert refused(teller.client.get("/v1/requests"))


def test_a_client_beside_others_has_its_share_of_the_views(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Beyond its share a request waits for its turn within the deadline. Then it gets 503, and stores nothing.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", 0.3)
    teller.other.get("/v1/requests")
    with contextlib.ExitStack() as busy:
        for _ in range(VIEWS_OF_ONE_CLIENT):
            busy.enter_context(teller.services.views.take(teller.client.id))
        assert refused(teller.client.post("/v1/redemptions", REDEMPTION, key="k"))
        assert teller.other.get("/v1/requests").status_code == 200
        assert teller.client.get("/healthz").status_code == 200
    accepted = teller.client.post("/v1/redemptions", REDEMPTION, key="k")
    assert (accepted.status_code, "Idempotency-Replayed" in accepted.headers) == (202, False)


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
def test_callers_without_a_key_have_a_share_of_the_connections(
    teller: Teller, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """
    A flood of a public route takes no more connections for reads than one client. A client finds some free.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", 0.3)
    with contextlib.ExitStack() as busy:
        for _ in range(READS_OF_ONE_CLIENT):
            busy.enter_context(teller.services.reads.take(path))
        assert refused(teller.client.get(path))
        assert teller.client.get("/v1/requests").status_code == 200
    assert teller.client.get(path).status_code == 200


def test_slow_bodies_of_callers_without_a_key_hold_their_share_of_the_threads(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While bodies of a public route are incomplete in all of its places, the next one gets 503. A client's is read.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", 0.3)
    path = "/sandbox/gateway"
    with contextlib.ExitStack() as slow:
        for _ in range(BODIES_OF_ONE_CLIENT):
            slow.enter_context(teller.services.bodies.take(path))
        assert refused(teller.client.post(path, {}))
        assert teller.client.post("/v1/redemptions", REDEMPTION).status_code == 202
    assert teller.client.post(path, {}).status_code == 401


def test_silent_name_servers_of_a_client_delay_no_other(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A client with many registrations whose names are not resolved has its share of the look-ups, and of those that
    wait. Another client registers a webhook meanwhile.
    """
    answers_again = threading.Event()

    def lookup(host: str, *_: Any, **__: Any) -> Any:
        if host.startswith("silent"):
            answers_again.wait(TIMEOUT_SECONDS)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 443))]

    monkeypatch.setattr("processor.gateways.addresses.socket.getaddrinfo", lookup)
    count = webhooks.LOOKUPS_AT_ONCE + webhooks.LOOKUPS_WAITING_OF_ONE_CLIENT_MAX
    with ThreadPoolExecutor(count) as crowd:
        silent = [
            crowd.submit(teller.client.post, "/v1/webhooks", {"url": f"https://silent-{number}.example/"})
            for number in range(count)
        ]
        at_once = count - webhooks.LOOKUPS_OF_ONE_CLIENT - webhooks.LOOKUPS_WAITING_OF_ONE_CLIENT_MAX
        eventually(lambda: sum(one.done() for one in silent) >= at_once)
        registered = teller.other.post("/v1/webhooks", {"url": "https://shop.example/"})
        assert not all(one.done() for one in silent)
        assert registered.status_code == 201
        assert {one.result().json["code"] for one in silent} == {"name_service_silent"}
        answers_again.set()


def test_the_log_has_few_lines_of_refused_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    In each second a client has some lines of refused requests, and a caller without a key has one. The counts of
    the others come with the first request after it. The count of an address is its line of that second.
    """
    monkeypatch.setattr(access_log, "LINES_OF_A_CLIENT", 3)
    log = access_log.Refusals()
    with structlog.testing.capture_logs() as lines:
        allowed = [log.has_line("ada", "192.0.2.1", 10.0) for _ in range(8)]
        allowed += [log.has_line(None, "192.0.2.1", 10.2) for _ in range(5)]
        log.write_counts(10.5)
        allowed += [log.has_line("bob", "192.0.2.1", 10.7)]
    assert (allowed, lines) == ([True] * 3 + [False] * 5 + [True] + [False] * 4 + [True], [])

    with structlog.testing.capture_logs() as lines:
        log.write_counts(11.5)
        assert log.has_line("ada", "192.0.2.1", 11.5)
        assert not log.has_line(None, "192.0.2.1", 11.6)
        log.write_counts(13.0)
        log.write_counts(14.5)
    common = {"event": "http_requests_refused", "log_level": "info"}
    assert lines == [
        {**common, "client": "ada", "address": None, "more": 5},
        {**common, "client": None, "address": "192.0.2.1", "more": 4},
        {**common, "client": None, "address": "192.0.2.1", "more": 1},
    ]


def test_refused_requests_of_a_client_share_lines(teller: Teller) -> None:
    """
    A flood of refused requests has a few lines, and a request that succeeds has its own.
    """
    with structlog.testing.capture_logs() as lines:
        for _ in range(200):
            teller.client.get("/v1/resources/none")
        teller.client.get("/v1/requests")

    statuses = [line["status"] for line in lines if line["event"] == "http_request"]
    assert statuses[-1] == 200
    assert len(statuses) < 120


def test_the_memory_for_refused_requests_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Addresses beyond the limit are counted together, and share one line.
    """
    monkeypatch.setattr(access_log, "CALLERS_MAX", 10)
    log = access_log.Refusals()

    assert sum(log.has_line(None, f"192.0.2.{number}", 10.0) for number in range(100)) == 11
