"""
Senders: each claims rows that are due, sends them, and records the results.

1. A claim commits a token and a lease before anything is sent.
2. A result is recorded if its row still has that token.
3. The leases of a courier that dies expire, and another courier sends the rows with the same message ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import structlog

from processor.errors import DatabaseUnavailable
from processor.outbox.tries import BEFORE_FIRST, CLIENTS_PER_LOOK, DueClient, Item, SendResult
from workers.courier import mailer as mails
from workers.courier.database_thread import in_thread
from workers.courier.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence
    from email.message import EmailMessage

    from processor.storage.connections import Connection
    from workers.courier.database_thread import DatabaseThread
    from workers.courier.mailer import Mailer

#: The longest pause between two looks, in seconds. Redis may be unavailable, so a sender does not depend on wake-ups.
POLL_SECONDS: Final = 1.0
#: The pause after a claim that found rows, in seconds: sends that end during it make room for one claim of several
#: rows.
GATHER_SECONDS: Final = 0.01
#: The pause if a row is due and cannot be claimed, in seconds: another courier has claimed it, or has all the room.
BLOCKED_SECONDS: Final = 0.05
#: The pause after PostgreSQL was unavailable, in seconds.
RETRY_SECONDS: Final = 0.5
#: The mails that are sent over one connection to the mail server.
MAILS_PER_CONNECTION: Final = 10
#: The connections of one kind of message at once: to the mail server, or to the gateway for text messages.
CONNECTIONS_MAX: Final = 4
#: The connections of one client among them.
CONNECTIONS_OF_CLIENT_MAX: Final = 2
#: The lease of the mails that are sent over one connection, in seconds.
MAIL_LEASE_SECONDS: Final = 120.0

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


class Sender(ABC, Generic[Result]):
    """
    One kind of work of the courier, made inside its event loop.

    `claims` and `records` are the threads for the two kinds of statements. They may be the same thread.
    """

    def __init__(self, claims: DatabaseThread, records: DatabaseThread) -> None:
        self._claims = claims
        self._records = records
        self._tasks: set[asyncio.Task[None]] = set()
        #: Work that repeats itself in the background ends.
        self._is_stopping = False
        #: Set when another look may find rows.
        self.woken = asyncio.Event()
        self.recorder: Recorder[Result] = Recorder(self._record, self._key, self._after_record)

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop` is set: when woken, when the next row is due, and at least every POLL_SECONDS."""
        is_unavailable = False
        while not stop.is_set():
            self.woken.clear()  # before the look: a row that is committed after it wakes this sender again
            try:
                seconds = await self._look()
            except DatabaseUnavailable as fault:
                if not is_unavailable:
                    log.warning("database_unavailable", fault=str(fault))
                is_unavailable, seconds = True, RETRY_SECONDS
            except Exception:
                log.exception("courier_fault")
                seconds = POLL_SECONDS
            else:
                is_unavailable = False
            if seconds <= GATHER_SECONDS:
                await asyncio.sleep(GATHER_SECONDS)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.woken.wait(), min(seconds, POLL_SECONDS))

    async def finish(self) -> None:
        """Wait until no send is under way and all results are recorded."""
        self._is_stopping = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.recorder.drained()

    def _start(self, sending: Coroutine[Any, Any, None]) -> None:
        """Run a send beside the look. `finish` waits for it."""
        task = asyncio.create_task(sending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @abstractmethod
    async def _look(self) -> float:
        """
        Claim rows that are due, and send them. Returns the seconds until the next row may be due.

        Raises DatabaseUnavailable.
        """

    @abstractmethod
    async def _record(self, results: list[Result]) -> None:
        """Write results. No two of them have the same key. Raises DatabaseUnavailable."""

    @abstractmethod
    def _key(self, result: Result) -> Hashable:
        """Return the key of the row that a result is about."""

    def _after_record(self, results: list[Result]) -> None:
        """Note that these results are recorded, or were dropped."""


class TurnSender(Sender[SendResult[Item]], Generic[Item]):
    """
    Sends messages over some connections at once, some messages over each. The clients take turns.

    One client has a part of the connections, so that another client's message begins at once.
    """

    def __init__(self, claims: DatabaseThread, records: DatabaseThread) -> None:
        super().__init__(claims, records)
        #: The last client of the look before.
        self._after = BEFORE_FIRST
        #: The seconds until the first message is due, among the clients since BEFORE_FIRST.
        self._soonest = math.inf
        #: The connections in use for each client.
        self._connections: Counter[str] = Counter()

    async def _look(self) -> float:
        if self._after == BEFORE_FIRST:
            self._soonest = math.inf
        waiting = await self._due(self._after)
        # Those without a connection first: each claim takes time.
        for client, seconds in sorted(waiting, key=lambda one: self._connections[one.client]):
            if seconds <= 0 and self._connections.total() >= CONNECTIONS_MAX:
                return math.inf  # the next look begins behind the last client, when a connection is free
            self._after = client
            if seconds > 0:
                self._soonest = min(self._soonest, seconds)
            elif self._connections[client] < CONNECTIONS_OF_CLIENT_MAX:
                await self._begin(client)
        if len(waiting) == CLIENTS_PER_LOOK:
            return GATHER_SECONDS
        self._after = BEFORE_FIRST
        return self._soonest

    async def _begin(self, client: str) -> None:
        claimed = await self._claim(client)
        self._soonest = min(self._soonest, GATHER_SECONDS if claimed else BLOCKED_SECONDS)
        if claimed:
            self._connections[client] += 1
            self._start(self._send(client, claimed))

    async def _send(self, client: str, claimed: list[Item]) -> None:
        try:
            for result in await self._send_all(claimed):
                self._log(result)
                self.recorder.add(result)
        finally:
            self._connections[client] -= 1
            self._connections += Counter()  # removes the clients that are at zero
            self.woken.set()

    @abstractmethod
    async def _due(self, after: str) -> list[DueClient]:
        """Read which clients have messages, behind one of them. Raises DatabaseUnavailable."""

    @abstractmethod
    async def _claim(self, client: str) -> list[Item]:
        """Claim messages of a client that are due, at most MAILS_PER_CONNECTION. Raises DatabaseUnavailable."""

    @abstractmethod
    async def _send_all(self, claimed: list[Item]) -> list[SendResult[Item]]:
        """Send messages once. Returns the results."""

    @abstractmethod
    def _log(self, result: SendResult[Item]) -> None:
        """Log the result of a message."""

    def _key(self, result: SendResult[Item]) -> Hashable:
        return result.item.id


@dataclass(frozen=True, slots=True)
class MailKind(Generic[Item]):
    """The functions that differ between the senders of mails."""

    #: The first part of the names of log events.
    name: str
    due: Callable[[Connection, str], list[DueClient]]
    claim: Callable[[Connection, str, int, float], list[Item]]
    record: Callable[[Connection, Sequence[SendResult[Item]]], None]
    mail_for: Callable[[Item, str], EmailMessage]
    pauses_seconds: Sequence[float]
    log_fields: Callable[[Item], dict[str, Any]]


class MailSender(TurnSender[Item]):
    """
    Sends mails of one kind.

    It sends on threads of its own, so a slow mail server delays only mails.
    """

    def __init__(
        self, mailer: Mailer, kind: MailKind[Item], claims: DatabaseThread, records: DatabaseThread
    ) -> None:
        super().__init__(claims, records)
        self._mailer = mailer
        self._kind = kind

    async def _look(self) -> float:
        seconds = self._mailer.outage.seconds_left()
        return seconds if seconds > 0 else await super()._look()

    async def _due(self, after: str) -> list[DueClient]:
        return await self._claims.run(self._kind.due, after)

    async def _claim(self, client: str) -> list[Item]:
        return await self._claims.run(self._kind.claim, client, MAILS_PER_CONNECTION, MAIL_LEASE_SECONDS)

    async def _send_all(self, claimed: list[Item]) -> list[SendResult[Item]]:
        kind = self._kind
        return await in_thread(
            lambda: mails.send_all(self._mailer, claimed, kind.mail_for, kind.pauses_seconds)
        )

    def _log(self, result: SendResult[Item]) -> None:
        log_result(self._kind.name, result, **self._kind.log_fields(result.item))

    async def _record(self, results: list[SendResult[Item]]) -> None:
        await self._records.run(self._kind.record, results)


def log_result(name: str, result: SendResult[Any], **fields: Any) -> None:
    """Log one try to send a message to a person."""
    log.info(
        f"{name}_sent" if result.is_sent else f"{name}_not_sent",
        **fields,
        tries=result.item.tries,
        error=result.error,
        again_in_s=result.pause_seconds,
    )
