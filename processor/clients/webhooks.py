"""
Webhooks: where clients want to be told of their requests, and what became of each delivery.

What their owners do with them; each change leaves a line in the audit, in the same transaction. The batch writes
deliveries and the courier sends them (`notifications.py`). `client` is whose eyes it is seen with: None sees all.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from processor.errors import TellerError
from processor.gateways import signatures
from processor.ids import new_id
from processor.records import audit
from processor.records.documents import Document, message_id, timestamp
from processor.records.pages import Page, page, read_cursor, row_number
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Webhooks of one client at the most: each is told of each of its requests.
WEBHOOKS_MAX: Final = 20
#: For how long the secret before a rotation signs as well, in seconds: a day.
OVERLAP_SECONDS: Final = 86_400


def _completed(queries: dict[str, str]) -> dict[str, str]:
    lists = {name: queries[name] for name in ("webhook_columns", "delivery_columns")}
    return {
        name: text.replace("{webhook_columns}", lists["webhook_columns"]).replace(
            "{delivery_columns}", lists["delivery_columns"]
        )
        for name, text in queries.items()
    }


SQL = _completed(statements.beside(__file__))


class TooManyWebhooks(TellerError):
    """The client has as many webhooks as it may have."""

    code = "too_many_webhooks"


class WebhookDisabled(TellerError):
    """Nothing is sent to this webhook any more."""

    code = "webhook_disabled"


class Webhook(NamedTuple):
    """A webhook without its secret, in the order of `webhook_columns`."""

    id: UUID
    client_id: str
    url: str
    #: The types it wants; None: all.
    events: list[str] | None
    created_at: datetime
    #: Until when the secret before the last rotation signs as well.
    previous_until: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None

    def document(self) -> Document:
        """The webhook as its owner sees it."""
        return {
            "id": str(self.id),
            "client": self.client_id,
            "url": self.url,
            "events": self.events,
            "created_at": timestamp(self.created_at),
            "previous_secret_until": timestamp(self.previous_until),
            "disabled_at": timestamp(self.disabled_at),
            "disabled_reason": self.disabled_reason,
        }


class Delivery(NamedTuple):
    """What one webhook is told of one state of a request, in the order of `delivery_columns`."""

    id: int
    webhook_id: UUID
    request_id: UUID
    version: int
    type: str
    status: str
    tries: int
    due_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None

    def document(self) -> Document:
        """The delivery as its owner sees it."""
        return {
            "id": self.id,
            "webhook": str(self.webhook_id),
            "message": message_id(self.request_id, self.version),
            "request": str(self.request_id),
            "type": self.type,
            "status": self.status,
            "tries": self.tries,
            "due_at": timestamp(self.due_at),
            "last_status": self.last_status,
            "last_error": self.last_error,
            "created_at": timestamp(self.created_at),
            "delivered_at": timestamp(self.delivered_at),
        }


def register(
    connection: Connection, client: str, url: str, events: list[str] | None, actor: str
) -> tuple[Webhook, str]:
    """
    A new webhook of a client, and its secret, told this once. The caller has checked the address. Raises
    TooManyWebhooks, DatabaseUnavailable.
    """
    secret = signatures.new_secret()
    parameters = {
        "id": new_id(),
        "client": client,
        "url": url,
        "events": events,
        "secret": secret,
        "most": WEBHOOKS_MAX,
    }
    with connections.faults(), connection.transaction():
        connection.execute(SQL["lock_client"], {"lock_class": connections.WEBHOOK_LOCK, "client": client})
        row = connection.execute(SQL["insert_webhook"], parameters).fetchone()
        if row is None:
            raise TooManyWebhooks(f"a client may have {WEBHOOKS_MAX} webhooks: delete one first")
        webhook = Webhook(*row)
        _note(connection, actor, "webhook_registered", webhook)
    return webhook, signatures.written(secret)


def read(connection: Connection, webhook_id: UUID, client: str | None) -> Webhook | None:
    """A webhook as it is now. Raises DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_webhook"], {"id": webhook_id, "client": client}).fetchone()
    return None if row is None else Webhook(*row)


def list_all(connection: Connection, client: str | None, limit: int, cursor: str | None) -> Page[Webhook]:
    """Webhooks, newest first. Raises CursorInvalid, DatabaseUnavailable."""
    [before] = read_cursor(cursor, UUID)
    parameters = {"client": client, "before": before, "limit": limit + 1}
    with connections.faults():
        rows = connection.execute(SQL["list_webhooks"], parameters).fetchall()
    return page([Webhook(*row) for row in rows], limit, lambda webhook: (str(webhook.id),))


def delete(
    connection: Connection, webhook_id: UUID, client: str | None, actor: str, reason: str | None = None
) -> bool:
    """
    Tell it nothing more; what was still to be delivered fails. False: there is none. Raises DatabaseUnavailable.
    """
    parameters = {"id": webhook_id, "client": client}
    return _change(connection, "delete_webhook", "webhook_deleted", parameters, actor, reason) is not None


def rotate(
    connection: Connection, webhook_id: UUID, client: str | None, actor: str, reason: str | None = None
) -> tuple[Webhook, str] | None:
    """
    A new secret, told this once; the old one signs as well for OVERLAP_SECONDS. None: there is no such webhook.
    Raises DatabaseUnavailable.
    """
    secret = signatures.new_secret()
    parameters = {
        "id": webhook_id,
        "client": client,
        "secret": secret,
        "overlap_seconds": OVERLAP_SECONDS,
    }
    webhook = _change(connection, "rotate_secret", "webhook_secret_rotated", parameters, actor, reason)
    return None if webhook is None else (webhook, signatures.written(secret))


def list_deliveries(
    connection: Connection, webhook_id: UUID, limit: int, cursor: str | None
) -> Page[Delivery]:
    """
    The deliveries of a webhook that the caller has found visible, newest first. Raises CursorInvalid,
    DatabaseUnavailable.
    """
    [before] = read_cursor(cursor, row_number)
    parameters = {"id": webhook_id, "before": before, "limit": limit + 1}
    with connections.faults():
        rows = connection.execute(SQL["list_deliveries"], parameters).fetchall()
    return page([Delivery(*row) for row in rows], limit, lambda delivery: (str(delivery.id),))


def resend(connection: Connection, delivery_id: int, client: str | None, actor: str) -> Delivery | None:
    """
    Deliver once more, now, whatever became of it; then tell the couriers. None: there is no such delivery. Raises
    WebhookDisabled, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        found = connection.execute(SQL["read_delivery"], {"id": delivery_id, "client": client}).fetchone()
        if found is None:
            return None
        is_disabled, *columns = found
        if is_disabled:
            raise WebhookDisabled("the webhook is disabled: delete it, and register it anew")
        delivery = Delivery(*columns)
        resent = connection.execute(SQL["resend_delivery"], {"id": delivery_id}).fetchone()
        if resent is not None:
            delivery = Delivery(*resent)
            detail = {"delivery": delivery.id, "webhook": str(delivery.webhook_id)}
            audit.note(connection, actor, "delivery_resent", delivery.request_id, None, detail)
    return delivery


def _change(
    connection: Connection,
    statement: str,
    action: str,
    parameters: dict[str, Any],
    actor: str,
    reason: str | None,
) -> Webhook | None:
    with connections.faults(), connection.transaction():
        row = connection.execute(SQL[statement], parameters).fetchone()
        if row is None:
            return None
        webhook = Webhook(*row)
        _note(connection, actor, action, webhook, reason)
    return webhook


def _note(
    connection: Connection, actor: str, action: str, webhook: Webhook, reason: str | None = None
) -> None:
    # The host alone: the rest of an address may hold a secret, and the audit keeps for ever what it is told.
    host = urlsplit(webhook.url).hostname
    detail = {"webhook": str(webhook.id), "client": webhook.client_id, "host": host}
    audit.note(connection, actor, action, None, reason, detail)
