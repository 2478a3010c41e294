"""
The real application on a real database, through Flask's test client. The test acts as its worker and courier.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from api import create_app
from processor.batch import run as batch
from processor.clients import keys
from processor.gateways.protocol import Answer
from processor.outbox import code_messages, deliveries, gateway_calls
from processor.outbox.gateway_calls import CallResult
from processor.outbox.tries import BEFORE_FIRST
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from werkzeug.datastructures import Headers

    from api.services import Services
    from processor.domain.model import Outcome
    from processor.gateways.protocol import Order
    from processor.outbox.code_messages import CodeMessage
    from processor.settings import Settings
    from processor.storage.connections import Connection

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Reply:
    """A response."""

    status_code: int
    headers: Headers
    data: bytes
    #: The parsed body, if it is JSON.
    json: Any


@dataclass
class Client:
    """A caller with one key. Each POST gets a fresh idempotency key, unless the test gives one."""

    application: Flask
    key: str
    id: str
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, **arguments: Any) -> Reply:
        """Call the API. `headers` are added to those of the key."""
        headers = {"Authorization": f"Bearer {self.key}", **self.headers, **arguments.pop("headers", {})}
        # A header that is None is not sent.
        sent = {name: value for name, value in headers.items() if value is not None}
        answer = self.application.test_client().open(path, method=method, headers=sent, **arguments)
        return Reply(answer.status_code, answer.headers, answer.data, answer.get_json(silent=True))

    def get(self, path: str, **headers: str) -> Reply:
        """Send a GET."""
        return self.call(
            "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def post(self, path: str, body: Any = None, key: str | None = None, **headers: str) -> Reply:
        """Send a POST of JSON."""
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        extra["Idempotency-Key"] = key if key is not None else f"test-{next(_numbers)}"
        return self.call("POST", path, json=body, headers=extra)

    def patch(self, path: str, body: Any, **headers: str) -> Reply:
        """Send a PATCH of JSON, without an idempotency key."""
        return self.call("PATCH", path, json=body, headers=headers)

    def put(self, path: str, body: Any) -> Reply:
        """Send a PUT of JSON."""
        return self.call("PUT", path, json=body)

    def delete(self, path: str) -> Reply:
        """Send a DELETE."""
        return self.call("DELETE", path)


@dataclass
class Teller:
    """The application and its callers."""

    application: Flask
    settings: Settings
    admin: Client
    operator: Client
    client: Client
    other: Client

    @property
    def services(self) -> Services:
        """The services of the application."""
        services: Services = self.application.extensions["teller"]
        return services

    def drain(self, limit: int = batch.BATCH_LIMIT) -> list[Any]:
        """Run a batch of all partitions, as a worker does, with at most `limit` rows. Returns the decided ids."""
        with connections.connect(
            self.settings.worker_database_url, application_name="test worker"
        ) as connection:
            return list(batch.drain_once(connection, range(self.settings.partitions), limit).decided)

    def open(self, resource: str, kind: str = "stock", available: int = 10, **rules: Any) -> None:
        """Open a resource and decide it."""
        answer = self.admin.post(
            "/v1/resources", {"id": resource, "kind": kind, "available": available, **rules}
        )
        assert answer.status_code == 202, answer.json
        self.drain()

    def withdraw(self, resource: str, amount: int = 10, account: str = "u") -> str:
        """Submit a withdrawal and decide it. With a gateway it is then on hold. Returns its id."""
        body = {"resource": resource, "account": account, "amount": amount}
        answer = self.client.post("/v1/withdrawals", body)
        assert answer.status_code == 202, answer.json
        self.drain()
        return str(answer.json["id"])

    def call_gateway(self, *answers: Answer) -> list[Order]:
        """
        Call the sandbox as a courier does, once for each answer. The last answer is final. Afterwards the
        notifications of these requests are deliveries. Returns what it was asked for.
        """
        orders: list[Order] = []
        with connections.connect(
            self.settings.courier_database_url, application_name="test courier"
        ) as connection:
            gateway_calls.introduce(connection, "sandbox")
            for number, answer in enumerate(answers, 1):
                claim = _claim(connection)
                orders += [one.order for one in claim.effects]
                pause_seconds = None if number == len(answers) else 0.0
                gateway_calls.record(
                    connection, [CallResult(one, answer, pause_seconds) for one in claim.effects]
                )
            self.drain()
            deliveries.expand(connection)
        return orders

    @contextlib.contextmanager
    def stopped_courier(self) -> Iterator[Callable[[Answer], None]]:
        """
        Run a courier that calls the sandbox and then stops for longer than its lease.

        Yields a function with which the courier continues and records the answer.
        """
        with (
            connections.connect(self.settings.database_url, application_name="test") as owner,
            connections.connect(
                self.settings.courier_database_url, application_name="test courier"
            ) as courier,
        ):
            gateway_calls.introduce(courier, "sandbox")
            claim = _claim(courier)
            owner.execute("UPDATE effects SET due_at = now(), leased_until = now() WHERE token IS NOT NULL")

            def record(answer: Answer) -> None:
                gateway_calls.record(courier, [CallResult(one, answer, None) for one in claim.effects])

            yield record

    def fail_withdrawal(
        self, resource: str, amount: int = 10, outcome: Outcome = "unknown", account: str = "u"
    ) -> str:
        """Submit a withdrawal whose gateway does not report the outcome, so that it fails. Returns its id."""
        asked = self.withdraw(resource, amount, account)
        self.call_gateway(Answer(outcome, 503, reason="answered 503"))
        return asked

    def status(self, request: str) -> str:
        """Return the status of a request, or its error code if it has one."""
        document = self.admin.get(f"/v1/requests/{request}").json
        return str(document["error"]["code"] if document["error"] else document["status"])

    def quantities(self, resource: str) -> tuple[int, int]:
        """Return the available and the held quantity."""
        document = self.admin.get(f"/v1/resources/{resource}").json
        return document["available"], document["held"]


def _claim(courier: Connection) -> gateway_calls.Claim:
    """Claim the effects of the sandbox."""
    clients = [client for _, client, _ in gateway_calls.due_clients(courier, gateway_calls.BEFORE_FIRST)]
    return gateway_calls.claim(
        courier, "sandbox", clients, room=64, calls_at_once=64, tries=100, timeout_seconds=1.0
    )


def claim_codes(courier: Connection, settings: Settings) -> list[CodeMessage]:
    """Give the turn to codes whose destinations are free, and claim the codes of all clients that are due."""
    waiting = code_messages.waiting_clients(courier, BEFORE_FIRST)
    code_messages.take_turns(courier, settings, dict.fromkeys(waiting, BEFORE_FIRST))
    return [
        message
        for client, seconds in code_messages.due(courier, BEFORE_FIRST)
        if seconds <= 0
        for message in code_messages.claim(courier, settings, client, 10, 60.0)
    ]


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Teller]:
    """While it lasts, there is an application with a key of each role."""
    made = {}
    with connections.connect(settings.database_url, application_name="test") as connection:
        for name, role in (
            ("admin", "admin"),
            ("operator", "operator"),
            ("client", "client"),
            ("other", "client"),
        ):
            made[name] = keys.create_key(connection, name, role)
    application = create_app(settings)
    clients = {name: Client(application, key.key, key.client) for name, key in made.items()}
    yield Teller(application, settings, **clients)
    application.extensions["teller"].close()
