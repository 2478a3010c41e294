"""
The correlations of stored requests, for log lines and spans about them.
"""

from collections.abc import Collection
from typing import Final
from uuid import UUID

from processor.storage import connections, statements
from processor.storage.connections import Connection
from processor.tracing.correlation import Correlation

SQL: Final = statements.beside(__file__)


def read(connection: Connection, request_ids: Collection[UUID]) -> dict[UUID, Correlation]:
    """
    Return the HTTP calls that made these requests. Raises DatabaseUnavailable.
    """
    with connections.faults():
        rows = connection.execute(SQL["read"], {"ids": list(request_ids)}).fetchall()
    return {request: Correlation(*made_by) for request, *made_by in rows}
