"""
Deliveries: notifications about requests, by webhook and e-mail.

The batch writes them in the transaction of the change that they report. A mail is a delivery at once. The deliveries
to one webhook begin as one fanout row, which the courier expands. It claims deliveries here, sends them
(`workers/courier/`), and records the results.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.domain.amounts import Unit
from processor.outbox import tries
from processor.outbox.tries import DueClient, SendResult
from processor.records import documents
from processor.records.documents import RequestRecord, message_id
from processor.storage import connections, statements
from processor.storage.connections import Connection
from processor.tracing.correlation import Correlation

#: The pauses after the first, second … try that failed, in seconds. After the try that follows the last pause, a
#: delivery has failed.
PAUSES_SECONDS: Final = (5.0, 30.0, 120.0, 600.0, 3_600.0, 10_800.0, 36_000.0)
#: The time that a lease lasts beyond the timeout of a try, in seconds.
LEASE_MARGIN_SECONDS: Final = 10.0
#: The endpoints that one look reads. The next look continues behind them.
ENDPOINTS_PER_LOOK: Final = 256
#: The fanout rows that one look expands, and the deliveries after which it expands no further row. Each row has at
#: most as many requests as a batch has rows.
FANOUTS_PER_LOOK: Final = 64
EXPANDED_PER_LOOK: Final = 1_000
#: The deliveries to webhooks that were deleted or disabled that one statement ends.
ENDED_AT_ONCE: Final = 1_000
#: The e-mails of one client that one claim reads. Among them the mailboxes take turns.
MAILS_PER_LOOK: Final = 100
#: The mails of all clients to one mailbox in an hour, as a multiple of the limit of one client.
MAILBOX_LIMITS_OF_ALL: Final = 3
#: The part of its limit that each client keeps when all clients together have reached theirs.
MAILBOX_SHARE: Final = 0.1
#: The longest time for which an e-mail waits for its mailbox, in seconds. After it the e-mail has failed.
MAIL_WAIT_SECONDS: Final = 86_400.0
#: The longest error that is kept, in characters.
ERROR_CHARACTERS_MAX: Final = 255

_GONE_REASON: Final = "it answered 410 Gone"
#: An id below that of every webhook.
BEFORE_FIRST: Final = UUID(int=0)

SQL = {
    name: text.replace("{request_columns}", documents.REQUEST_COLUMNS)
    for name, text in statements.beside(__file__).items()
}


class WebhookDelivery(NamedTuple):
    """A delivery that belongs to this courier until its lease expires. `tries` includes this try."""

    id: int
    token: UUID
    tries: int
    type: str
    webhook_id: UUID
    #: None: the webhook was deleted.
    url: str | None
    #: The keys that sign it. There are two while the receiver changes its secret.
    keys: Sequence[bytes]
    is_disabled: bool
    #: The HTTP call that made the request.
    correlation: Correlation
    request: RequestRecord

    @property
    def message_id(self) -> str:
        """The id of the message, the same for each try and each receiver of this change."""
        return message_id(self.request.id, self.request.version)

    def body(self) -> bytes:
        """Return the body, the same bytes for each try."""
        document = {
            "type": self.type,
            "timestamp": documents.timestamp(self.request.at),
            "data": self.request.document(),
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


class MailDelivery(NamedTuple):
    """An e-mail that belongs to this courier until its lease expires. `tries` includes this try."""

    id: int
    token: UUID
    tries: int
    email: str
    #: The unit of its amounts.
    unit: Unit
    #: The units of the resources of its legs.
    units: dict[str, Unit]
    #: The HTTP call that made the request.
    correlation: Correlation
    request: RequestRecord


class Expanded(NamedTuple):
    """The number of new deliveries, and the last webhook that got some. None: no fanout row was left behind."""

    deliveries: int
    last: UUID | None


class Endpoint(NamedTuple):
    """A webhook that has deliveries."""

    id: UUID
    #: The seconds until its first delivery is due (0: now).
    seconds: float
    #: The webhook was deleted or disabled, so its deliveries end.
    is_ended: bool


def expand(connection: Connection, after: UUID = BEFORE_FIRST) -> Expanded:
    """
    Make deliveries from fanout rows. The webhooks behind `after` take turns. Raises DatabaseUnavailable.
    """
    parameters = {"after": after, "fanouts": FANOUTS_PER_LOOK, "deliveries": EXPANDED_PER_LOOK}
    with connections.faults():
        [row] = connection.execute(SQL["expand"], parameters).fetchall()
    return Expanded(*row)


def due_endpoints(connection: Connection, after: UUID) -> list[Endpoint]:
    """
    Read which webhooks have deliveries, in the order of their ids: those behind `after`, at most ENDPOINTS_PER_LOOK.

    Raises DatabaseUnavailable.
    """
    parameters = {"after": after, "limit": ENDPOINTS_PER_LOOK}
    with connections.faults():
        return [Endpoint(*row) for row in connection.execute(SQL["due_endpoints"], parameters).fetchall()]


def end(connection: Connection, webhook_ids: Sequence[UUID]) -> int:
    """
    End deliveries to those of these webhooks that were deleted or disabled, at most ENDED_AT_ONCE.

    Returns how many have ended now. Raises DatabaseUnavailable.
    """
    parameters = {"webhook_ids": list(webhook_ids), "limit": ENDED_AT_ONCE}
    with connections.faults():
        return connection.execute(SQL["end_deliveries"], parameters).rowcount


def claim_webhooks(
    connection: Connection, room: Mapping[UUID, int], timeout_seconds: float
) -> list[WebhookDelivery]:
    """
    Claim deliveries that are due, for each webhook at most the number in `room`.

    `timeout_seconds` is the longest time that one try takes. Raises DatabaseUnavailable.
    """
    parameters = {
        "webhook_ids": list(room.keys()),
        "room": list(room.values()),
        "lease_seconds": timeout_seconds + LEASE_MARGIN_SECONDS,
    }
    with connections.faults():
        rows = connection.execute(SQL["claim_webhooks"], parameters, binary=True).fetchall()
    return [
        WebhookDelivery(
            number,
            token,
            count,
            kind,
            webhook,
            url,
            keys,
            is_disabled,
            Correlation(x_request_id, traceparent),
            RequestRecord(*request),
        )
        for number, token, count, kind, webhook, url, keys, is_disabled, x_request_id, traceparent, *request in rows
    ]


def due_mails(connection: Connection, after: str) -> list[DueClient]:
    """
    Read which clients have e-mails, in the order of their ids: those behind `after`. Raises DatabaseUnavailable.
    """
    return tries.due_clients(connection, SQL["due_mails"], after)


def claim_mails(
    connection: Connection, client: str, limit: int, lease_seconds: float, mails_per_hour: int
) -> list[MailDelivery]:
    """
    Claim at most `limit` e-mails of a client that are due, at most `mails_per_hour` for each mailbox and hour.

    All clients together have MAILBOX_LIMITS_OF_ALL times that number, and then MAILBOX_SHARE of it each. Further
    mails wait for the next hour. Raises DatabaseUnavailable.
    """
    parameters = {
        "client": client,
        "limit": limit,
        "lease_seconds": lease_seconds,
        "mails_per_hour": mails_per_hour,
        "mails_of_all": MAILBOX_LIMITS_OF_ALL * mails_per_hour,
        "mails_of_share": math.ceil(MAILBOX_SHARE * mails_per_hour),
        "window": MAILS_PER_LOOK,
        "wait_seconds": MAIL_WAIT_SECONDS,
    }
    with connections.faults():
        rows = connection.execute(SQL["claim_mails"], parameters, binary=True).fetchall()
    return [
        MailDelivery(
            number,
            token,
            count,
            email,
            Unit(unit, decimals),
            {resource: Unit(*of_leg) for resource, of_leg in (of_legs or {}).items()},
            Correlation(x_request_id, traceparent),
            RequestRecord(*request),
        )
        for number, token, count, email, unit, decimals, of_legs, x_request_id, traceparent, *request in rows
    ]


def record(
    connection: Connection, results: Sequence[SendResult[WebhookDelivery] | SendResult[MailDelivery]]
) -> None:
    """
    Write results in one statement, and disable the webhooks that are gone. To repeat it changes nothing.

    Raises DatabaseUnavailable.
    """
    parameters = {
        **tries.columns(results),
        "statuses": [result.status for result in results],
        "http_statuses": [result.http_status for result in results],
        "errors": [_shown(result) for result in results],
        "gone": [
            result.item.webhook_id
            for result in results
            if result.is_gone and isinstance(result.item, WebhookDelivery)
        ],
        "gone_reason": _GONE_REASON,
    }
    with connections.faults():
        connection.execute(SQL["record_deliveries"], parameters)


def _shown(result: SendResult[Any]) -> str | None:
    """Return the error of a result with the words of the mail server, as operators see it."""
    words = f"{result.error}: {result.words}" if result.words else result.error
    return words and words[:ERROR_CHARACTERS_MAX]
