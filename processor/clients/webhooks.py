"""
Webhooks: the addresses that notify clients of their requests, and their deliveries.

Each change writes its audit line in the same transaction. The batch writes deliveries and the courier sends them
(`outbox/deliveries.py`). A caller sees the webhooks of its own client; operators and admins see all.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from processor.clients.keys import Caller
from processor.errors import TellerError
from processor.gateways import signatures
from processor.ids import new_id
from processor.records import audit
from processor.records.documents import Document, message_id, timestamp
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Webhooks of one client. Each of its requests makes a delivery to each of them.
WEBHOOKS_MAX: Final = 20
#: After a rotation the previous secret also signs, for a day.
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
    """The client has the maximum number of webhooks."""

    code = "too_many_webhooks"


class WebhookNotFound(TellerError):
    """No webhook that the caller may see has this id."""

    code = "not_found"


class Webhook(NamedTuple):
    """A webhook without its secret, in the order of `webhook_columns`."""

    id: UUID
    client_id: str
    url: str
    #: The event types that it receives; None: all.
    events: list[str] | None
    created_at: datetime
    #: The time until which the previous secret also signs.
    previous_until: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None
    #: The first try that failed since a delivery succeeded. None: the last try succeeded, or there was none.
    failing_since: datetime | None
    #: The tries since then, none of which succeeded, and the error of the last one.
    failing_tries: int
    failing_error: str | None

    def document(self) -> Document:
        """Return the webhook as its owner sees it."""
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
    """The notification about one state of a request, in the order of `delivery_columns`."""

    id: int
    #: None: an e-mail.
    webhook_id: UUID | None
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
        """Return the delivery as its owner sees it."""
        return {
            "id": self.id,
            "webhook": None if self.webhook_id is None else str(self.webhook_id),
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
    Register a webhook of a client, at an address that was checked before.

    Returns the webhook and its secret, which is readable only here.
    Raises TooManyWebhooks, DatabaseUnavailable.
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
    """Return a webhook that `client` may see (None sees all), or None. Raises DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_webhook"], {"id": webhook_id, "client": client}).fetchone()
    return None if row is None else Webhook(*row)


def delete(connection: Connection, webhook_id: UUID, by: Caller, reason: str | None = None) -> Webhook:
    """
    Delete a webhook. Its pending deliveries fail.

    Returns the deleted webhook. Raises WebhookNotFound, DatabaseUnavailable.
    """
    return _change(connection, "delete_webhook", "webhook_deleted", {"id": webhook_id}, by, reason)


def rotate(
    connection: Connection, webhook_id: UUID, by: Caller, reason: str | None = None
) -> tuple[Webhook, str]:
    """
    Replace the secret of a webhook. The previous secret also signs, for OVERLAP_SECONDS.

    Returns the webhook and its new secret, which is readable only here.
    Raises WebhookNotFound, DatabaseUnavailable.
    """
    secret = signatures.new_secret()
    parameters = {
        "id": webhook_id,
        "secret": secret,
        "overlap_seconds": OVERLAP_SECONDS,
        "once": False,
        "seen": None,
    }
    webhook = _change(connection, "rotate_secret", "webhook_secret_rotated", parameters, by, reason)
    return webhook, signatures.written(secret)


def read_rotated(connection: Connection, webhook_id: UUID) -> datetime | None:
    """Return the time that the last rotation set; None: there was none. Raises DatabaseUnavailable."""
    with connections.faults():
        row = connection.execute(SQL["read_rotated"], {"id": webhook_id}).fetchone()
    return None if row is None else row[0]


def rotate_once(
    connection: Connection, webhook_id: UUID, by: Caller, reason: str, seen: datetime | None
) -> tuple[Webhook, str]:
    """
    Rotate a secret as `rotate` does, unless it was rotated since `seen` was read.

    Raises WebhookNotFound in that case, too; DatabaseUnavailable.
    """
    secret = signatures.new_secret()
    parameters = {
        "id": webhook_id,
        "secret": secret,
        "overlap_seconds": OVERLAP_SECONDS,
        "once": True,
        "seen": seen,
    }
    webhook = _change(connection, "rotate_secret", "webhook_secret_rotated", parameters, by, reason)
    return webhook, signatures.written(secret)


def _change(
    connection: Connection,
    statement: str,
    action: str,
    parameters: dict[str, Any],
    by: Caller,
    reason: str | None,
) -> Webhook:
    with connections.faults(), connection.transaction():
        row = connection.execute(SQL[statement], parameters | {"client": by.sees}).fetchone()
        if row is None:
            raise WebhookNotFound("there is no such webhook")
        webhook = Webhook(*row)
        _note(connection, by.actor, action, webhook, reason)
    return webhook


def _note(
    connection: Connection, actor: str, action: str, webhook: Webhook, reason: str | None = None
) -> None:
    # Only the host: the rest of an address may contain a secret, and audit lines are never deleted.
    host = urlsplit(webhook.url).hostname
    detail = {"webhook": str(webhook.id), "client": webhook.client_id, "host": host}
    audit.note(connection, actor, action, None, reason, detail)
