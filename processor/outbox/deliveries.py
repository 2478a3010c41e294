"""
Notifications: who is still to be told of what became of a request, by webhook or e-mail, in PostgreSQL.

The batch writes deliveries together with the change they tell of. The courier claims them here, sends them
(`workers/courier/`), and records what came of it. Nothing here sends anything.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple
from uuid import UUID

from processor.records import documents
from processor.records.documents import RequestRecord, message_id
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The pauses after the first, second … try that failed, in seconds (CONTRACT, *Webhooks*). After the try that
#: follows the last pause, a delivery has failed.
PAUSES_SECONDS: Final = (5.0, 30.0, 120.0, 600.0, 3_600.0, 10_800.0, 36_000.0)
#: How much longer than the timeout of a try its lease lasts, in seconds.
LEASE_MARGIN_SECONDS: Final = 10.0
#: Endpoints that one look goes through; the next look goes on behind them.
ENDPOINTS_PER_LOOK: Final = 256
#: Batches whose news one look makes deliveries of; each has at most as many as a batch has rows.
FANOUTS_PER_LOOK: Final = 16
#: How much is kept of what went wrong, in characters.
ERROR_CHARACTERS_MAX: Final = 255

_GONE_REASON: Final = "it answered 410 Gone"
#: Smaller than every id.
FIRST: Final = UUID(int=0)

DeliveryStatus = Literal["pending", "delivered", "failed"]

SQL = {
    name: text.replace("{request_columns}", documents.REQUEST_COLUMNS)
    for name, text in statements.beside(__file__).items()
}


class WebhookDelivery(NamedTuple):
    """One delivery that is ours until its lease runs out. `tries` counts this one, too."""

    id: int
    token: UUID
    tries: int
    type: str
    webhook_id: UUID
    #: None when the webhook was deleted.
    url: str | None
    #: What it is signed with: two while the receiver changes over.
    keys: Sequence[bytes]
    is_disabled: bool
    request: RequestRecord

    @property
    def message_id(self) -> str:
        """The same over all tries, and for everybody who is told of this state."""
        return message_id(self.request.id, self.request.version)

    def body(self) -> bytes:
        """What is posted; the same bytes in all tries."""
        document = {
            "type": self.type,
            "timestamp": documents.timestamp(self.request.at),
            "data": self.request.document(),
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


class MailDelivery(NamedTuple):
    """One e-mail that is ours until its lease runs out."""

    id: int
    token: UUID
    tries: int
    email: str
    request: RequestRecord


class Told(NamedTuple):
    """How one try ended."""

    delivery: WebhookDelivery | MailDelivery
    status: DeliveryStatus
    http_status: int | None = None
    error: str | None = None
    pause_seconds: float | None = None
    #: The endpoint says that it is no more.
    is_gone: bool = False


def unfold(connection: Connection) -> int:
    """
    Make deliveries of what batches have to tell webhooks, the oldest FANOUTS_PER_LOOK of them. Returns how
    many deliveries that made. Raises DatabaseUnavailable.
    """
    with connections.faults():
        return connection.execute(SQL["unfold"], {"limit": FANOUTS_PER_LOOK}).rowcount


def due_endpoints(connection: Connection, after: UUID) -> dict[UUID, float]:
    """
    The webhooks behind `after`, at most ENDPOINTS_PER_LOOK, that something waits for, and in how many seconds the
    first of it is due (0: now). Raises DatabaseUnavailable.
    """
    parameters = {"after": after, "limit": ENDPOINTS_PER_LOOK}
    with connections.faults():
        return dict(connection.execute(SQL["due_endpoints"], parameters).fetchall())


def claim_webhooks(
    connection: Connection, rooms: Mapping[UUID, int], timeout_seconds: float
) -> list[WebhookDelivery]:
    """
    Take what is due, for each webhook as much as `rooms` says. `timeout_seconds` is that of a try. Raises
    DatabaseUnavailable.
    """
    parameters = {
        "webhook_ids": list(rooms.keys()),
        "rooms": list(rooms.values()),
        "lease_seconds": timeout_seconds + LEASE_MARGIN_SECONDS,
    }
    with connections.faults():
        rows = connection.execute(SQL["claim_webhooks"], parameters, binary=True).fetchall()
    return [
        WebhookDelivery(number, token, tries, kind, webhook, url, keys, is_disabled, RequestRecord(*request))
        for number, token, tries, kind, webhook, url, keys, is_disabled, *request in rows
    ]


def claim_mails(connection: Connection, limit: int, lease_seconds: float) -> list[MailDelivery]:
    """Take up to `limit` e-mails that are due. Raises DatabaseUnavailable."""
    parameters = {"limit": limit, "lease_seconds": lease_seconds}
    with connections.faults():
        rows = connection.execute(SQL["claim_mails"], parameters, binary=True).fetchall()
    return [
        MailDelivery(number, token, tries, email, RequestRecord(*request))
        for number, token, tries, email, *request in rows
    ]


def next_mail(connection: Connection) -> float | None:
    """In how many seconds the next e-mail is due; None: there is none. Raises DatabaseUnavailable."""
    with connections.faults():
        [(seconds,)] = connection.execute(SQL["next_mail"]).fetchall()
    return None if seconds is None else float(seconds)


def record(connection: Connection, tries: Iterable[Told]) -> None:
    """Write how tries ended, as one statement. Repeating it changes nothing. Raises DatabaseUnavailable."""
    told = list(tries)
    parameters = {
        "id": [one.delivery.id for one in told],
        "token": [one.delivery.token for one in told],
        "status": [one.status for one in told],
        "http_status": [one.http_status for one in told],
        "error": [one.error and one.error[:ERROR_CHARACTERS_MAX] for one in told],
        "pause_seconds": [one.pause_seconds for one in told],
        "gone": [
            one.delivery.webhook_id
            for one in told
            if one.is_gone and isinstance(one.delivery, WebhookDelivery)
        ],
        "gone_reason": _GONE_REASON,
    }
    with connections.faults():
        connection.execute(SQL["record_deliveries"], parameters)


def failed(
    delivery: WebhookDelivery | MailDelivery,
    error: str,
    http_status: int | None = None,
    *,
    is_gone: bool = False,
) -> Told:
    """A try that failed: to be tried again after the pause of the schedule, or, after the last, not."""
    if is_gone or delivery.tries > len(PAUSES_SECONDS):
        return Told(delivery, "failed", http_status, error, is_gone=is_gone)
    return Told(delivery, "pending", http_status, error, PAUSES_SECONDS[delivery.tries - 1])
