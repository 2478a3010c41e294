"""
The steps and processes of the Procfile: migrate, api, worker, courier. And the OpenAPI document.

Each command loads its own part of Teller when it is called, and no other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from typing import TYPE_CHECKING

import click
import structlog

from processor import log
from processor.settings import Settings, read_url_prefix
from processor.storage import migrations
from teller.embedded.servers import serve
from teller.printing import Command, as_json, show

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command(cls=Command, short_help="Bring the database to the schema of this version.")
def migrate() -> None:
    """
    Bring the database to the schema that this version needs, and repair what a restore or a move left behind.

    Prints one line for each migration that was applied, and for each repair. Does nothing if all is well. The number
    of partitions (TELLER_PARTITIONS) is fixed the first time, for the life of the database.
    """
    log.configure(logging.WARNING)
    applied: list[str] = []
    repaired: list[str] = []

    def note(name: str) -> None:
        applied.append(name)
        if not as_json():
            click.echo(f"applied {name}")

    def note_repair(line: str) -> None:
        repaired.append(line)
        if not as_json():
            click.echo(line)

    with serve(Settings.from_environment(os.environ), needs_valkey=False) as servers:
        done = migrations.migrate(
            servers.settings.database_url, servers.settings.partitions, note, note_repair
        )
    show({"migrated": done, "applied": applied, "repaired": repaired}, lambda: done)


@click.command(cls=Command)
def api() -> int:
    """
    Serve the HTTP API until SIGINT or SIGTERM. Any number of them can run behind a load balancer.
    """
    from api import server  # noqa: PLC0415 - see the module

    with _complete_settings() as settings:
        if not settings.roles_guard:
            structlog.get_logger(__name__).warning(
                "roles_guard_nothing",
                detail="TELLER_API_DATABASE_URL, TELLER_WORKER_DATABASE_URL and TELLER_COURIER_DATABASE_URL are not"
                " all set: processes with the owner's DATABASE_URL may do everything in the database",
            )
        return server.serve(settings)


@click.command(cls=Command)
def worker() -> int:
    """
    Decide requests until SIGINT or SIGTERM. Any number of workers can run, on any hosts; they share the partitions.
    """
    from workers.worker.main import run_worker  # noqa: PLC0415 - see the module

    with _complete_settings() as settings:
        return run_worker(settings)


@click.command(cls=Command, short_help="Call gateways, deliver webhooks and e-mail.")
def courier() -> int:
    """
    Call gateways, deliver webhooks and e-mail, until SIGINT or SIGTERM. Any number of them can run.
    """
    from workers.courier.main import run_courier  # noqa: PLC0415 - see the module

    with _complete_settings() as settings:
        return run_courier(settings)


@click.command(cls=Command)
def openapi() -> None:
    """
    Print the OpenAPI 3.1 document of the HTTP API.
    """
    from api import openapi_document  # noqa: PLC0415 - see the module

    document = openapi_document(read_url_prefix(os.environ))
    show(
        document, lambda: json.dumps(document, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    )


@contextlib.contextmanager
def _complete_settings() -> Iterator[Settings]:
    """Complete the settings with embedded servers where no URL is set."""
    log.configure()
    with serve(Settings.from_environment(os.environ)) as servers:
        yield servers.settings
