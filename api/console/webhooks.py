"""
Webhooks and their deliveries, which admins resend.

As in `api/v1/webhooks.py`, operators read and admins change. A new secret is only in the answer to the form that
created it. Addresses, cookies and logs do not contain it.
"""

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator

from api.console.fields import BackForm, Moment, PageQuery, ReasonForm, read_digits
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit
from api.web.fields import Id, optional
from api.web.parsing import read_id
from api.web.problems import NotFound
from processor.clients import webhooks
from processor.clients.webhooks import Webhook
from processor.domain.roles import ADMINS
from processor.operations import resends
from processor.outbox.tries import DeliveryStatus
from processor.reading import webhooks as webhook_queries
from processor.reading.webhooks import WebhookState
from processor.storage.connections import Connection

#: Rows on one page of a list.
LISTED: Final = 50
#: The digits of a delivery's number.
DIGITS_MAX: Final = 18

ADDRESS: Final = f"{ROOT}/webhooks"

pages = Pages("webhooks")


class WebhooksQuery(PageQuery):
    """The filter of the webhooks, and the page."""

    client: Id = optional()
    #: Only webhooks in this state.
    state: WebhookState | Literal[""] = optional()


class DeliveriesQuery(PageQuery):
    """The filter of the deliveries of a webhook, and the page."""

    status: DeliveryStatus = optional()


class ResendForm(ReasonForm):
    """The reason, and the newest failed delivery that the page counted."""

    newest: Annotated[int, BeforeValidator(lambda value: read_digits(value, DIGITS_MAX))]


class RotateForm(ReasonForm):
    """The reason, and the last rotation that the page had seen."""

    #: Left out: none.
    rotated: Moment | None = optional()


@pages.get("/webhooks", query=WebhooksQuery)
def list_webhooks(visit: Visit) -> Page:
    """
    List the webhooks of all clients that match, newest first.
    """
    query: WebhooksQuery = visit.query
    with visit.services.connection() as connection:
        found = webhook_queries.list_webhooks(
            connection, query.client, LISTED, query.cursor, state=query.state or None
        )
        listed = webhook_queries.add_recent(connection, found.rows)
    context = {"found": found, "listed": listed, "query": query, "recent": webhook_queries.RECENT_MAX}
    return Page("webhooks.html", context)


@pages.get("/webhooks/<webhook>", query=DeliveriesQuery)
def one_webhook(visit: Visit, webhook: str) -> Page:
    """
    Show a webhook, its deliveries and the possible actions.
    """
    query: DeliveriesQuery = visit.query
    with visit.services.connection() as connection:
        found = _read(connection, webhook)
        counts = webhook_queries.count_deliveries(connection, found.id)
        deliveries = webhook_queries.list_deliveries(connection, found.id, query.status, LISTED, query.cursor)
        rotated = webhooks.read_rotated(connection, found.id)
    return Page(
        "webhook.html",
        {
            "webhook": found,
            "counts": counts,
            "rotated": None if rotated is None else rotated.isoformat(),
            "deliveries": deliveries,
            "query": query,
            "resent_max": resends.RESENT_MAX,
        },
    )


@pages.post("/webhooks/<webhook>/resend", roles=ADMINS)
def resend_failed(visit: Visit, webhook: str) -> Redirect:
    """
    Resend the failed deliveries that the page counted, at most RESENT_MAX.
    """
    form = visit.read(ResendForm)
    with visit.services.connection() as connection:
        found = _read(connection, webhook)
        resent = resends.resend_failed(connection, found.id, form.newest, visit.caller, form.reason)
    visit.services.doorbell.notify_couriers()
    text = f"{resent:,} deliveries are due now." if resent != 1 else "One delivery is due now."
    return Redirect(f"{ADDRESS}/{found.id}", Notice(text if resent else "No failed delivery was left."))


@pages.post("/deliveries/<delivery>/resend", roles=ADMINS)
def resend(visit: Visit, delivery: str) -> Redirect:
    """
    Resend a delivery.
    """
    form, number = visit.read(BackForm), read_digits(delivery, DIGITS_MAX)
    if number is None:
        raise NotFound("there is no such delivery")
    with visit.services.connection() as connection:
        resent = resends.resend(connection, number, visit.caller)
    visit.services.doorbell.notify_couriers()
    is_mail = resent.webhook_id is None
    own = f"{ROOT}/requests/{resent.request_id}" if is_mail else f"{ADDRESS}/{resent.webhook_id}"
    back = form.page_or(own)
    return Redirect(back, Notice(f"Delivery {number} is due now."))


@pages.post("/webhooks/<webhook>/rotate", roles=ADMINS)
def rotate(visit: Visit, webhook: str) -> Page | Redirect:
    """
    Rotate the secret of a webhook, and show the new one once. A form that is sent again rotates nothing.
    """
    form = visit.read(RotateForm)
    with visit.services.connection() as connection:
        found = _read(connection, webhook)
        try:
            changed, secret = webhooks.rotate_once(
                connection, found.id, visit.caller, form.reason, form.rotated
            )
        except webhooks.WebhookNotFound:
            again = "The secret was rotated already, and is shown once only. Nothing was done again."
            return Redirect(f"{ADDRESS}/{found.id}", Notice(again, "failed"))
    return Page("webhook_secret.html", {"webhook": changed, "secret": secret})


@pages.post("/webhooks/<webhook>/delete", roles=ADMINS)
def delete(visit: Visit, webhook: str) -> Redirect:
    """
    Delete a webhook and its pending deliveries.
    """
    form = visit.read(ReasonForm)
    with visit.services.connection() as connection:
        found = _read(connection, webhook)
        webhooks.delete(connection, found.id, visit.caller, form.reason)
    return Redirect(ADDRESS, Notice(f"The webhook {found.id} of {found.client_id} is deleted."))


def _read(connection: Connection, text: str) -> Webhook:
    found = webhooks.read(connection, read_id(text, "webhook"), None)
    if found is None:
        raise NotFound("there is no such webhook")
    return found
