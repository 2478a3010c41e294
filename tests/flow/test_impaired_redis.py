"""
A Redis that answers and carries no notifications: requests are decided as quickly as without it, and all can see why.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis

from teller.embedded import home as homes
from teller.embedded.valkey import Valkey, environment
from tests.flow.relay import Relay
from tests.servers import temporary_home
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.flow.workers import WorkerStack
    from tests.stack import Client

#: The requests of each story, and the pause between two of them, in seconds.
REQUESTS = 30
PAUSE_SECONDS = 0.05
#: The time in which each request is decided, and that of half of them, in seconds.
EACH_SECONDS = 0.7
MEDIAN_SECONDS = 0.2

Story = tuple[str, "Callable[[], Any]", "Callable[[], Any]"]


@pytest.fixture
def relay() -> Iterator[Relay]:
    """
    A Valkey of the test's own, behind a relay.
    """
    with temporary_home() as home:
        homes.prepare(home)
        valkey = Valkey(home)
        valkey.start()
        with Relay(environment(home)["REDIS_URL"]).running() as running:
            yield running
        valkey.stop()


def test_an_impaired_redis_costs_no_time_and_is_named(relay: Relay, installation: WorkerStack) -> None:
    """
    Each story begins under load. Every request is decided within 0.7 s, and half of them within 0.2 s.

    `/readyz`, a metric and one warning of the worker name the condition. Afterwards all is well again.
    """
    installation.use_redis(relay.url)
    [worker] = installation.start_workers(1)
    installation.start_api()
    client = installation.new_client("admin")
    opening = {"id": "sneaker", "kind": "stock", "available": 10_000}
    client.post("/v1/resources", opening, 200, wait=10)
    with redis.Redis.from_url(relay.url) as control:
        for condition, impair, repair in _stories(control, relay):
            _until_degraded(installation, {"degraded": []})
            eventually(lambda: _is_notified(worker.events()))
            before = len(worker.events("wake_ups_unavailable"))
            impair()
            limit = Deadline(EACH_SECONDS)
            took = _redeem(client)
            late = [seconds for seconds in took if not limit.is_met(seconds)]
            assert not late, (condition, took)
            limit.seconds = MEDIAN_SECONDS
            assert limit.is_met(sorted(took)[REQUESTS // 2]), (condition, took)
            _until_degraded(installation, {"degraded": ["redis"], "redis": condition})
            metrics = httpx.get(f"{installation.url}/metrics", trust_env=False).text
            assert f'teller_redis_impaired{{condition="{condition}"}} 1.0' in metrics
            assert [event["condition"] for event in worker.events("wake_ups_unavailable")[before:]] == [
                condition
            ]
            repair()
        _until_degraded(installation, {"degraded": []})


def _stories(control: redis.Redis, relay: Relay) -> list[Story]:
    """Return conditions, and how each of them begins and ends."""
    memory = control.config_get("maxmemory")["maxmemory"] or "0"
    run: Any = control.execute_command

    def delay(seconds: float) -> None:
        relay.delay_seconds = seconds

    return [
        (
            "out_of_memory",
            lambda: control.config_set("maxmemory", 1),
            lambda: control.config_set("maxmemory", memory),
        ),
        (
            "replica",
            lambda: run("REPLICAOF", "127.0.0.1", "1"),
            lambda: run("REPLICAOF", "NO", "ONE"),
        ),
        (
            "rights",
            lambda: run("ACL", "SETUSER", "default", "-hset"),
            lambda: run("ACL", "SETUSER", "default", "+hset"),
        ),
        ("slow", lambda: delay(0.06), lambda: delay(0.0)),
    ]


def _redeem(client: Client) -> list[float]:
    """Redeem at twenty requests a second. Returns the seconds until each decision."""

    def one(number: int) -> float:
        body = {"resource": "sneaker", "account": f"u_{number}"}
        began = time.monotonic()
        client.post("/v1/redemptions", body, 200, wait=10)
        return time.monotonic() - began

    with ThreadPoolExecutor(REQUESTS) as pool:
        asked = []
        for number in range(REQUESTS):
            asked.append(pool.submit(one, number))
            time.sleep(PAUSE_SECONDS)
        return [future.result() for future in asked]


def _until_degraded(installation: WorkerStack, expected: dict[str, Any]) -> None:
    def is_so() -> bool:
        return bool(httpx.get(f"{installation.url}/readyz", trust_env=False).json() == expected)

    eventually(is_so, within=20)


def _is_notified(events: list[dict[str, Any]]) -> bool:
    """Return whether the worker's last word was that doorbells come."""
    names = [event["event"] for event in events if event.get("event", "").startswith("wake_ups_")]
    return not names or names[-1] == "wake_ups_available"
