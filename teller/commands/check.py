"""
`teller check`: compare the servers with what the promises of Teller rest on.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from typing import TYPE_CHECKING, NamedTuple

import click

from processor import log
from processor.cluster import ownership
from processor.errors import SchemaError, TellerError
from processor.settings import Settings
from processor.storage import connections, migrations
from processor.visible import visible
from teller.embedded import postgres
from teller.embedded.servers import serve
from teller.printing import Command, as_json, show
from workers.doorbell.check import LOOKS, RedisCheck
from workers.doorbell.condition import REMEDIES
from workers.doorbell.names import Names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection


class Problem(NamedTuple):
    """One thing that is not as it should be, and whether it breaks a promise."""

    code: str
    breaks_a_promise: bool
    detail: str


@click.command(cls=Command, short_help="Look for what would break a promise.")
def check() -> int:
    """
    Look for what would break a promise: addresses, settings of PostgreSQL, roles, schema, sequences and Redis.

    Prints one line for each problem, with its remedy, and changes nothing. The exit status is 1 if a promise is
    broken.
    """
    log.configure(logging.ERROR)
    settings = Settings.from_environment(os.environ)
    if settings.embeds_postgres and not postgres.is_made(settings.home):
        raise SchemaError(
            f"there is no Teller in {settings.home} yet: run `teller up`, or set TELLER_HOME or DATABASE_URL"
        )
    with serve(settings) as servers:
        found = list(_problems(servers.settings))
    is_ok = not any(problem.breaks_a_promise for problem in found)
    if as_json() or not found:
        document = {"ok": is_ok, "problems": [problem._asdict() for problem in found]}
        show(document, lambda: "OK: nothing was found that breaks a promise")
    else:
        for problem in found:
            click.echo(visible(f"{'broken' if problem.breaks_a_promise else 'warning'}: {problem.detail}"))
    return 0 if is_ok else 1


def _problems(settings: Settings) -> Iterator[Problem]:
    addresses = {
        "DATABASE_URL": settings.database_url,
        "TELLER_API_DATABASE_URL": settings.api_database_url,
        "TELLER_WORKER_DATABASE_URL": settings.worker_database_url,
        "TELLER_COURIER_DATABASE_URL": settings.courier_database_url,
    }
    first: dict[str, str] = {}
    for name, url in addresses.items():
        first.setdefault(url, name)
    for url, name in first.items():
        try:
            with contextlib.closing(connections.connect(url, application_name="teller check")) as connection:
                if name == "DATABASE_URL":
                    yield from _of_database(connection, settings)
                else:
                    with connections.faults():
                        migrations.read_installation(connection)
        except SchemaError:
            continue  # it was reported for the owner
        except TellerError as fault:
            yield Problem(fault.code, breaks_a_promise=True, detail=f"{name}: {fault}")
    if not settings.roles_guard:
        yield Problem(
            "roles_guard_nothing",
            breaks_a_promise=False,
            detail="API, worker and courier use the owner's DATABASE_URL, so rights restrict nothing:"
            " set TELLER_API_DATABASE_URL, TELLER_WORKER_DATABASE_URL and TELLER_COURIER_DATABASE_URL",
        )
    yield from _of_redis(settings)


def _of_database(connection: Connection, settings: Settings) -> Iterator[Problem]:
    """Compare the schema and the numbers with the data. Raises DatabaseUnavailable."""
    try:
        with connections.faults():
            installation = migrations.read_installation(connection)
        migrations.check_partitions(installation, settings.partitions)
    except SchemaError as fault:
        yield Problem(fault.code, breaks_a_promise=True, detail=str(fault))
        return
    hidden = ownership.hidden(connection, range(installation.partitions))
    if hidden:
        partitions = ", ".join(map(str, hidden))
        yield Problem(
            "rows_below_low_water",
            breaks_a_promise=True,
            detail=f"partitions {partitions} have requests that no batch looks at: run `teller migrate`",
        )


def _of_redis(settings: Settings) -> Iterator[Problem]:
    """Check that Redis carries notifications. Without the database, which has the names, only that it answers."""

    def find_names() -> Names:
        with (
            contextlib.closing(
                connections.connect(settings.database_url, application_name="teller check")
            ) as connection,
            connections.faults(),
        ):
            return Names(migrations.read_installation(connection).id)

    check = RedisCheck(settings.redis_url, functools.cache(find_names))
    found = [check.look() for _ in range(LOOKS)]
    check.stop()
    if (condition := found[-1]) is not None:
        yield Problem(
            f"redis_{condition}",
            breaks_a_promise=False,
            detail=f"REDIS_URL: {REMEDIES[condition]}; requests are decided more slowly meanwhile",
        )
