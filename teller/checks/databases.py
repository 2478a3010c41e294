"""
Checks of PostgreSQL: its addresses, the schema, the numbers, the rights, and what surrounds the database.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from processor.cluster import ownership
from processor.errors import SchemaError, TellerError
from processor.gateways.names import names
from processor.storage import connections, migrations, server_checks
from processor.storage.server_checks import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings
    from processor.storage.connections import Connection


def problems(settings: Settings) -> Iterator[Problem]:
    """Look at each address once, and at the database through that of the owner."""
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
                    yield from _of_owner(connection, settings)
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


def _of_owner(connection: Connection, settings: Settings) -> Iterator[Problem]:
    """Compare the schema and the numbers with the data. Raises DatabaseUnavailable."""
    with connections.faults():
        yield from server_checks.problems(connection)
        try:
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
        for name in sorted(set(server_checks.gateways_in_use(connection)) - names(settings)):
            yield Problem(
                "gateway_unknown",
                breaks_a_promise=False,
                detail=f"resources name the gateway {name}, which is not configured here: add it to TELLER_GATEWAYS",
            )
