"""
The way of a short command to its database: the servers of TELLER_HOME, running or not, or those of the URLs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import socket
from typing import TYPE_CHECKING, Final
from uuid import UUID

from processor import log
from processor.clients.keys import Caller
from processor.errors import DatabaseUnavailable, SchemaError
from processor.intake.intake import Intake
from processor.settings import Settings
from processor.storage import connections, migrations
from teller.embedded import postgres, valkey
from teller.embedded.servers import serve
from workers.doorbell.names import Names
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from processor.storage.connections import Connection

#: The client and the key of the command line's requests. No API key belongs to them.
CLIENT: Final = "command-line"
KEY_ID: Final = UUID(int=0)
#: Statement timeout of a short command, in milliseconds; after it the exit status is 3.
STATEMENT_TIMEOUT_MS: Final = 30_000


@contextlib.contextmanager
def reached(
    *, statement_timeout_ms: int | None = STATEMENT_TIMEOUT_MS
) -> Iterator[tuple[Connection, Settings]]:
    """
    Connect as the owner to a migrated database. Returns the connection and complete settings.

    Raises TellerError with one line.
    """
    log.configure(logging.WARNING)
    settings = Settings.from_environment(os.environ)
    if settings.embeds_postgres and not postgres.is_made(settings.home):
        raise SchemaError(
            f"there is no Teller in {settings.home} yet: run `teller up`, or set TELLER_HOME or DATABASE_URL"
        )
    with (
        serve(settings, needs_valkey=False) as servers,
        contextlib.closing(
            connections.connect(
                servers.settings.database_url,
                application_name="teller command",
                statement_timeout_ms=statement_timeout_ms,
            )
        ) as connection,
        connections.faults(),
    ):
        migrations.read_installation(connection)
        yield connection, servers.settings


@contextlib.contextmanager
def temporary_intake(connection: Connection, settings: Settings) -> Iterator[Intake]:
    """
    Return an intake for one command, which notifies the workers. It stops at the end.
    """
    installation = migrations.read_installation(connection)
    intake = Intake(
        lambda: connections.connect(settings.database_url, application_name="teller command"),
        installation.partitions,
        settings.backlog_limit,
        lambda accepted: _notify(settings, Names(installation.id), accepted),
    )
    intake.start()
    try:
        yield intake
    finally:
        intake.stop()


def operator() -> Caller:
    """
    Return the person at the command line as a caller: the account of the process, and this host.
    """
    account = os.getuid()
    try:
        name = pwd.getpwuid(account).pw_name
    except KeyError:  # as in a container
        name = f"uid {account}"
    return Caller(KEY_ID, CLIENT, f"{name}@{socket.gethostname()}", "admin")


def notify(connection: Connection, settings: Settings, partitions: Iterable[int]) -> None:
    """
    Notify the workers of these partitions, where a Redis runs. Without Redis the sweep finds the work.
    """
    with contextlib.suppress(DatabaseUnavailable):
        _notify(settings, Names(migrations.read_installation(connection).id), partitions)


def _notify(settings: Settings, names: Names, partitions: Iterable[int]) -> None:
    if settings.embeds_valkey and not valkey.is_ready(settings.home):
        return
    doorbell = Doorbell(settings.redis_url, lambda: names)
    doorbell.notify_all(partitions)
    doorbell.close()
