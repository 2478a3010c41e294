"""
The real application on a real database, through Flask's test client; and a worker that the test drives by hand.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from processor.batch import run as batch
from processor.gateways.protocol import Answer
from processor.outbox import deliveries, gateway_calls
from processor.outbox.gateway_calls import CallResult
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from werkzeug.datastructures import Headers

    from api.services import Services
    from processor.domain.model import Outcome
    from processor.settings import Settings

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status_code: int
    headers: Headers
    data: bytes
    #: The parsed body, if it is JSON.
    json: Any


@dataclass
class Client:
    """Calls the API with one key, and with a fresh idempotency key for each POST that does not bring its own."""

    application: Flask
    key: str
    id: str
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, **arguments: Any) -> Reply:
        """Any call; `headers` are added to the key's."""
        headers = {"Authorization": f"Bearer {self.key}", **self.headers, **arguments.pop("headers", {})}
        # A header that is None is not sent.
        sent = {name: value for name, value in headers.items() if value is not None}
        answer = self.application.test_client().open(path, method=method, headers=sent, **arguments)
        return Reply(answer.status_code, answer.headers, answer.data, answer.get_json(silent=True))

    def get(self, path: str, **headers: str) -> Reply:
        """A GET."""
        return self.call(
            "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def post(self, path: str, body: Any = None, key: str | None = None, **headers: str) -> Reply:
        """A POST of JSON."""
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        extra["Idempotency-Key"] = key if key is not None else f"test-{next(_numbers)}"
        return self.call("POST", path, json=body, headers=extra)

    def patch(self, path: str, body: Any, **headers: str) -> Reply:
        """A PATCH of JSON, without an idempotency key."""
        return self.call("PATCH", path, json=body, headers=headers)

    def put(self, path: str, body: Any) -> Reply:
        """A PUT of JSON."""
        return self.call("PUT", path, json=body)

    def delete(self, path: str) -> Reply:
        """A DELETE."""
        return self.call("DELETE", path)


@dataclass
class Teller:
    """The application and its people."""

    application: Flask
    settings: Settings
    admin: Client
    operator: Client
    client: Client
    other: Client

    @property
    def services(self) -> Services:
        """What the application holds."""
        services: Services = self.application.extensions["teller"]
        return services

    def drain(self, limit: int = batch.BATCH_LIMIT) -> list[Any]:
        """Decide what waits, as a worker does, `limit` of each partition; returns the ids."""
        decided: list[Any] = []
        with connections.connect(
            self.settings.worker_database_url, application_name="test worker"
        ) as connection:
            for partition in range(self.settings.partitions):
                report = batch.drain_once(connection, partition, limit=limit)
                decided += report.decided
        return decided

    def open(self, resource: str, kind: str = "stock", available: int = 10, **rules: Any) -> None:
        """A resource that is there."""
        answer = self.admin.post(
            "/v1/resources", {"id": resource, "kind": kind, "available": available, **rules}
        )
        assert answer.status_code == 202, answer.json
        self.drain()

    def withdraw(self, resource: str, amount: int = 10, account: str = "u") -> str:
        """A withdrawal that is decided; where there is a gateway, it is held. Returns its id."""
        body = {"resource": resource, "account": account, "amount": amount}
        answer = self.client.post("/v1/withdrawals", body)
        assert answer.status_code == 202, answer.json
        self.drain()
        return str(answer.json["id"])

    def call_gateway(self, *answers: Answer) -> None:
        """
        What waits for the sandbox is called as a courier does, once for each answer; the last one stands. Then there
        are deliveries of what is to be told.
        """
        with connections.connect(
            self.settings.courier_database_url, application_name="test courier"
        ) as connection:
            gateway_calls.introduce(connection, "sandbox")
            for number, answer in enumerate(answers, 1):
                claim = gateway_calls.claim(connection, "sandbox", gateway_calls.CALLS_AT_ONCE, 100, 1.0)
                pause_seconds = None if number == len(answers) else 0.0
                gateway_calls.record(
                    connection, [CallResult(one, answer, pause_seconds) for one in claim.effects]
                )
            self.drain()
            deliveries.expand(connection)

    @contextlib.contextmanager
    def stopped_courier(self) -> Iterator[Callable[[Answer], None]]:
        """
        A courier that called the sandbox, and is stopped for longer than its lease. What it gives tells what it was
        answered, when it goes on.
        """
        with (
            connections.connect(self.settings.database_url, application_name="test") as owner,
            connections.connect(
                self.settings.courier_database_url, application_name="test courier"
            ) as courier,
        ):
            gateway_calls.introduce(courier, "sandbox")
            claim = gateway_calls.claim(courier, "sandbox", gateway_calls.CALLS_AT_ONCE, 100, 1.0)
            owner.execute("UPDATE effects SET due_at = now(), leased_until = now() WHERE token IS NOT NULL")

            def go_on(answer: Answer) -> None:
                gateway_calls.record(courier, [CallResult(one, answer, None) for one in claim.effects])

            yield go_on

    def park(self, resource: str, amount: int = 10, outcome: Outcome = "unknown", account: str = "u") -> str:
        """A withdrawal whose gateway did not tell what became of it. Returns its id."""
        asked = self.withdraw(resource, amount, account)
        self.call_gateway(Answer(outcome, 503, reason="answered 503"))
        return asked

    def status(self, request: str) -> str:
        """How a request is; what was refused, or could not be finished, by its code."""
        document = self.admin.get(f"/v1/requests/{request}").json
        return str(document["error"]["code"] if document["error"] else document["status"])

    def quantities(self, resource: str) -> tuple[int, int]:
        """Available and held."""
        document = self.admin.get(f"/v1/resources/{resource}").json
        return document["available"], document["held"]
