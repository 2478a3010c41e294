"""
Webhooks as the console shows them: of all clients, with how their deliveries fare; and sending again what failed.

What a webhook's owner may do with it is in `webhooks.py`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.clients import webhooks
from processor.clients.webhooks import Delivery, Webhook
from processor.outbox.tries import DeliveryStatus
from processor.reading.requests import GAUGE_MAX
from processor.records.pages import Page, page, read_cursor, row_number
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Deliveries whose status tells how a webhook fares.
RECENT_MAX: Final = 20
#: Batches' news looked through for what is still to become deliveries.
FANOUTS_MAX: Final = 100
#: What failed is counted up to here: exactly, for all practical purposes.
FAILED_MAX: Final = 1_000_000

_STATUSES: Final[tuple[DeliveryStatus, ...]] = ("pending", "delivered", "failed")
_BEHIND_ALL: Final = 2**63 - 1


def _completed(text: str) -> str:
    for name in ("webhook_columns", "delivery_columns"):
        text = text.replace(f"{{{name}}}", webhooks.SQL[name])
    return text


SQL = {name: _completed(text) for name, text in statements.beside(__file__).items()}


@dataclass(frozen=True, slots=True)
class Listed:
    """A webhook, and what became of its newest deliveries."""

    webhook: Webhook
    #: Of the newest RECENT_MAX, the newest first.
    statuses: list[DeliveryStatus]
    newest_at: datetime | None


@dataclass(frozen=True, slots=True)
class Told:
    """A delivery, and whether a courier has it in hand."""

    delivery: Delivery
    is_under_way: bool


class Counts(NamedTuple):
    """How much is to be delivered to a webhook, and how much could not be."""

    #: Up to GAUGE_MAX.
    pending: int
    #: Up to FAILED_MAX, the oldest first.
    failed: int
    #: The newest of those; None: there is none.
    newest_failed: int | None
    #: News of batches that no courier has made deliveries of yet.
    unfolded: int


def list_webhooks(
    connection: Connection, client: str | None, limit: int, cursor: str | None, *, only_disabled: bool
) -> Page[Listed]:
    """Webhooks of a client or of all, newest first. Raises CursorInvalid, DatabaseUnavailable."""
    [before] = read_cursor(cursor, UUID)
    filters = [SQL["filter_client"]] if client is not None else []
    filters += [SQL["filter_disabled"]] if only_disabled else []
    filters += [SQL["filter_before"]] if before is not None else []
    statement = SQL["list_webhooks"].replace("{filters}", " AND ".join(filters) or "true")
    parameters = {"client": client, "before": before, "limit": limit + 1, "recent": RECENT_MAX}
    with connections.faults():
        rows = connection.execute(statement, parameters).fetchall()
    return page(
        [Listed(Webhook(*columns), statuses, newest_at) for *columns, statuses, newest_at in rows],
        limit,
        lambda listed: (str(listed.webhook.id),),
    )


def list_deliveries(
    connection: Connection, webhook: UUID, status: DeliveryStatus | None, limit: int, cursor: str | None
) -> Page[Told]:
    """A webhook's deliveries of a status or of all, newest first. Raises CursorInvalid, DatabaseUnavailable."""
    [before] = read_cursor(cursor, row_number)
    parameters: dict[str, Any] = {
        "id": webhook,
        "statuses": list(_STATUSES) if status is None else [status],
        "before": _BEHIND_ALL if before is None else before,
        "limit": limit + 1,
    }
    with connections.faults():
        rows = connection.execute(SQL["list_deliveries"], parameters).fetchall()
    told = [Told(Delivery(*columns), is_under_way) for *columns, is_under_way in rows]
    return page(told, limit, lambda one: (str(one.delivery.id),))


def count_deliveries(connection: Connection, webhook: UUID) -> Counts:
    """How much waits, and how much failed. Raises DatabaseUnavailable."""
    parameters = {
        "id": webhook,
        "most": GAUGE_MAX,
        "most_failed": FAILED_MAX,
        "fanouts": FANOUTS_MAX,
    }
    with connections.faults():
        [row] = connection.execute(SQL["count_deliveries"], parameters).fetchall()
    return Counts(*row)
