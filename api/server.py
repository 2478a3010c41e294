"""
Granian serves the application.

The main process only supervises. A serving process has the application, so pools and threads start after the fork. A
serving process that dies is restarted, and it ends when its main process dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Final

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server

from api.app import create_app
from api.services import BODIES_AT_ONCE
from api.web import idle_connections
from api.web.long_poll import WAITERS_MAX
from api.web.turns import WAITING_MAX
from api.web.unread_bodies import DROPS_AT_ONCE, UnreadBodies
from processor.errors import DatabaseUnavailable, DatabaseUnsafe, TellerError
from processor.gateways.names import names as gateway_names
from processor.settings import Settings
from processor.storage import connections, migrations
from processor.tracing import spans

if TYPE_CHECKING:
    from collections.abc import Mapping
    from wsgiref.types import WSGIApplication

    from api.services import Services

#: Serving processes. One is enough for two cores, and keeps the groups of intake large.
WORKERS: Final = 1
#: Open connections, if the limit of file descriptors leaves room for them. A further client waits until one of them
#: is closed, even if all are idle. An idle connection, and one whose head is incomplete, needs memory and no thread.
CONNECTIONS_MAX: Final = 12_000
#: The file descriptors for everything else.
OTHER_FILES: Final = 124
#: Threads, started on demand. They read or drop bodies, and wait for a place, a turn or a decision.
THREADS: Final = 2 * BODIES_AT_ONCE + DROPS_AT_ONCE + WAITING_MAX + WAITERS_MAX
#: The buffer for a request's head. A head of twice that size is answered 431.
HEAD_BYTES_MAX: Final = 64 * 1024
#: Granian has one limit for a request's head and for an idle connection. `idle_connections` limits heads and bodies.
HEAD_TIMEOUT_MS: Final = round(1_000 * idle_connections.IDLE_SECONDS)
#: The time for requests in flight when the process stops.
STOP_TIMEOUT_SECONDS: Final = 4
#: The interval between two checks of the main process and of intake.
WATCH_INTERVAL_SECONDS: Final = 0.5
#: The time between the death of intake and the end of the process, for answers and a 500 of `/healthz`.
DYING_SECONDS: Final = 1.0
#: New objects before the garbage collector runs: those of some hundred requests.
GARBAGE_OBJECTS: Final = 20_000
#: The time for which a thread holds the interpreter while others wait for it. Python's default of 5 ms is no faster.
SWITCH_SECONDS: Final = 0.001
#: prctl(2): the signal that a process gets when its parent thread ends.
PR_SET_PDEATHSIG: Final = 1

log = structlog.get_logger()


class PortTaken(TellerError):
    """Another process listens on this port."""

    code = "port_taken"


def serve(settings: Settings) -> int:
    """
    Serve until SIGINT or SIGTERM. Returns the exit status.

    Raises PortTaken, SettingsError, SchemaError if it cannot start.
    """
    _check_port(settings)
    gateway_names(settings)
    _check_schema(settings)
    server = Server(
        "api",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=WORKERS,
        blocking_threads=THREADS,
        backpressure=_allow_connections(),  # Granian counts connections, not requests
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEAD_TIMEOUT_MS, max_buffer_size=HEAD_BYTES_MAX),
        websockets=False,
        log_level=LogLevels.error,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_TIMEOUT_SECONDS,
    )
    # By value, because some systems start new processes instead of a fork.
    environment = {**os.environ, **settings.environment()}
    load = functools.partial(load_application, environment, os.getpid())
    try:
        server.serve(target_loader=load, wrap_loader=False)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def load_application(environment: Mapping[str, str], parent: int) -> WSGIApplication:
    """Create the application in the main thread of a serving process, with its watchdogs."""
    _die_with(parent)
    spans.begin("api")
    Finalize(None, spans.end, exitpriority=1)  # a process that multiprocessing made runs no `atexit`
    application = create_app(Settings.from_environment(environment))
    services: Services = application.extensions["teller"]
    _stop_waiting_on_signals(services)
    idle_connections.watch(services.settings.port)
    threading.Thread(target=_watch, args=(services, parent), name="watch", daemon=True).start()
    # The objects up to here stay, so the collector need not visit them again, nor run often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    sys.setswitchinterval(SWITCH_SECONDS)
    return UnreadBodies(application)


def _allow_connections() -> int:
    """Raise the limit of file descriptors as far as needed and allowed. Returns the connections that it leaves."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS_MAX + OTHER_FILES
    if files < needed:
        files = min(needed, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return max(1, min(CONNECTIONS_MAX, files - OTHER_FILES))


def _check_port(settings: Settings) -> None:
    """Raise PortTaken if another process listens on the port, which Granian would share."""
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
    """
    Raise SchemaError for a database with another schema, DatabaseUnsafe for one whose settings break a promise.

    A database that is unavailable may return.
    """
    try:
        connection = connections.connect(settings.api_database_url, application_name="teller api")
        with contextlib.closing(connection), connections.faults():
            migrations.check_partitions(migrations.read_installation(connection), settings.partitions)
    except DatabaseUnsafe:
        raise
    except DatabaseUnavailable as fault:
        log.warning("database_unavailable", detail=str(fault))


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when the main process ends. On other systems `_watch` does."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _stop_waiting_on_signals(services: Services) -> None:
    """
    End all waits as soon as a signal stops the process, because the server waits for their answers.

    Granian installs its own handlers later. So a thread reads the bytes that Python's C handler writes.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        with sender, receiver:
            while receiver.recv(1)[0] not in (signal.SIGINT, signal.SIGTERM):
                pass
            services.waiters.end_all()

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
