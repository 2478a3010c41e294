"""
A whole Teller on a primary and a synchronous standby that change places under load, three times.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx

from processor.storage import migrations
from tests.postgres_pair import started_pair
from tests.servers import PARTITIONS
from tests.stack import Stack
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from processor.settings import Settings
    from tests.postgres_pair import Pair
    from tests.stack import Client

FAILOVERS = 3
CLIENTS = 6
#: More units than all clients redeem.
STOCK = 1_000_000
#: The time after the readiness of the new primary in which a request must be accepted, in seconds.
RECOVERY_SECONDS = 2.0
#: Requests that must be accepted before a failover, and after the return of the old primary.
SOME = 60
#: The pause of a client whose request failed, in seconds.
PAUSE_SECONDS = 0.02


class Shoppers:
    """Clients that redeem one unit at a time, and repeat a request with the same key until it is accepted."""

    def __init__(self, clients: list[Client]) -> None:
        #: The accepted requests, each with the time of its first answer.
        self.accepted: list[tuple[float, str]] = []
        #: The tries that got no 2xx, with their time.
        self.refused: list[tuple[float, str]] = []
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(len(clients))
        self._running = [self._threads.submit(self._shop, n, one) for n, one in enumerate(clients)]

    def _shop(self, number: int, client: Client) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            request = self._until_accepted(client, f"shopper-{number}-{turn}", f"u{number}")
            self.accepted.append((time.monotonic(), request))
            self._read(client, request)

    def _until_accepted(self, client: Client, key: str, account: str) -> str:
        body = {"resource": "sneaker", "account": account, "amount": 1}
        while True:
            try:
                answer = client.http.post("/v1/redemptions", json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError as fault:
                problem = str(fault)
            else:
                if answer.status_code in {200, 202}:
                    return str(answer.json()["id"])
                assert answer.status_code == 503, answer.text
                problem = answer.text
            self.refused.append((time.monotonic(), problem))
            time.sleep(PAUSE_SECONDS)

    def _read(self, client: Client, request: str) -> None:
        """A request that was accepted is found, or the database is unavailable. It is never unknown."""
        answer = client.http.get(f"/v1/requests/{request}")
        assert answer.status_code in {200, 503}, answer.text

    def until_some(self) -> None:
        """Wait until more requests are accepted. Raises what went wrong in a client."""
        before = len(self.accepted)
        eventually(lambda: len(self.accepted) >= before + SOME or any(one.done() for one in self._running))
        for one in self._running:
            if one.done():
                one.result()

    def stop(self) -> None:
        """Stop. Raises what went wrong in a client."""
        self._over.set()
        for one in self._running:
            one.result()
        self._threads.shutdown()


def _fail_over(pair: Pair, shoppers: Shoppers) -> None:
    """Kill the primary under load, promote the standby, and let the old primary come back as its standby."""
    shoppers.until_some()
    pair.kill_primary()
    pair.promote()
    ready_at = time.monotonic()
    shoppers.until_some()
    recovered = min(at for at, _ in shoppers.accepted if at > ready_at) - ready_at
    assert recovered <= RECOVERY_SECONDS, f"accepted {recovered:.1f} s after the new primary was ready"

    pair.add_standby()
    returned_at = time.monotonic()
    shoppers.until_some()
    # The addresses name the returned server first. Nothing is sent to it.
    assert [problem for at, problem in shoppers.refused if at > returned_at] == []


def test_no_accepted_request_is_lost_when_the_primary_dies_three_times(
    settings: Settings, tmp_path: Path
) -> None:
    """
    Each 202 is there and decided. The first one comes soon after the new primary is ready.

    Each accepted request is found at once. A primary that comes back as a standby gets no writes.
    """
    with started_pair() as pair:
        migrations.migrate(pair.urls[0], PARTITIONS)
        pair.add_standby()
        environment = {
            **settings.environment(),
            "DATABASE_URL": pair.address("teller"),
            "TELLER_API_DATABASE_URL": pair.address("teller_api"),
            "TELLER_WORKER_DATABASE_URL": pair.address("teller_worker"),
            "TELLER_COURIER_DATABASE_URL": pair.address("teller_courier"),
        }
        with Stack(environment, tmp_path) as stack:
            stack.start_api()
            for part in ("worker", "worker", "courier"):
                stack.start(part)
            stack.until_shared()
            admin = stack.new_client("admin")
            opening = {"id": "sneaker", "kind": "stock", "available": STOCK}
            assert admin.post("/v1/resources", opening, 200, wait=20)["status"] == "completed"
            shoppers = Shoppers([stack.new_client("client", f"shop-{n}") for n in range(CLIENTS)])
            try:
                for _ in range(FAILOVERS):
                    _fail_over(pair, shoppers)
            finally:
                shoppers.stop()

            accepted = {request for _, request in shoppers.accepted}
            with stack.connect() as owner:

                def completed() -> set[str]:
                    rows = owner.execute("SELECT request_id FROM decisions WHERE status = 'completed'")
                    return {str(request) for (request,) in rows}

                eventually(lambda: accepted <= completed())
            assert len(accepted) == len(shoppers.accepted)
            stack.check_ledger()
            stack.stop()
