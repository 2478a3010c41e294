"""
One courier process: its parts, put together, from start to stop.

The composition root of `teller courier`. Woken through Redis, and looks by itself every second, so it works with
Redis away. Nothing is asked of PostgreSQL that cannot wait until it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from typing import TYPE_CHECKING, Final

import structlog

from processor.errors import DatabaseUnavailable
from processor.gateways import registry
from processor.storage import connections, migrations
from workers.courier.address_notices import AddressChanges
from workers.courier.code_messages import Codes
from workers.courier.database_thread import GATHER_SECONDS, Line
from workers.courier.deliveries import Webhooks
from workers.courier.gateway_calls import Calls
from workers.courier.mailer import post_for
from workers.courier.request_mails import Mails
from workers.courier.webhook_client import Poster
from workers.doorbell.listener import Listener
from workers.doorbell.ring import COURIER_CHANNEL, Doorbell

if TYPE_CHECKING:
    from processor.settings import Settings
    from processor.storage.connections import Connection
    from processor.storage.migrations import Installation

#: How often we look when nobody wakes us, in seconds.
POLL_SECONDS: Final = 1.0
#: How long a statement may take, in milliseconds.
STATEMENT_TIMEOUT_MS: Final = 5_000
#: The pause between two tries to reach PostgreSQL at the start, in seconds.
START_RETRY_SECONDS: Final = 0.5
#: How long a stop waits for what is under way, in seconds; the rest is abandoned, and due again when its lease ends.
END_SECONDS: Final = 3.0

log = structlog.get_logger(__name__)


def run_courier(settings: Settings) -> int:
    """
    Call, deliver and mail until SIGTERM or SIGINT, then end what is under way and return 0. Called on the main
    thread. Raises SchemaError when the database is not this Teller's, SettingsError when a gateway cannot be made.
    """

    async def run() -> None:
        stop = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
        await work(settings, stop)

    asyncio.run(run())
    return 0


async def work(settings: Settings, stop: asyncio.Event) -> None:
    """The courier, until `stop` is set. Raises SchemaError, SettingsError."""
    post = post_for(settings.smtp_url, settings.home)
    if await _installation(settings.courier_database_url, stop) is None:
        return
    lines = [Line(functools.partial(_connect, settings.courier_database_url)) for _ in range(6)]
    doorbell = Doorbell(settings.redis_url)
    gateways = registry.load(settings)
    poster = Poster(allow_private=settings.allow_private_webhooks)
    calls = Calls(
        gateways,
        lines[0],
        lines[1],
        call_tries=settings.gateway_tries,
        first_pause_seconds=settings.gateway_backoff_seconds,
        timeout_seconds=settings.gateway_timeout_seconds,
        ring=doorbell.notify_all,
    )
    parts: list[Part] = [
        calls,
        Webhooks(poster, lines[2], lines[3]),
        Mails(post, lines[4], lines[4]),
        AddressChanges(post, lines[4], lines[4]),
        Codes(settings, post, gateways, lines[5], lines[5]),
    ]
    listener = _listener(settings.redis_url, parts)
    listener.start()
    recorders = [asyncio.create_task(part.recorder.run()) for part in parts]
    lookers = [asyncio.create_task(_keep_looking(part, stop)) for part in parts]
    log.info("courier_started", gateways=sorted(gateways))
    try:
        await stop.wait()
    finally:
        log.info("courier_stopping")
        for part in parts:
            part.woken.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await asyncio.wait(lookers)  # not in the middle of a claim, whose calls nobody would make
                await asyncio.gather(*(part.finished() for part in parts))
        await _cancel([*lookers, *recorders])
        doorbell.close()
        listener.stop()
        for line in lines:
            line.close()
        await poster.close()
        for gateway in gateways.values():
            await gateway.close()
        log.info("courier_stopped")


Part = Calls | Webhooks | Mails | AddressChanges | Codes


async def _keep_looking(part: Part, stop: asyncio.Event) -> None:
    is_away = False
    while not stop.is_set():
        part.woken.clear()  # before we look, so that whatever is written after that wakes us
        try:
            seconds = await part.look()
        except DatabaseUnavailable as fault:
            if not is_away:
                log.warning("database_away", fault=str(fault))
            is_away, seconds = True, START_RETRY_SECONDS
        except Exception:
            log.exception("courier_fault")
            seconds = POLL_SECONDS
        else:
            is_away = False
        if seconds <= GATHER_SECONDS:
            await asyncio.sleep(GATHER_SECONDS)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(part.woken.wait(), min(seconds, POLL_SECONDS))


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _listener(redis_url: str, parts: list[Part]) -> Listener:
    loop = asyncio.get_running_loop()

    def wake(_payload: bytes = b"") -> None:
        for part in parts:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(part.woken.set)

    return Listener(redis_url, COURIER_CHANNEL, wake, wake)


async def _installation(url: str, stop: asyncio.Event) -> Installation | None:
    """Asked once, as soon as PostgreSQL is there; None when we were stopped before."""
    line = Line(functools.partial(_connect, url))
    said = False
    try:
        while not stop.is_set():
            try:
                return await line.run(_read_installation)
            except DatabaseUnavailable as fault:
                if not said:
                    said = True
                    log.warning("database_away", fault=str(fault))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), START_RETRY_SECONDS)
    finally:
        line.close()
    return None


def _read_installation(connection: Connection) -> Installation:
    with connections.faults():
        return migrations.read_installation(connection)


def _connect(url: str) -> Connection:
    return connections.connect(
        url, application_name="teller courier", statement_timeout_ms=STATEMENT_TIMEOUT_MS
    )
