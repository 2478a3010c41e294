"""
Lists of webhooks and of their deliveries, for the API and the console.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from processor.clients import webhooks as stored_webhooks
from processor.clients.webhooks import Delivery, Webhook
from processor.outbox.tries import DeliveryStatus
from processor.reading.requests import GAUGE_MAX
from processor.records.documents import Document
from processor.records.pages import Page, page, read_cursor, row_number
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The newest deliveries of a webhook, whose statuses a list shows.
RECENT_MAX: Final = 20
#: Fanouts that are searched for notifications of a webhook.
FANOUTS_MAX: Final = 100
#: The limit of the count of failed deliveries.
FAILED_MAX: Final = 1_000_000

WebhookState = Literal["failing", "disabled"]

_STATUSES: Final[tuple[DeliveryStatus, ...]] = ("pending", "delivered", "failed")
_BEHIND_ALL: Final = 2**63 - 1


def _completed(text: str) -> str:
    for name in ("webhook_columns", "delivery_columns"):
        text = text.replace(f"{{{name}}}", stored_webhooks.SQL[name])
    return text


SQL = {name: _completed(text) for name, text in statements.beside(__file__).items()}


@dataclass(frozen=True, slots=True)
class Listed:
    """A webhook, and the statuses of its newest deliveries."""

    webhook: Webhook
    #: At most RECENT_MAX, the newest first.
    statuses: list[DeliveryStatus]
    newest_at: datetime | None


@dataclass(frozen=True, slots=True)
class ListedDelivery:
    """A delivery, and whether a courier is sending it."""

    delivery: Delivery
    is_under_way: bool

    def document(self) -> Document:
        """Return the delivery as its owner sees it."""
        return self.delivery.document()


class Counts(NamedTuple):
    """Counts of the deliveries of a webhook."""

    #: Up to GAUGE_MAX.
    pending: int
    #: Up to FAILED_MAX.
    failed: int
    #: The number of the newest failed delivery, if any.
    newest_failed: int | None
    #: Notifications in fanouts that no courier has expanded into deliveries yet.
    to_expand: int


def list_webhooks(
    connection: Connection,
    client: str | None,
    limit: int,
    cursor: str | None,
    *,
    state: WebhookState | None = None,
) -> Page[Webhook]:
    """List webhooks of a client (None: of all), newest first. Raises CursorInvalid, DatabaseUnavailable."""
    before_at, before_id = read_cursor(cursor, datetime.fromisoformat, UUID)
    filters = [SQL["filter_client"]] if client is not None else []
    filters += [SQL[f"filter_{state}"]] if state is not None else []
    filters += [SQL["filter_before"]] if before_id is not None else []
    statement = SQL["list_webhooks"].replace("{filters}", " AND ".join(filters) or "true")
    parameters = {"client": client, "before_at": before_at, "before_id": before_id, "limit": limit + 1}
    with connections.faults():
        rows = connection.execute(statement, parameters).fetchall()
    return page([Webhook(*row) for row in rows], limit, lambda one: (one.created_at.isoformat(), str(one.id)))


def add_recent(connection: Connection, webhooks: Sequence[Webhook]) -> list[Listed]:
    """Return these webhooks with the statuses of their newest deliveries. Raises DatabaseUnavailable."""
    parameters = {"ids": [webhook.id for webhook in webhooks], "recent": RECENT_MAX}
    with connections.faults():
        rows = connection.execute(SQL["read_recent"], parameters).fetchall()
    return [Listed(webhook, *row) for webhook, row in zip(webhooks, rows, strict=True)]


def list_deliveries(
    connection: Connection, webhook: UUID, status: DeliveryStatus | None, limit: int, cursor: str | None
) -> Page[ListedDelivery]:
    """
    List deliveries of a webhook with a status (None: all), newest first. The caller may see the webhook.

    Raises CursorInvalid, DatabaseUnavailable.
    """
    [before] = read_cursor(cursor, row_number)
    parameters: dict[str, Any] = {
        "id": webhook,
        "statuses": list(_STATUSES) if status is None else [status],
        "before": _BEHIND_ALL if before is None else before,
        "limit": limit + 1,
    }
    with connections.faults():
        rows = connection.execute(SQL["list_deliveries"], parameters).fetchall()
    listed = [ListedDelivery(Delivery(*columns), is_under_way) for *columns, is_under_way in rows]
    return page(listed, limit, lambda one: (str(one.delivery.id),))


def count_deliveries(connection: Connection, webhook: UUID) -> Counts:
    """Count the deliveries of a webhook. Raises DatabaseUnavailable."""
    parameters = {
        "id": webhook,
        "most": GAUGE_MAX,
        "most_failed": FAILED_MAX,
        "fanouts": FANOUTS_MAX,
    }
    with connections.faults():
        [row] = connection.execute(SQL["count_deliveries"], parameters).fetchall()
    return Counts(*row)
