"""
Reservations over HTTP: the calls that end them, and their expiry as a worker does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from processor.batch import run as batch
from processor.operations import reservations
from processor.storage import connections

if TYPE_CHECKING:
    from tests.http.teller import Reply, Teller


def capture(teller: Teller, request: str, body: Any = None) -> Reply:
    """Capture a reservation, and run the batches."""
    answer = teller.client.post(f"/v1/requests/{request}/capture", body)
    teller.drain()
    return answer


def release(teller: Teller, request: str) -> Reply:
    """Release a reservation, and run the batches."""
    answer = teller.client.post(f"/v1/requests/{request}/release")
    teller.drain()
    return answer


def read(teller: Teller, request: str) -> Any:
    """Return the document of a request."""
    return teller.client.get(f"/v1/requests/{request}").json


def expire(teller: Teller) -> int:
    """End what is over, as a worker does. Returns the number of reservations."""
    partitions = range(teller.settings.partitions)
    with connections.connect(teller.settings.worker_database_url, application_name="test") as connection:
        due = reservations.expired(connection, partitions)
        return batch.expire_once(connection, set().union(*due)).taken if due else 0
