"""
Send deliveries to webhooks, and e-mails about requests, again.
"""

from typing import Any, Final
from uuid import UUID

from processor.clients import webhooks
from processor.clients.keys import Caller
from processor.clients.webhooks import Delivery, WebhookNotFound
from processor.errors import TellerError
from processor.records import audit
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Failed deliveries that one call sends again. A receiver rarely copes with more at once.
RESENT_MAX: Final = 10_000

SQL = {
    name: text.replace("{delivery_columns}", webhooks.SQL["delivery_columns"])
    for name, text in statements.beside(__file__).items()
}


class WebhookDisabled(TellerError):
    """The webhook is disabled and receives no deliveries."""

    code = "webhook_disabled"


class DeliveryNotFound(TellerError):
    """No delivery that the caller may see has this number."""

    code = "not_found"


def resend(connection: Connection, delivery_id: int, by: Caller) -> Delivery:
    """
    Make one delivery due now, whatever became of it. The caller then notifies the couriers.

    Leaves a delivery alone that a courier is sending. Only a caller who sees all clients may resend an e-mail.
    Raises DeliveryNotFound, WebhookDisabled, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        parameters = {"id": delivery_id, "client": by.sees}
        found = connection.execute(SQL["read_delivery"], parameters).fetchone()
        if found is None:
            raise DeliveryNotFound("there is no such delivery")
        is_disabled, *columns = found
        _refuse_if(is_disabled=is_disabled)
        row = connection.execute(SQL["resend"], {"id": delivery_id}).fetchone()
        if row is None:
            return Delivery(*columns)
        delivery = Delivery(*row)
        detail: dict[str, Any] = {"delivery": delivery.id}
        if delivery.webhook_id is not None:
            detail["webhook"] = str(delivery.webhook_id)
        audit.note(connection, by.actor, "delivery_resent", delivery.request_id, None, detail)
    return delivery


def resend_failed(connection: Connection, webhook_id: UUID, newest: int, by: Caller, reason: str) -> int:
    """
    Make failed deliveries of a webhook due now, oldest first. The caller then notifies the couriers.

    Sends at most RESENT_MAX, and none with a number above `newest`. Returns how many.
    Raises WebhookNotFound, WebhookDisabled, DatabaseUnavailable.
    """
    with connections.faults(), connection.transaction():
        webhook = webhooks.read(connection, webhook_id, by.sees)
        if webhook is None:
            raise WebhookNotFound("there is no such webhook")
        _refuse_if(is_disabled=webhook.disabled_at is not None)
        parameters = {"id": webhook_id, "newest": newest, "limit": RESENT_MAX}
        resent = connection.execute(SQL["resend_failed"], parameters).rowcount
        if resent:
            detail = {"webhook": str(webhook_id), "client": webhook.client_id, "deliveries": resent}
            audit.note(connection, by.actor, "deliveries_resent", None, reason, detail)
    return resent


def _refuse_if(*, is_disabled: bool) -> None:
    if is_disabled:
        raise WebhookDisabled("the webhook is disabled: delete it, and register it anew")
