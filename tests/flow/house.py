"""
A whole Teller: API, worker and courier as processes, the sandbox and a bank of the test's own behind it, and people
who use it over HTTP.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from processor.clients import keys
from processor.storage import connections
from processor.verify.checks import verify
from tests.flow.conftest import PATIENCE_SECONDS, ROOT, WorkerProcess, eventually
from tests.flow.courier.conftest import CourierProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from processor.settings import Settings
    from tests.flow.courier.outside import Outside

#: How long a gateway has to answer, in seconds, how often it is called, and the first pause between two calls.
GATEWAY_TIMEOUT_SECONDS = 0.5
GATEWAY_TRIES = 3
GATEWAY_BACKOFF_SECONDS = 0.05

#: How long the API may take to start, in seconds: a busy machine takes its time.
START_SECONDS = 60.0

_numbers = itertools.count(1)

Document = dict[str, Any]


class ApiProcess:
    """`teller api`."""

    def __init__(self, settings: Settings, log: Path, *, allow_private_webhooks: bool) -> None:
        self.log = log
        self.url = f"http://127.0.0.1:{settings.port}"
        gateways = ",".join(f"{name}={url}" for name, url in settings.gateways.items())
        environ = {
            **settings.environment(),
            "TELLER_GATEWAYS": gateways,
            "TELLER_ALLOW_PRIVATE_WEBHOOKS": "1" if allow_private_webhooks else "",
        }
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "teller", "api"],
                env={**os.environ, **environ},
                cwd=ROOT,
                stdout=file,
                stderr=file,
            )
        try:
            eventually(self._is_ready, within=START_SECONDS)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def end(self) -> None:
        """In order."""
        self._process.terminate()
        assert self._process.wait(PATIENCE_SECONDS) == 0, self.log.read_text()[-2000:]

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-2000:]
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


class Person:
    """Somebody with a key."""

    def __init__(self, url: str, key: keys.CreatedKey) -> None:
        self.key = key
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key.key}"},
            timeout=30,
            trust_env=False,
            limits=httpx.Limits(max_connections=64),
        )

    def get(self, path: str, status: int = 200) -> Any:
        """What is there."""
        return self._document(self.http.get(path), status)

    def put(self, path: str, body: Document) -> Any:
        """Something that is to be so."""
        return self._document(self.http.put(path, json=body), 200)

    def post(self, path: str, body: Document, *statuses: int, key: str | None = None, wait: int = 0) -> Any:
        """Something that is to be done; `wait`: for the end of it, so many seconds."""
        headers = {"Idempotency-Key": key or f"key-{next(_numbers)}"}
        headers |= {"Prefer": f"wait={wait}"} if wait else {}
        return self._document(self.http.post(path, json=body, headers=headers), *statuses)

    @staticmethod
    def _document(answer: httpx.Response, *statuses: int) -> Any:
        assert answer.status_code in statuses, answer.text
        return answer.json()


class House:
    """The processes, and those who use them."""

    def __init__(self, settings: Settings, outside: Outside, logs: Path) -> None:
        self.outside = outside
        self.logs = logs
        self.settings = replace(
            settings,
            port=free_port(),
            home=logs / "home",
            gateways={"sandbox": "builtin", "bank": f"{outside.url}/pay"},
            gateway_tries=GATEWAY_TRIES,
            gateway_backoff_seconds=GATEWAY_BACKOFF_SECONDS,
            gateway_timeout_seconds=GATEWAY_TIMEOUT_SECONDS,
            smtp_url=None,
        )
        self.owner = psycopg.connect(settings.database_url, autocommit=True)
        self.api = ApiProcess(self.settings, logs / "api.log", allow_private_webhooks=True)
        self.worker = WorkerProcess(self.settings, logs / "worker.log")
        self.courier = CourierProcess(self.settings, logs / "courier.log")
        self._people: list[Person] = []
        self.admin = self.person("admin")
        self.colleague = self.person("admin")
        self.client = self.person("client")
        self.other = self.person("client")

    @contextlib.contextmanager
    def patient_courier(self) -> Iterator[CourierProcess]:
        """One that waits for an answer for long; the other is stopped meanwhile, until told to go on."""
        self.courier.freeze()
        patient = CourierProcess(
            replace(self.settings, gateway_timeout_seconds=60.0), self.logs / "patient.log"
        )
        try:
            yield patient
        finally:
            patient.kill()
            self.courier.send(signal.SIGCONT)

    def person(self, role: str, url: str | None = None) -> Person:
        """Somebody new."""
        with contextlib.closing(
            connections.connect(self.settings.database_url, application_name="test")
        ) as connection:
            found = Person(url or self.api.url, keys.create_key(connection, role, role))
        self._people.append(found)
        return found

    def close(self) -> None:
        """End all processes; the API in order."""
        for person in self._people:
            person.http.close()
        self.courier.kill()
        self.worker.kill()
        self.api.end()
        self.owner.close()

    def check_books(self) -> None:
        """Every balance, hold and status follows from the entries."""
        with contextlib.closing(
            connections.connect(self.settings.database_url, application_name="test")
        ) as connection:
            assert [str(found) for found in verify(connection)] == []

    # ------------------------------------------------------------ money

    def open(self, gateway: str) -> str:
        """A balance of 100 behind a gateway; returns its id."""
        resource = f"balance-{next(_numbers)}"
        body = {"id": resource, "kind": "balance", "available": 100, "gateway": gateway}
        assert self.admin.post("/v1/resources", body, 200, wait=20)["status"] == "completed"
        return resource

    def withdraw(self, resource: str, destination: str = "IBAN 1", account: str = "ada") -> str:
        """30 of it; returns the id of the request."""
        body = {"resource": resource, "account": account, "amount": 30, "destination": destination}
        asked: str = self.client.post("/v1/withdrawals", body, 202)["id"]
        return asked

    def until(self, request: str, *statuses: str) -> Document:
        """The request once it is so."""
        found: Document = {}

        def arrived() -> bool:
            nonlocal found
            found = self.client.get(f"/v1/requests/{request}")
            return found["status"] in statuses

        eventually(arrived)
        return found

    def quantities(self, resource: str) -> tuple[int, int]:
        """Available and held."""
        document = self.client.get(f"/v1/resources/{resource}")
        return document["available"], document["held"]

    def entries(self, request: str) -> list[tuple[str, int]]:
        """What a request took and gave, oldest first."""
        listed = self.client.get(f"/v1/requests/{request}/entries")["data"]
        return [(one["kind"], one["amount"]) for one in reversed(listed)]

    def refund(self, request: str, reason: str = "a mistake", **more: Any) -> Document:
        """By the admin, decided."""
        path = f"/v1/admin/requests/{request}/refund"
        refund: Document = self.admin.post(path, {"reason": reason, **more}, 200, wait=20)
        return refund

    def sandbox(self, request: str) -> tuple[list[int], int]:
        """The statuses that the sandbox answered, and the payouts that it made."""
        seen = self.admin.get(f"/sandbox/gateway/calls?request={request}")
        return [one["status"] for one in seen["data"]], seen["payouts"]

    def lapse(self, request: str) -> None:
        """Time passes: the lease of its call runs out."""
        self.owner.execute(
            "UPDATE effects SET due_at = now(), leased_until = now() WHERE request_id = %s AND token IS NOT NULL",
            (request,),
        )


def at_once(count: int, act: Any, people: Sequence[Person]) -> list[Any]:
    """`act(person, number)` so many times at the same instant, by these people in turn."""
    together = threading.Barrier(count)

    def one(number: int) -> Any:
        together.wait()
        return act(people[number % len(people)], number)

    with ThreadPoolExecutor(count) as crowd:
        return list(crowd.map(one, range(count)))


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
