"""
The units of resources, for texts that show their amounts to people.
"""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from processor.domain.amounts import Unit
from processor.storage import connections, statements
from processor.storage.connections import Connection

SQL: Final = statements.beside(__file__)


def read_units(connection: Connection, resource_ids: Iterable[str]) -> dict[str, Unit]:
    """Return the units of those of these resources that exist. Raises DatabaseUnavailable."""
    ids = sorted(set(resource_ids))
    with connections.faults():
        rows = connection.execute(SQL["read_units"], {"ids": ids}).fetchall() if ids else []
    return {resource: Unit(name, decimals) for resource, name, decimals in rows}


def read_units_of_requests(connection: Connection, request_ids: Iterable[UUID]) -> dict[UUID, Unit]:
    """Return the units of the resources of these requests. Raises DatabaseUnavailable."""
    ids = list(set(request_ids))
    with connections.faults():
        rows = connection.execute(SQL["read_units_of_requests"], {"ids": ids}).fetchall() if ids else []
    return {request: Unit(name, decimals) for request, name, decimals in rows}
