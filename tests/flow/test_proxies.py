"""
The configurations of docs/operating.md, each with a real proxy before two APIs.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests import proxies
from tests.stack import NO_CERTIFICATES, Stack
from tests.waiting import TIMEOUT_SECONDS, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
#: The bodies that are refused, in bytes: within the limit of Teller and beyond it.
SIZES = (400_000, 4 * 1024 * 1024)
#: Rounds of each refusal: with two sizes and three refusals, some more than a hundred calls.
ROUNDS = 17
#: The times for which connections are idle before a POST, in seconds: around the limits of the proxies and of before.
IDLE_SECONDS = (0.0, 4.9, 5.1, 9.9, 10.1, 29.9, 30.1, 59.9, 60.1)
POSTS = 200


@dataclass(frozen=True)
class Proxied:
    """Two APIs with a worker behind a proxy, and the keys of an admin and a client."""

    port: int
    admin: str
    client: str

    @property
    def url(self) -> str:
        """The address of the proxy."""
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(params=["nginx", "haproxy"])
def proxied(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Proxied]:
    """A Teller behind the documented proxy. Only the ports differ."""
    name = request.param
    proxies.program(name)
    [config] = re.findall(rf"```{name}\n(.*?)```", OPERATING.read_text(), re.DOTALL)
    with Stack(settings.environment(), tmp_path) as stack:
        stack.start_api()
        stack.start_api()
        stack.start("worker")
        stack.until_shared()
        port = free_port()
        for documented, real in (("8000", port), ("8001", stack.ports[0]), ("8002", stack.ports[1])):
            assert f"127.0.0.1:{documented}" in config
            config = config.replace(f"127.0.0.1:{documented}", f"127.0.0.1:<{real}>")
        config = re.sub(r"<(\d+)>", r"\1", config)
        run = proxies.nginx if name == "nginx" else proxies.haproxy
        admin = stack.new_client("admin")
        opened = admin.post(
            "/v1/resources", {"id": "sneaker", "kind": "stock", "available": 9_000}, 200, wait=15
        )
        assert opened["status"] == "completed"
        client = stack.new_client("client").key.key
        with run(tmp_path / name, port, config):
            yield Proxied(port, admin.key.key, client)


def post(proxied: Proxied, path: str, body: bytes, key: str, method: str = "POST") -> int:
    """Send a body on a connection of its own. Returns the status, or 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", proxied.port, timeout=TIMEOUT_SECONDS)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Idempotency-Key": "k"}
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_refusals_of_large_bodies_arrive_and_disturb_no_one(proxied: Proxied) -> None:
    """
    401, 405 and 413 for bodies of 400 kB and 4 MiB pass the proxy, each time. Meanwhile another client is served.
    """
    calls = [
        (path, size, method, key, status)
        for size in SIZES
        for path, method, key, status in (
            ("/v1/redemptions", "POST", "teller_wrong", 401),
            ("/v1/redemptions", "PUT", proxied.client, 405),
            ("/v1/batches", "POST", proxied.client, 413 if size > 1024 * 1024 else 422),
        )
        for _ in range(ROUNDS)
    ]
    random.Random(1).shuffle(calls)
    body = b'{"requests": []}'.ljust(max(SIZES))
    disturbed = []

    def other(number: int) -> None:
        sent = json.dumps({"resource": "sneaker", "account": f"u{number}"}).encode()
        headers = {"Authorization": f"Bearer {proxied.client}", "Idempotency-Key": f"other {number}"}
        answer = httpx.post(
            f"{proxied.url}/v1/redemptions",
            content=sent,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            verify=NO_CERTIFICATES,
        )
        if answer.status_code != 202:
            disturbed.append(answer.text)

    with ThreadPoolExecutor(6) as threads:
        others = [threads.submit(other, number) for number in range(40)]
        found = list(
            threads.map(lambda call: post(proxied, call[0], body[: call[1]], call[3], call[2]), calls)
        )
        for one in others:
            one.result()

    assert len(calls) > 100
    assert [(call[4], status) for call, status in zip(calls, found, strict=True) if call[4] != status] == []
    assert disturbed == []


def test_idle_connections_and_waits_pass(proxied: Proxied) -> None:
    """
    None of 200 POSTs fails on connections that were idle around each limit. A wait for a decision passes, and a
    person signs in.
    """

    def idle_and_redeem(number: int) -> int:
        headers = {"Authorization": f"Bearer {proxied.client}"}
        limits = httpx.Limits(keepalive_expiry=None)
        with httpx.Client(
            headers=headers, timeout=TIMEOUT_SECONDS, verify=NO_CERTIFICATES, limits=limits
        ) as http:
            http.get(f"{proxied.url}/healthz")
            http.get(f"{proxied.url}/healthz")
            time.sleep(IDLE_SECONDS[number % len(IDLE_SECONDS)])
            return http.post(
                f"{proxied.url}/v1/redemptions",
                json={"resource": "sneaker", "account": "u"},
                headers={"Idempotency-Key": f"idle {number}"},
            ).status_code

    with ThreadPoolExecutor(POSTS) as threads:
        found = list(threads.map(idle_and_redeem, range(POSTS)))

    assert [status for status in found if status != 202] == []
    waited = httpx.post(
        f"{proxied.url}/v1/redemptions",
        json={"resource": "sneaker", "account": "u"},
        headers={"Authorization": f"Bearer {proxied.client}", "Idempotency-Key": "w", "Prefer": "wait=20"},
        timeout=TIMEOUT_SECONDS,
        verify=NO_CERTIFICATES,
    )
    assert (waited.status_code, waited.json()["status"]) == (200, "completed")
    with httpx.Client(base_url=proxied.url, timeout=TIMEOUT_SECONDS, verify=NO_CERTIFICATES) as browser:
        signed_in = browser.post(
            "/admin/sign-in", data={"key": proxied.admin}, headers={"Origin": proxied.url}
        )
        assert (signed_in.status_code, signed_in.headers["Location"]) == (303, "/admin")
        assert browser.get("/admin").status_code == 200
