"""
`teller up`: start the whole system in the foreground, supervise it, and stop it in order.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import redis
import structlog

from processor import log
from processor.clients import keys as api_keys
from processor.cluster import ownership
from processor.errors import DatabaseUnavailable, ServerError
from processor.reading import keys as key_queries
from processor.settings import WORKERS_MAX, Settings
from processor.storage import connections, migrations
from teller.embedded import home as homes
from teller.embedded import keys as kept_keys
from teller.embedded.servers import serve
from teller.printing import Command, as_json, show
from teller.root import WaitedTooLong
from teller.up.metrics import metrics_directory
from teller.up.signals import Signals, Stopped
from teller.up.supervisor import Process, Supervisor
from workers.doorbell import clients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processor.storage.connections import Connection
    from teller.up.supervisor import Kept

#: The first keys of an installation; each name is also the role.
FIRST_KEYS: Final = ("admin", "client")
#: Wait for a port that the API of a killed Teller still holds, in seconds.
PORT_SECONDS: Final = 1.0
#: Timeout until everything serves, in seconds.
READY_SECONDS: Final = 60.0
#: Pause between two checks whether everything serves, in seconds.
READY_PAUSE_SECONDS: Final = 0.05
#: Timeout of /readyz, in seconds.
PROBE_SECONDS: Final = 2.0
#: Timeout of Redis for its version, in seconds.
REDIS_SECONDS: Final = 2.0
#: The oldest Redis with the commands of the queues; Valkey 8 reports itself as Redis 7.
OLDEST_REDIS: Final = 7
#: Timeout of a query for the workers, in milliseconds; supervision pauses meanwhile.
STATEMENT_TIMEOUT_MS: Final = 1_000
#: Wait for requests in flight before the workers stop, in seconds.
API_STOP_SECONDS: Final = 3.0
#: Wait for workers and courier, in seconds. A kill after it loses nothing.
STOP_SECONDS: Final = 4.0
#: Address of the API for checks when it listens on all addresses.
ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is looked up, not bound

logger = structlog.get_logger(__name__)


class StartFailed(ServerError):
    """A part of the system does not start."""


@click.command(cls=Command)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    metavar="N",
    help="The port to listen on, in place of TELLER_PORT (8000).",
)
@click.option(
    "--workers",
    type=click.IntRange(1, WORKERS_MAX),
    metavar="N",
    help="Number of worker processes, in place of TELLER_WORKERS (one for each core, at most 4).",
)
def up(port: int | None, workers: int | None) -> int:
    """
    Run the whole system in the foreground, until Ctrl-C.

    Starts an embedded PostgreSQL if DATABASE_URL is unset, and an embedded Valkey if REDIS_URL is unset. Migrates the
    database, starts API, workers and courier, and prints a line when all serve. A process that dies is restarted.
    The data is in TELLER_HOME.

    The first start makes two API keys, in TELLER_HOME/keys.env:

    \b
    . /var/lib/teller/keys.env
    curl -H "Authorization: Bearer $TELLER_ADMIN_KEY" http://127.0.0.1:8000/v1/resources

    Ctrl-C stops everything in order. A second one stops at once. No accepted request is lost by either.
    """  # noqa: D301 - \b is how click is told to leave lines as they are
    log.configure()
    ours = {"TELLER_PORT": port, "TELLER_WORKERS": workers}
    given = {name: str(value) for name, value in ours.items() if value is not None}
    settings = Settings.from_environment({**os.environ, **given})
    _refuse_taken_port(settings)
    if log.is_quiet() and not as_json():
        click.echo("starting PostgreSQL, Valkey, API, workers and courier", err=True)
    signals = Signals()
    try:
        with contextlib.ExitStack() as running:
            with signals.interruptible():
                servers = running.enter_context(serve(settings, is_up=True))
                _prepare(servers.settings)
            return _run(servers.settings, servers.started, signals)
    except Stopped:
        return 0


def _refuse_taken_port(settings: Settings) -> None:
    """
    Refuse a port that is taken, before anything starts. If another Teller has the home, that error comes first.
    """
    lock = settings.home / "lock"
    if (settings.embeds_postgres or settings.embeds_valkey) and lock.exists():
        descriptor = homes.try_lock(lock)
        if descriptor is None:
            return
        os.close(descriptor)
    end = time.monotonic() + PORT_SECONDS
    while (fault := _listening_fault(settings.host, settings.port)) is not None:
        if time.monotonic() > end:
            raise StartFailed(
                f"cannot listen on {settings.host}:{settings.port}: {fault.strerror}"
                " (TELLER_HOST, --port or TELLER_PORT)"
            )
        time.sleep(READY_PAUSE_SECONDS)


def _listening_fault(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as fault:
            return fault
    return None


# ---------------------------------------------------------------- before the processes start


def _prepare(settings: Settings) -> None:
    """Check Redis, migrate, make the first keys, and remove workers of a killed Teller. Raises TellerError."""
    _check_redis(settings.redis_url)
    done = migrations.migrate(
        settings.database_url,
        settings.partitions,
        lambda name: logger.info("migration_applied", migration=name),
        lambda line: logger.info("database_repaired", detail=line),
    )
    logger.info("migrated", detail=done)
    with contextlib.closing(_connect(settings)) as connection:
        if _make_first_keys(connection, settings):
            names = " and ".join(_variable(name) for name in FIRST_KEYS)
            click.echo(f"made two keys, {names}: they are kept in {kept_keys.path(settings.home)}", err=True)
        _, living = ownership.presence(connection, socket.gethostname())
        ownership.forget(connection, socket.gethostname(), [pid for pid in living if not _runs(pid)])


def _check_redis(url: str) -> None:
    """Check the version of Redis. An unavailable Redis is no error: it may return, and until then the sweep works."""
    try:
        with clients.connect(url, timeout_seconds=REDIS_SECONDS) as client:
            version = str(client.info("server")["redis_version"])
    except redis.exceptions.NoPermissionError:
        return  # the version matters to a server that is too old for rights
    except (redis.AuthenticationError, redis.ResponseError) as fault:
        raise ServerError(f"REDIS_URL: {fault}") from fault
    except (redis.RedisError, OSError) as fault:
        logger.warning("redis_unavailable", fault=str(fault))
        return
    if int(version.partition(".")[0]) < OLDEST_REDIS:
        raise ServerError(
            f"REDIS_URL: Redis {version} is too old, Teller needs Redis 7 or Valkey 8, or newer"
        )


def _make_first_keys(connection: Connection, settings: Settings) -> bool:
    """
    Make the first keys. Returns False if there are keys already.

    The file is written inside the transaction: a crash leaves no key in the database, and the next start makes them.
    """
    with connections.faults(), connection.transaction():
        if key_queries.list_keys(connection, limit=1).rows:
            return False
        made = {
            _variable(name): api_keys.create_key(connection, name, name, actor="teller up")
            for name in FIRST_KEYS
        }
        kept_keys.keep(settings.home, {variable: created.key for variable, created in made.items()})
    return True


def _variable(name: str) -> str:
    return f"TELLER_{name.upper()}_KEY"


def _runs(pid: int) -> bool:
    """Return whether a process of this host runs. A zombie does not run."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # a process of another account, or a system without /proc
        return True
    return state != "Z"


def _connect(settings: Settings) -> Connection:
    return connections.connect(
        settings.database_url, application_name="teller up", statement_timeout_ms=STATEMENT_TIMEOUT_MS
    )


# ---------------------------------------------------------------- start, watch, stop


def _run(settings: Settings, servers: Sequence[Kept], signals: Signals) -> int:
    with metrics_directory() as metrics:
        return _supervise(settings, servers, signals, metrics)


def _supervise(settings: Settings, servers: Sequence[Kept], signals: Signals, metrics: Path) -> int:
    """Run the processes. Workers and courier keep their metrics in a directory that the API reads."""

    def process(part: str, name: str) -> Process:
        changed = {"TELLER_METRICS_PORT": "", "TELLER_METRICS_FILE": str(metrics / name.replace(" ", "-"))}
        return Process(name, [part], settings.environment() | changed)

    api = process("api", "api")
    workers = [process("worker", f"worker {i + 1}") for i in range(settings.workers)]
    courier = process("courier", "courier")
    processes = [api, *workers, courier]

    def forget(died: Kept, pid: int) -> None:
        if died in workers:
            with (
                contextlib.suppress(DatabaseUnavailable),
                contextlib.closing(_connect(settings)) as connection,
            ):
                ownership.forget(connection, socket.gethostname(), [pid])

    try:
        for one in processes:
            one.start()
        supervisor = Supervisor([*processes, *reversed(servers)], signals, forget)
        if _becomes_ready(settings, processes, workers, supervisor, signals):
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            url = f"http://{host}:{settings.port}{settings.url_prefix}"
            show({"ready": url}, lambda: f"teller is ready: {url}")
            _show_places(settings, url)
            supervisor.run()
        logger.info("stopping")
    finally:
        _stop(api, [*workers, courier], signals)
    return 0


def _show_places(settings: Settings, url: str) -> None:
    """Print where a person goes on: console, documentation, lab, keys."""
    places = [
        ("console", f"{url}/admin"),
        ("documentation", f"{url}/docs"),
        *([("race lab", f"{url}/lab")] if settings.lab else []),
    ]
    if (file := kept_keys.path(settings.home)).exists():
        places.append(("keys", f"{file} (TELLER_ADMIN_KEY signs in at the console)"))
    for name, place in () if as_json() else places:
        click.echo(f"  {name:<14} {place}", err=True)
    if log.is_quiet() and not as_json():
        click.echo(
            "  Only warnings follow; TELLER_LOG_LEVEL=info shows every request. Ctrl-C stops.", err=True
        )


def _becomes_ready(
    settings: Settings,
    processes: Sequence[Process],
    workers: Sequence[Process],
    supervisor: Supervisor,
    signals: Signals,
) -> bool:
    """
    Wait until everything serves. Returns False if a stop was requested before.

    Raises StartFailed when a process ended by itself, after its own error line, and WaitedTooLong.
    """
    end = time.monotonic() + READY_SECONDS
    while not signals.stopping:
        for process in processes:
            if process.status is not None and process.status > 0:
                raise StartFailed(f"teller {process.name} ended with status {process.status}")
        supervisor.mend()
        missing = _missing(settings, workers)
        if missing is None:
            return True
        if time.monotonic() > end:
            raise WaitedTooLong(f"not ready after {READY_SECONDS:.0f} s: {missing}")
        signals.wait(READY_PAUSE_SECONDS)
    return False


def _missing(settings: Settings, workers: Sequence[Process]) -> str | None:
    """Name a part that does not serve yet. Returns None if everything serves."""
    try:
        with contextlib.closing(_connect(settings)) as owner:
            free, living = ownership.presence(owner, socket.gethostname())
    except DatabaseUnavailable as fault:
        return f"PostgreSQL: {fault}"
    if not {process.pid for process in workers} <= living:
        return "not all workers have started"
    if free:
        return f"{free} partitions have no worker"
    host = ANYWHERE.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/readyz")
        ready = connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return "the API does not answer"
    finally:
        connection.close()
    return None if ready else "the API is not ready"


def _stop(api: Process, others: Sequence[Process], signals: Signals) -> None:
    """
    Stop the API first, then workers and courier. A process that takes too long is killed.
    """
    api.ask_to_stop()
    _await_end([api], API_STOP_SECONDS, signals)
    for process in others:
        process.ask_to_stop()
    _await_end([api, *others], STOP_SECONDS, signals)
    for process in (api, *others):
        if process.alive():
            logger.warning("process_killed", process=process.name, pid=process.pid)
        process.end()


def _await_end(processes: Sequence[Process], seconds: float, signals: Signals) -> None:
    end = time.monotonic() + seconds
    while any(process.alive() for process in processes) and time.monotonic() < end:
        signals.wait_for_child(end - time.monotonic())
