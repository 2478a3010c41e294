"""
The load of a run: an admin and clients on their own threads, and clients that ask around each fault.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final

from tests.faults.clients import ANSWER_SECONDS, Admin, Client, Http

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.history import Asked, Command
    from tests.faults.system import Caller

#: The clients that send exchanges over many partitions.
TRADERS: Final = 4


class Load:
    """The clients of a run, each on its own thread, from `start` to `stop`."""

    def __init__(self, ports: Sequence[int], client: Caller, admin: Caller, seed: int, people: int) -> None:
        self._stopping = threading.Event()
        self.admin = Admin(0, seed, Http(ports, admin), self._stopping)
        self.clients = [
            Client(number, seed, Http(ports, client), self._stopping) for number in range(1, people + 1)
        ]
        #: Asks for one of each resource, after each fault.
        self.prober = Client(people + 1, seed, Http(ports, client), threading.Event())
        #: Clients that ask one API while a server is unavailable, by port.
        self._outage_clients = {
            port: Client(people + 2 + number, seed, Http([port], client), threading.Event())
            for number, port in enumerate(ports)
        }
        #: Send exchanges over many partitions, during the fault `crossing` alone.
        first = people + 2 + len(ports)
        self.traders = [
            Client(first + number, seed, Http(ports, client), threading.Event()) for number in range(TRADERS)
        ]
        self.standstill = self.admin.standstill
        for one in (*self.clients, self.prober, *self._outage_clients.values(), *self.traders):
            one.standstill = self.standstill
        self._threads: list[threading.Thread] = []

    def outage_client(self, port: int) -> Client:
        """Return the client that asks only this API."""
        return self._outage_clients[port]

    def start(self) -> None:
        """Start the clients."""
        for one in (self.admin, *self.clients):
            thread = threading.Thread(target=one.run, name=f"client-{one.number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, seconds: float, meanwhile: Callable[[float], None]) -> None:
        """Stop sending new requests, and retry open ones for up to `seconds`. `meanwhile` lets time pass."""
        self._stopping.set()
        end = time.monotonic() + seconds
        for one in (self.admin, *self.clients):
            one.deadline = end
        while (
            any(thread.is_alive() for thread in self._threads) and time.monotonic() < end + 2 * ANSWER_SECONDS
        ):
            meanwhile(0.05)
        for one in (self.admin, *self.clients, self.prober):
            with contextlib.suppress(OSError):
                one.http.hang_up()

    def asked(self) -> list[Asked]:
        """Return the requests of all clients."""
        everyone = (self.admin, *self.clients, self.prober, *self._outage_clients.values(), *self.traders)
        return [asked for one in everyone for asked in list(one.asked)]

    def commands(self) -> list[Command]:
        """Return the captures and releases that all clients sent."""
        return [command for one in (self.admin, *self.clients) for command in one.commands]

    def wrong(self) -> list[str]:
        """Return the answers that break a promise."""
        return [
            wrong for one in (self.admin, *self.clients, self.prober, *self.traders) for wrong in one.wrong
        ]

    @property
    def answered(self) -> int:
        """The number of requests accepted so far."""
        return sum(one.answered for one in (self.admin, *self.clients, self.prober))
