"""
A whole Teller with the sandbox and a bank behind it, and withdrawals over HTTP.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from tests.stack import Document, Process, Stack, environment_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.settings import Settings
    from tests.flow.courier.outside import Outside
    from tests.servers import Database

#: The time that a gateway has to answer, in seconds.
GATEWAY_TIMEOUT_SECONDS = 0.5
#: The number of calls of a gateway for one effect.
GATEWAY_TRIES = 3
#: The first pause between two calls, in seconds.
GATEWAY_BACKOFF_SECONDS = 0.05
#: The timeout of a courier that is suspended during a call, in seconds.
LONG_TIMEOUT_SECONDS = 60.0

_numbers = itertools.count(1)


class Payments(Stack):
    """An API, a worker and a courier, two admins and two clients."""

    def __init__(
        self, settings: Settings, database: Database, outside: Outside, logs: Path, **changes: str
    ) -> None:
        super().__init__(
            environment_of(
                settings,
                database,
                TELLER_HOME=str(logs / "home"),
                TELLER_GATEWAYS=f"sandbox=builtin,bank={outside.url}/pay",
                TELLER_GATEWAY_TRIES=str(GATEWAY_TRIES),
                TELLER_GATEWAY_BACKOFF_SECONDS=str(GATEWAY_BACKOFF_SECONDS),
                TELLER_GATEWAY_TIMEOUT_SECONDS=str(GATEWAY_TIMEOUT_SECONDS),
                TELLER_ALLOW_PRIVATE_WEBHOOKS="1",
                **changes,
            ),
            logs,
        )
        self.outside = outside

    def begin(self) -> None:
        """
        Start the processes, and create the clients. Returns when the API is ready.
        """
        self.api = self.start_api()
        self.worker = self.start("worker")
        self.courier = self.start_courier()
        self.admin, self.colleague = self.new_client("admin"), self.new_client("admin")
        self.client, self.other = self.new_client("client"), self.new_client("client")

    def start_courier(self, **changes: str) -> Process:
        """
        Start a courier that calls the sandbox of the first API.
        """
        return self.start("courier", TELLER_PORT=str(self.ports[0]), **changes)

    def restart_courier(self) -> None:
        """
        Start the courier again. Returns when it works, so that it can be stopped in order.
        """
        before = len(
            self.courier.events("courier_started")
        )  # the last start may have been killed before its event
        self.courier.start()
        eventually(lambda: len(self.courier.events("courier_started")) > before)

    @contextlib.contextmanager
    def slow_courier(self) -> Iterator[Process]:
        """
        Start a courier with a long timeout, and suspend the other one meanwhile.
        """
        self.courier.suspend()
        slow = self.start_courier(TELLER_GATEWAY_TIMEOUT_SECONDS=str(LONG_TIMEOUT_SECONDS))
        try:
            yield slow
        finally:
            slow.kill()
            self.courier.resume()

    def open(self, gateway: str) -> str:
        """
        Open a balance of 100 behind a gateway. Returns its id.
        """
        resource = f"balance-{next(_numbers)}"
        body = {"id": resource, "kind": "balance", "available": 100, "gateway": gateway}
        assert self.admin.post("/v1/resources", body, 200, wait=20)["status"] == "completed"
        return resource

    def withdraw(self, resource: str, destination: str = "IBAN 1", account: str = "ada") -> str:
        """
        Ask for 30 of it. Returns the id of the request.
        """
        body = {"resource": resource, "account": account, "amount": 30, "destination": destination}
        asked: str = self.client.post("/v1/withdrawals", body, 202)["id"]
        return asked

    def until(self, request: str, *statuses: str) -> Document:
        """
        Wait until the request has one of these statuses. Returns its document.
        """
        found: Document = {}

        def arrived() -> bool:
            nonlocal found
            found = self.client.get(f"/v1/requests/{request}")
            return found["status"] in statuses

        eventually(arrived)
        return found

    def quantities(self, resource: str) -> tuple[int, int]:
        """
        Return what is available and what is held.
        """
        document = self.client.get(f"/v1/resources/{resource}")
        return document["available"], document["held"]

    def entries(self, request: str) -> list[tuple[str, int]]:
        """
        Return kind and amount of each entry of a request, oldest first.
        """
        listed = self.client.get(f"/v1/requests/{request}/entries")["data"]
        return [(one["kind"], one["amount"]) for one in reversed(listed)]

    def refund(self, request: str, reason: str = "a mistake", **more: Any) -> Document:
        """
        Refund a request as the admin. Returns the decided refund.
        """
        path = f"/v1/admin/requests/{request}/refund"
        refund: Document = self.admin.post(path, {"reason": reason, **more}, 200, wait=20)
        return refund

    def sandbox(self, request: str) -> tuple[list[int], int]:
        """
        Return the statuses that the sandbox answered, and the number of its payouts.
        """
        seen = self.admin.get(f"/sandbox/gateway/calls?request={request}")
        return [one["status"] for one in seen["data"]], seen["payouts"]

    def expire_lease(self, request: str) -> None:
        """
        Let the lease of the request's gateway call end now.
        """
        self.owner.execute(
            "UPDATE effects SET due_at = now(), leased_until = now() WHERE request_id = %s AND token IS NOT NULL",
            (request,),
        )
