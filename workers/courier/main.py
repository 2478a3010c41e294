"""
One courier process, from start to stop: the composition root of `teller courier`.

Redis wakes its senders, and each also looks every second, so the courier works while Redis is unavailable. It starts
while PostgreSQL is unavailable, and waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvloop

from processor.errors import DatabaseUnavailable, DatabaseUnsafe
from processor.gateways import registry
from processor.gateways.names import names
from processor.storage import connections, migrations
from processor.tracing import spans
from workers.collector import rest_collector
from workers.courier.address_notices import ADDRESS_NOTICES
from workers.courier.code_messages import CodeMessages
from workers.courier.database_thread import DatabaseThread
from workers.courier.deliveries import WebhookDeliveries
from workers.courier.files import allow_connections
from workers.courier.gateway_calls import GatewayCalls
from workers.courier.mailer import mailer_for
from workers.courier.request_mails import request_mails
from workers.courier.retention import keep
from workers.courier.sender import RETRY_SECONDS, MailSender
from workers.courier.webhook_client import WebhookClient
from workers.doorbell.listener import Listener
from workers.doorbell.names import Names
from workers.doorbell.ring import Doorbell
from workers.metrics import CourierMetrics, keep_in_files, served

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from processor.gateways.protocol import Gateway
    from processor.outbox.tries import SendResult
    from processor.settings import Settings
    from processor.storage.connections import Connection
    from processor.storage.migrations import Installation
    from workers.courier.sender import Sender
    from workers.metrics import Channel

#: The longest time of a statement, in milliseconds.
STATEMENT_TIMEOUT_MS: Final = 5_000
#: The time for which a stop waits for the sends under way, in seconds. The others are due again when their leases
#: expire.
END_SECONDS: Final = 3.0
#: Connections to PostgreSQL: two each for gateway calls, deliveries and mails, one each for codes, ended webhooks
#: and retention.
DATABASE_THREADS: Final = 9

log = structlog.get_logger(__name__)


def run_courier(settings: Settings) -> int:
    """
    Send until SIGTERM or SIGINT, then finish the sends under way. Returns 0. Called on the main thread.

    Raises SchemaError if the schema does not match, and SettingsError if a gateway cannot be made. Raises
    DatabaseUnsafe if a setting of the server breaks a promise, and ServerError if the port of the metrics is taken.
    """

    async def run() -> None:
        stop = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
        await work(settings, stop, metrics)

    rest_collector()
    allow_connections(settings)
    keep_in_files(settings)
    metrics = CourierMetrics(names(settings))
    spans.begin("courier")
    with served(settings, metrics.registry), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    spans.end()
    return 0


async def work(settings: Settings, stop: asyncio.Event, metrics: CourierMetrics) -> None:
    """Run the courier until `stop` is set. Raises SchemaError, DatabaseUnsafe, SettingsError."""
    mailer = mailer_for(settings)
    installation = await _installation(settings.courier_database_url, stop)
    if installation is None:
        return
    names = Names(installation.id)
    connect = functools.partial(_connect, settings.courier_database_url)
    threads = [DatabaseThread(connect) for _ in range(DATABASE_THREADS)]
    doorbell = Doorbell(settings.redis_url, lambda: names)
    gateways = registry.load(settings)
    client = WebhookClient(allow_private=settings.allow_private_webhooks)
    calls = _gateway_calls(settings, gateways, threads[0:2], doorbell)
    messages: dict[Channel, Sender[SendResult[Any]]] = {
        "webhook": WebhookDeliveries(client, threads[2], threads[3], threads[6]),
        "mail": MailSender(mailer, request_mails(settings.mailbox_limit), threads[4], threads[7]),
        "notice": MailSender(mailer, ADDRESS_NOTICES, threads[4], threads[7]),
        "code": CodeMessages(settings, mailer, gateways, threads[5], threads[5]),
    }
    senders: list[Sender[Any]] = [calls, *messages.values()]
    _count(metrics, calls, messages)
    listener = _listener(settings.redis_url, names, senders)
    listener.start()
    recorders = [asyncio.create_task(sender.recorder.run()) for sender in senders]
    looks = [asyncio.create_task(sender.run(stop)) for sender in senders]
    looks.append(asyncio.create_task(keep(threads[8], settings.keep_deliveries_days, stop)))
    log.info("courier_started", gateways=sorted(gateways))
    try:
        await stop.wait()
    finally:
        log.info("courier_stopping")
        for sender in senders:
            sender.woken.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await asyncio.wait(looks)  # a look that is cancelled after its claim would send nothing of it
                await asyncio.gather(*(sender.finish() for sender in senders))
        await _cancel([*looks, *recorders])
        doorbell.close()
        listener.stop()
        for thread in threads:
            thread.close()
        await client.close()
        for gateway in gateways.values():
            await gateway.close()
        log.info("courier_stopped")


def _count(
    metrics: CourierMetrics, calls: GatewayCalls, messages: Mapping[Channel, Sender[SendResult[Any]]]
) -> None:
    """Count the results of all senders."""
    calls.recorder.on_result = lambda one: metrics.count_call(one.gateway, one.result.answer.outcome)
    for channel, sender in messages.items():
        sender.recorder.on_result = functools.partial(_count_delivery, metrics, channel)


def _count_delivery(metrics: CourierMetrics, channel: Channel, result: SendResult[Any]) -> None:
    metrics.count_delivery(channel, result.status)
    if result.concern is not None:
        metrics.count_mail_fault(result.concern)


def _gateway_calls(
    settings: Settings, gateways: Mapping[str, Gateway], threads: Sequence[DatabaseThread], doorbell: Doorbell
) -> GatewayCalls:
    claims, records = threads
    return GatewayCalls(
        gateways,
        claims,
        records,
        calls_at_once=settings.calls_at_once,
        call_tries=settings.gateway_tries,
        first_pause_seconds=settings.gateway_backoff_seconds,
        timeout_seconds=settings.gateway_timeout_seconds,
        notify=doorbell.notify_all,
    )


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _listener(redis_url: str, names: Names, senders: list[Sender[Any]]) -> Listener:
    loop = asyncio.get_running_loop()

    def wake(_payload: bytes = b"") -> None:
        for sender in senders:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(sender.woken.set)

    return Listener(redis_url, lambda: names, "couriers", wake, wake)


async def _installation(url: str, stop: asyncio.Event) -> Installation | None:
    """
    Read the installation when PostgreSQL is available. Returns None if `stop` is set before.

    Raises SchemaError, DatabaseUnsafe.
    """
    thread = DatabaseThread(functools.partial(_connect, url))
    is_unavailable = False
    try:
        while not stop.is_set():
            try:
                return await thread.run(_read_installation)
            except DatabaseUnsafe:
                raise
            except DatabaseUnavailable as fault:
                if not is_unavailable:
                    is_unavailable = True
                    log.warning("database_unavailable", fault=str(fault))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_SECONDS)
    finally:
        thread.close()
    return None


def _read_installation(connection: Connection) -> Installation:
    with connections.faults():
        return migrations.read_installation(connection)


def _connect(url: str) -> Connection:
    return connections.connect(
        url, application_name="teller courier", statement_timeout_ms=STATEMENT_TIMEOUT_MS
    )
