"""
Operating: partitions, health, metrics, logs and faults of the infrastructure.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
import structlog

from api import create_app
from api.web import deadline
from processor.domain.partitioning import partition_of
from processor.errors import DatabaseUnavailable
from processor.reading import request_lists
from processor.storage import arrays, connections
from tests.http.teller import Client
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings
    from tests.http.teller import Reply, Teller


#: A resource in another partition than "a".
ELSEWHERE = next(name for name in "bcd" if partition_of(name, 64) != partition_of("a", 64))


def test_a_paused_partition_accepts_and_decides_when_it_is_resumed(teller: Teller) -> None:
    """
    A paused partition accepts requests and decides them after it is resumed. The audit has the pause with its reason.
    """
    teller.open("a")
    home = teller.admin.get("/v1/resources/a").json["partition"]
    path = f"/v1/admin/partitions/{home}"

    paused = teller.operator.post(f"{path}/pause", {"reason": "maintenance"})
    assert teller.operator.post(f"{path}/pause").status_code == 200
    asked = teller.client.post("/v1/redemptions", {"resource": "a", "account": "u"})
    teller.drain()
    listed = teller.operator.get("/v1/admin/partitions").json

    assert (paused.status_code, paused.json["paused"]) == (200, True)
    assert asked.status_code == 202
    assert set(listed) == {"data"}
    assert [one["id"] for one in listed["data"]] == list(range(teller.settings.partitions))
    mine = listed["data"][home]
    assert (mine["backlog"], mine["paused"], mine["owner"]) == (1, True, None)
    assert mine["oldest_seconds"] >= 0

    resumed = teller.admin.post(f"{path}/resume")
    teller.drain()
    assert resumed.json["paused"] is False
    assert teller.client.get(f"/v1/requests/{asked.json['id']}").json["status"] == "completed"
    lines = teller.operator.get("/v1/admin/audit?limit=2").json["data"]
    assert [(line["action"], line["reason"]) for line in lines] == [
        ("partition_resumed", None),
        ("partition_paused", "maintenance"),
    ]
    assert teller.operator.id in lines[1]["actor"]


@pytest.mark.parametrize("number", ["64", "-1", "nonsense", "99999999999999999999", "%F0%9D%9F%97"])
@pytest.mark.changes_nothing
def test_an_unknown_partition_is_not_found(teller: Teller, number: str) -> None:
    """
    A number outside the range, or text that is no number, returns 404.
    """
    for verb in ("pause", "resume"):
        assert teller.admin.post(f"/v1/admin/partitions/{number}/{verb}").status_code == 404


def test_the_routes_of_health_need_no_key(teller: Teller) -> None:
    """
    /readyz and /healthz answer 200.
    """
    application = teller.application.test_client()

    assert application.get("/readyz").status_code == 200
    assert application.get("/healthz").status_code == 200


def test_without_redis_the_api_accepts_and_is_degraded(settings: Settings, teller: Teller) -> None:
    """
    Redis holds nothing that a request needs, so the API accepts requests without it.
    """
    application = create_app(replace(settings, redis_url="redis://127.0.0.1:1"))
    try:
        client = Client(application, teller.client.key, teller.client.id)
        assert "redis" in client.get("/readyz").json["degraded"]
        assert client.post("/v1/redemptions", {"resource": "a", "account": "u"}).status_code == 202
        eventually(lambda: application.extensions["teller"].doorbell.faults)
        assert doorbell_faults(client) >= 1
    finally:
        application.extensions["teller"].close()
    assert doorbell_faults(teller.client) == 0


def doorbell_faults(client: Client) -> float:
    """Return the number of failed wake-ups, from the metrics."""
    lines = client.get("/metrics").data.decode().splitlines()
    [line] = [line for line in lines if line.startswith("teller_doorbell_faults_total ")]
    return float(line.split()[1])


def test_without_postgresql_everything_is_503_within_three_seconds(
    settings: Settings, teller: Teller
) -> None:
    """
    Every call returns 503 with Retry-After. /readyz names PostgreSQL, and /healthz stays 200.
    """
    application = create_app(replace(settings, api_database_url="postgresql://127.0.0.1:1/nothing"))
    try:
        client = Client(application, teller.client.key, teller.client.id)
        for method, path in (("GET", "/v1/requests"), ("POST", "/v1/redemptions"), ("GET", "/readyz")):
            limit = Deadline(3)
            answer = client.call(method, path)
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "1"
            limit.check()
        assert client.get("/v1/requests").json["code"] == "database_unavailable"
        assert client.get("/readyz").json == {"missing": ["postgresql"], "degraded": []}
        assert client.get("/healthz").status_code == 200
    finally:
        application.extensions["teller"].close()


@contextlib.contextmanager
def silent_postgres(url: str) -> Iterator[None]:
    """Stop PostgreSQL with SIGSTOP. The kernel still accepts connections, but no process answers."""
    with connections.connect(url, application_name="test") as connection:
        [(backend,)] = connection.execute("SELECT pg_backend_pid()").fetchall()
        postmaster = psutil.Process(backend).parent()
    assert postmaster is not None
    processes = [postmaster, *postmaster.children(recursive=True)]
    try:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def test_a_stopped_postgresql_is_503_within_three_seconds(settings: Settings, teller: Teller) -> None:
    """
    A stopped PostgreSQL cannot apply its own timeouts. Two rounds of fifty simultaneous calls all return 503 in time.
    When PostgreSQL continues, the API recovers within 5 s.
    """
    paths = ("/v1/requests", "/readyz", "/v1/resources", "/v1/accounts/u", "/v1/webhooks")
    callers = [teller.client, teller.other]
    for caller, path in itertools.product(callers, paths):
        assert caller.get(path).status_code in (200, 404)

    def ask(number: int) -> tuple[int, str | None, float]:
        began = time.monotonic()
        caller = callers[number % 2]
        if number % 7 == 0:
            answer = caller.post("/v1/redemptions", {"resource": "a", "account": "u"})
        else:
            answer = caller.get(paths[number % len(paths)])
        return answer.status_code, answer.headers.get("Retry-After"), time.monotonic() - began

    limit = Deadline(3.5)
    with ThreadPoolExecutor(50) as threads:
        with silent_postgres(settings.database_url):
            answers = [answer for _ in range(2) for answer in threads.map(ask, range(50))]
        Deadline(5).until(lambda: ask(0)[0] == 202 and ask(1)[0] == 200)
    assert {(status, retry) for status, retry, _ in answers} == {(503, "1")}
    slowest = max(seconds for *_, seconds in answers)
    assert limit.is_met(slowest), f"{slowest:.2f} s, and not within {limit}"


def test_a_query_during_which_postgresql_stops_is_503_in_time(settings: Settings, teller: Teller) -> None:
    """
    The query was already sent on an open connection. It ends with the deadline of the request.
    """
    assert teller.client.get("/v1/requests").status_code == 200
    owner = connections.connect(settings.database_url, application_name="test owner")
    with ThreadPoolExecutor(1) as threads, owner, owner.transaction():
        owner.execute("LOCK TABLE requests")
        limit = Deadline(3.5)
        asked = threads.submit(teller.client.get, "/v1/requests")
        eventually(lambda: owner.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall())
        with silent_postgres(settings.database_url):
            answer = asked.result()
            limit.check()

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_the_waits_of_one_request_have_one_limit(settings: Settings, teller: Teller) -> None:
    """
    All waits of a request share one deadline. A long wait for the key leaves less time for the intake.
    """
    keys, requests = (
        connections.connect(settings.database_url, application_name="test owner") for _ in range(2)
    )
    with ThreadPoolExecutor(1) as threads, keys, requests, requests.transaction():
        requests.execute("LOCK TABLE requests")
        with keys.transaction():
            keys.execute("LOCK TABLE api_keys")
            limit = Deadline(3.5)
            asked = threads.submit(teller.other.post, "/v1/redemptions", {"resource": "a", "account": "u"})
            time.sleep(2)
            assert not asked.done()
        answer = asked.result()
        assert limit.check() > 2

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_the_deadline_counts_only_waits_for_the_database(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A slow body does not use up the time for the database.
    """
    deadline_seconds = 0.5
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", deadline_seconds)

    class SlowBody(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            time.sleep(2 * deadline_seconds)
            return super().read(size)

    body = json.dumps({"resource": "a", "account": "u"}).encode()
    answer = teller.client.call(
        "POST",
        "/v1/redemptions",
        input_stream=SlowBody(body),
        content_length=len(body),
        content_type="application/json",
        headers={"Idempotency-Key": "slow"},
    )

    assert answer.status_code == 202


def test_a_statement_without_an_answer_ends_with_its_connection(settings: Settings) -> None:
    """
    If PostgreSQL stops within a transaction, the statement raises DatabaseUnavailable, as do all later ones.

    The connection is closed then, unless its commit waits for a standby.
    """
    connection = connections.connect(
        settings.api_database_url, application_name="test", answer_timeout_seconds=0.5
    )

    def transact() -> None:
        with connections.faults(), connection.transaction():
            connection.execute("SELECT 1")
            with silent_postgres(settings.database_url):
                connection.execute("SELECT 2")

    with pytest.raises(DatabaseUnavailable):
        transact()
    with pytest.raises(DatabaseUnavailable), connections.faults():
        connection.execute("SELECT 3")
    connections.settle(connection)
    assert connection.closed


def test_a_database_with_another_number_of_partitions_gets_no_requests(
    settings: Settings, teller: Teller
) -> None:
    """
    Requests in wrong partitions would be decided out of order. So they return 503, and /readyz names the schema.
    """
    application = create_app(replace(settings, partitions=63))
    try:
        client = Client(application, teller.client.key, teller.client.id)
        assert client.post("/v1/redemptions", {"resource": "a", "account": "u"}).status_code == 503
        assert client.get("/readyz").json == {"missing": ["schema"], "degraded": []}
    finally:
        application.extensions["teller"].close()
    assert teller.client.get("/v1/requests").json["data"] == []


# The test kills the thread of the writer.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_healthz_reports_a_dead_writer(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The call that the writer was processing returns 503, and /healthz returns 500.
    """

    def die(*_: Any) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(arrays, "packed", die)
    answer = teller.client.post("/v1/redemptions", {"resource": "a", "account": "u"})
    eventually(lambda: not teller.services.intake.alive())

    assert answer.status_code == 503
    health = teller.client.get("/healthz")
    assert (health.status_code, health.json) == (500, {"status": "dying"})


def test_a_saturated_partition_returns_503_and_stores_nothing(settings: Settings, teller: Teller) -> None:
    """
    Above the limit, single requests and items of batches return 503. Other partitions accept requests.
    """
    application = create_app(replace(settings, backlog_limit=3))

    def redeem() -> Reply:
        return client.post("/v1/redemptions", {"resource": "a", "account": "u"})

    try:
        client = Client(application, teller.client.key, teller.client.id)
        eventually(lambda: redeem().status_code != 202)
        answer = redeem()
        assert (answer.status_code, answer.json["code"]) == (503, "partition_saturated")
        assert answer.headers["Retry-After"] == "1"
        assert client.post("/v1/redemptions", {"resource": ELSEWHERE, "account": "u"}).status_code == 202
        item = {"kind": "redemption", "idempotency_key": "k", "resource": "a", "account": "u"}
        [result] = client.post("/v1/batches", {"requests": [item]}).json["results"]
        assert (result["status"], result["problem"]["code"]) == (503, "partition_saturated")
    finally:
        application.extensions["teller"].close()


def test_an_internal_error_hides_its_cause(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The problem has the request id. Only the log has the exception.
    """

    def break_down(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(request_lists, "list_requests", break_down)
    with structlog.testing.capture_logs() as lines:
        answer = teller.client.get("/v1/requests", X_Request_Id="find-me")

    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert b"secret reason" not in answer.data
    assert answer.headers["X-Request-Id"] == "find-me"
    assert [line["event"] for line in lines] == ["http_request"]
    assert "the secret reason" in str(lines[0]["exc_info"])


def test_each_request_has_one_log_line_and_one_id(teller: Teller) -> None:
    """
    The line has the route and the client, but no address and no key. Only a valid request id is kept.
    """
    with structlog.testing.capture_logs() as lines:
        kept = teller.client.get("/v1/resources/unknown", X_Request_Id="abc-1")
        replaced = teller.client.get("/nowhere", X_Request_Id="a b\tc")

    first, second = lines
    assert first.pop("duration_ms") >= 0
    assert first == {
        "event": "http_request",
        "log_level": "info",
        "method": "GET",
        "route": "/v1/resources/<resource>",
        "status": 404,
        "client": teller.client.id,
        "problem": "not_found",
    }
    assert (second["route"], second["status"], second["client"]) == ("(none)", 404, None)
    assert kept.headers["X-Request-Id"] == "abc-1"
    assert replaced.headers["X-Request-Id"] not in ("", "a b\tc")


def test_answers_are_counted(teller: Teller) -> None:
    """
    The metrics count answers and latencies by route and status, and the requests that the intake wrote.
    """
    for _ in range(3):
        teller.client.post("/v1/redemptions", {"resource": "a", "account": "u"})
    teller.client.get("/v1/nowhere/secret-token")

    text = teller.client.get("/metrics")

    assert text.headers["Content-Type"].startswith("text/plain")
    lines = text.data.decode().splitlines()
    assert 'teller_http_requests_total{method="POST",route="/v1/redemptions",status="202"} 3.0' in lines
    assert 'teller_http_request_seconds_count{method="POST",route="/v1/redemptions"} 3.0' in lines
    assert 'teller_http_requests_total{method="(any)",route="(none)",status="404"} 1.0' in lines
    assert "teller_intake_requests_total 3.0" in lines
    assert "secret-token" not in text.data.decode()


def test_two_hundred_simultaneous_calls_lose_no_request(teller: Teller) -> None:
    """
    Each call makes a request of its own, and each request is decided.
    """
    together = threading.Barrier(200)
    seen: list[str] = []

    def send(number: int) -> None:
        together.wait()
        seen.append(
            teller.client.post("/v1/redemptions", {"resource": "a", "account": f"u{number}"}).json["id"]
        )

    threads = [threading.Thread(target=send, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(seen)) == 200
    assert len(teller.drain()) == 200
