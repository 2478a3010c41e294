"""
A Teller with a real courier and a real outside, whose batches the test drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from processor.outbox import deliveries as outbox
from tests.stack import TELLER, Process
from tests.waiting import TIMEOUT_SECONDS, Deadline
from workers.courier.main import work
from workers.metrics import CourierMetrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from processor.settings import Settings
    from tests.flow.courier.outside import Outside
    from tests.store.store import Store

#: Secrets of webhooks in the tests.
SECRET = b"s" * 32


class RunningCourier:
    """A courier in this process, on a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """
        Ask it to stop, and wait for its end. Raises its fault.
        """
        while self._stop is None and self._thread.is_alive():
            time.sleep(0.01)
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive(), "the courier does not end"
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        async def run() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await work(self._settings, self._stop, CourierMetrics(()))

        try:
            asyncio.run(run())
        except BaseException as fault:  # noqa: BLE001 - raised again by `stop`
            self._fault = fault


def _environment(settings: Settings) -> dict[str, str]:
    """
    Return the variables that make these settings in a courier process.
    """
    return {
        **settings.environment(),
        "TELLER_GATEWAYS": ",".join(f"{name}={url}" for name, url in settings.gateways.items()),
        "TELLER_GATEWAY_TRIES": str(settings.gateway_tries),
        "TELLER_GATEWAY_BACKOFF_SECONDS": str(settings.gateway_backoff_seconds),
        "TELLER_GATEWAY_TIMEOUT_SECONDS": str(settings.gateway_timeout_seconds),
        "TELLER_ALLOW_PRIVATE_WEBHOOKS": "1",
        "TELLER_SMTP_URL": settings.smtp_url or "",
        "TELLER_MAIL_FROM": settings.mail_from,
    }


@dataclasses.dataclass
class Till:
    """A store with a balance behind a gateway, and with couriers."""

    store: Store
    settings: Settings
    logs: Path
    outside: Outside
    running: list[RunningCourier] = dataclasses.field(default_factory=list)
    processes: list[Process] = dataclasses.field(default_factory=list)

    # ------------------------------------------------------------ couriers

    def start(self, **changes: Any) -> RunningCourier:
        """A courier, with some settings changed."""
        self.running.append(RunningCourier(dataclasses.replace(self.settings, **changes)))
        return self.running[-1]

    def start_process(self, **changes: Any) -> Process:
        """
        Start a courier as a process, with some settings changed.
        """
        settings = dataclasses.replace(self.settings, **changes)
        log = self.logs / f"courier-{len(self.processes)}.log"
        process = Process("courier", [*TELLER, "courier"], _environment(settings), log)
        self.processes.append(process)
        process.start()
        return process

    def close(self) -> None:
        """
        End all couriers.
        """
        for process in self.processes:
            process.kill()
        for courier in self.running:
            courier.stop()

    # ------------------------------------------------------------ money

    def withdraw(
        self,
        count: int = 1,
        *,
        account: str = "ada",
        gateway: str = "bank",
        amount: int = 5,
        client: str = "shop",
    ) -> list[uuid.UUID]:
        """Withdrawals that are held and wait for the gateway."""
        resource = f"till-{gateway}"
        if not self.store.one("SELECT count(*) FROM resources WHERE id = %s", resource):
            self.store.open(resource, "balance", available=100_000, gateway=gateway, unit="EUR", decimals=2)
        asked = self.store.accept(
            *(
                self.store.asks(
                    "withdrawal", resource, account, amount, client=client, details={"destination": "IBAN 1"}
                )
                for _ in range(count)
            )
        )
        self.store.drain(resource)
        return asked

    def drain(self, gateway: str = "bank") -> None:
        """
        Apply the inbox of the resource, as a worker does.
        """
        self.store.drain(f"till-{gateway}")

    def until(
        self, asked: Sequence[uuid.UUID], gateway: str = "bank", within: float = TIMEOUT_SECONDS
    ) -> list[str | None]:
        """
        Drain until none of these requests is processing, within a promised time. Returns their outcomes.
        """

        def settled() -> bool:
            self.drain(gateway)
            return all(state and state.status != "processing" for state in self.store.decided(asked))

        Deadline(within).until(settled)
        return self.store.statuses(asked)

    def balance(self, gateway: str = "bank") -> tuple[int, int]:
        """Available and held."""
        [row] = self.store.owner.execute(
            "SELECT available, held FROM resources WHERE id = %s", (f"till-{gateway}",)
        ).fetchall()
        return row

    def lapse(self) -> None:
        """Time passes: leases run out, and whatever waits is due."""
        self.store.owner.execute(
            "UPDATE effects SET due_at = now(), leased_until = CASE WHEN token IS NOT NULL THEN now() END"
            " WHERE due_at IS NOT NULL"
        )
        self.store.owner.execute("UPDATE deliveries SET due_at = now() WHERE due_at IS NOT NULL")

    def attempts(self) -> list[tuple[str | None, int | None]]:
        """Outcome and status of each call, oldest first."""
        return self.store.owner.execute("SELECT outcome, status FROM attempts ORDER BY started_at").fetchall()

    # ------------------------------------------------------------ notifications

    def webhook(self, url: str, *, events: list[str] | None = None, secret: bytes = SECRET) -> uuid.UUID:
        """
        Register a webhook of the client. Returns its id.
        """
        name = uuid.uuid4()
        self.store.owner.execute(
            "INSERT INTO webhooks (id, client_id, url, events, secret) VALUES (%s, 'shop', %s, %s, %s)",
            (name, url, events, secret),
        )
        return name

    def email(self, account: str, address: str) -> None:
        """How to reach an account."""
        self.store.owner.execute(
            "INSERT INTO accounts (client_id, name, email) VALUES ('shop', %s, %s)", (account, address)
        )

    def redeem(
        self, count: int = 1, *, account: str = "ada", metadata: dict[str, Any] | None = None
    ) -> list[uuid.UUID]:
        """
        Make decided redemptions, each with its notifications. Returns their ids.
        """
        if not self.store.one("SELECT count(*) FROM resources WHERE id = 'coupon'"):
            self.store.open("coupon", "coupon", available=1_000_000)
            self.store.owner.execute("DELETE FROM deliveries; DELETE FROM fanouts")
        asked = self.store.accept(
            *(self.store.redeems("coupon", account)._replace(metadata=metadata) for _ in range(count))
        )
        self.store.drain("coupon")
        outbox.expand(self.store.owner)
        return asked

    def deliveries(self, webhook: uuid.UUID | None = None) -> Counter[str]:
        """How many deliveries there are of each status."""
        rows = self.store.owner.execute(
            "SELECT status, count(*) FROM deliveries WHERE %(webhook)s::uuid IS NULL OR webhook_id = %(webhook)s"
            " GROUP BY 1",
            {"webhook": webhook},
        )
        return Counter(dict(rows.fetchall()))
