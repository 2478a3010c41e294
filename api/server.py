"""
Serving: Granian in front of the application.

The main process only watches; a worker process holds the application, so pools and threads begin after the
fork. A worker that dies is started again, one whose main process dies ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server

from api.app import create_app
from api.web import idle_connections
from api.web.long_poll import WAITERS_MAX
from processor.errors import DatabaseUnavailable, TellerError
from processor.gateways import names as gateways
from processor.settings import Settings
from processor.storage import connections as database
from processor.storage import migrations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask

    from api.services import Services

#: Processes that serve. One is enough for two cores, and keeps the groups of intake large.
WORKERS: Final = 1
#: Connections open at once; whoever comes later waits until one of them is closed, also when all of them are idle.
#: Fewer than the file descriptors that a process usually may have, which are 1,024.
CONNECTIONS_MAX: Final = 900
#: One for each connection, since a body is waited for in one, and for those that wait for an answer that nobody waits
#: for any more. They are made when they are needed.
THREADS: Final = CONNECTIONS_MAX + WAITERS_MAX
#: The buffer for a request's head, in bytes: twice as much is never read, and answered 431.
HEAD_BYTES_MAX: Final = 64 * 1024
#: How long a client may take to send a request's head, in milliseconds.
HEAD_TIMEOUT_MS: Final = 10_000
#: Requests in flight have so long to be answered when the process is told to stop, in seconds.
STOP_TIMEOUT_SECONDS: Final = 4
#: How often a worker looks whether its main process and its intake live, in seconds.
WATCH_INTERVAL_SECONDS: Final = 0.5
#: How long a worker whose intake died goes on, to answer what it has at hand and `/healthz` with a 500, in seconds.
DYING_SECONDS: Final = 1.0
#: New objects after which the garbage collector looks at them: those of some hundred requests.
GARBAGE_OBJECTS: Final = 20_000
#: prctl(2): the signal a process gets when the thread that made it ends.
PR_SET_PDEATHSIG: Final = 1

log = structlog.get_logger()


class PortTaken(TellerError):
    """Somebody else listens where we should."""

    code = "port_taken"


def serve(settings: Settings) -> int:
    """
    Serve until SIGINT or SIGTERM; returns the exit status. Raises PortTaken, SettingsError, SchemaError when it
    cannot start.
    """
    _check_port(settings)
    gateways.names(settings)
    _check_schema(settings)
    server = Server(
        "api",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=WORKERS,
        blocking_threads=THREADS,
        backpressure=CONNECTIONS_MAX,  # Granian counts connections, not requests
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEAD_TIMEOUT_MS, max_buffer_size=HEAD_BYTES_MAX),
        websockets=False,
        log_level=LogLevels.error,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_TIMEOUT_SECONDS,
    )
    # By value, for where processes are not forked but made anew.
    environment = {**os.environ, **settings.environment()}
    load = functools.partial(load_application, environment, os.getpid())
    try:
        server.serve(target_loader=load, wrap_loader=False)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def load_application(environment: Mapping[str, str], parent: int) -> Flask:
    """The application, in the worker's main thread, with what ends it in time."""
    _die_with(parent)
    application = create_app(Settings.from_environment(environment))
    services: Services = application.extensions["teller"]
    _stop_waiting_on_signals(services)
    idle_connections.watch(services.settings.port)
    threading.Thread(target=_watch, args=(services, parent), name="watch", daemon=True).start()
    # What is here now stays: the collector need not walk it again, nor run after every few requests.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    return application


def _check_port(settings: Settings) -> None:
    """Granian shares a port with whoever else listens there; we would rather not start."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as fault:
            raise PortTaken(
                f"cannot listen on {settings.host}:{settings.port}: {fault.strerror} (TELLER_HOST, TELLER_PORT)"
            ) from fault


def _check_schema(settings: Settings) -> None:
    """A database that is away may come back; one of another schema will not change by itself."""
    try:
        connection = database.connect(settings.api_database_url, application_name="teller api")
        with contextlib.closing(connection), database.faults():
            migrations.check_partitions(migrations.read_installation(connection), settings.partitions)
    except DatabaseUnavailable as fault:
        log.warning("database_unavailable", detail=str(fault))


def _die_with(parent: int) -> None:
    """On Linux the kernel kills us when the main process is gone, whatever we are at; elsewhere `_watch` does."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _stop_waiting_on_signals(services: Services) -> None:
    """
    Answer everybody who waits as soon as the process is told to stop: the server waits for them. Its own
    handlers come later and replace ours, so we listen to what Python's C handler writes for any of them.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        with told, heard:
            while heard.recv(1)[0] not in (signal.SIGINT, signal.SIGTERM):
                pass
            services.waiters.stop()

    threading.Thread(target=listen, name="stop", daemon=True).start()


def _watch(services: Services, parent: int) -> None:
    """End the process when its main process is gone, or its intake has died."""
    while True:
        time.sleep(WATCH_INTERVAL_SECONDS)
        if os.getppid() != parent:
            os._exit(1)
        if not services.intake.alive():
            log.error("intake_died")
            time.sleep(DYING_SECONDS)
            os._exit(1)
