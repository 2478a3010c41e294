"""
Webhooks: where clients are told, how that fares, and sending again what did not arrive.

Roles are as in `api/v1/webhooks.py`: operators read, admins change. A new secret is shown by the answer to the form
itself, and by nothing else: it is in no address, no cookie and no log.
"""

from typing import Annotated, Final
from uuid import UUID

from pydantic import BeforeValidator, Field

from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit, local_path
from api.web.fields import TEXT_CHARACTERS_MAX, Body, Id, Text, optional
from api.web.problems import NotFound
from processor.clients import webhooks
from processor.clients.webhooks import Webhook
from processor.domain.roles import ADMINS
from processor.operations import resends
from processor.outbox.tries import DeliveryStatus
from processor.reading import webhooks as webhook_queries
from processor.storage.connections import Connection

#: Rows of the lists.
LISTED: Final = 50
#: The number of a delivery has at most so many digits.
DIGITS_MAX: Final = 18

ADDRESS: Final = f"{ROOT}/webhooks"

pages = Pages("webhooks")


def _number(value: object) -> object:
    """The digits of a row's number; anything else is left to be refused."""
    is_number = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= DIGITS_MAX
    return int(str(value)) if is_number else value


class Wanted(Body):
    """Which webhooks, and which part of them."""

    client: Id = optional()
    #: Anything: only those that are disabled.
    disabled: str = optional()
    cursor: str = optional()


class WantedDeliveries(Body):
    """Which deliveries, and which part of them."""

    status: DeliveryStatus = optional()
    cursor: str = optional()


class Reason(Body):
    """Why."""

    reason: Text


class Resending(Body):
    """Why, and up to which delivery it was counted."""

    reason: Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX)]
    newest: Annotated[int, BeforeValidator(_number)]


class Back(Body):
    """Where to go afterwards."""

    back: str = ""


@pages.get("/webhooks", query=Wanted)
def list_webhooks(visit: Visit) -> Page:
    """Those of all clients, newest first."""
    wanted: Wanted = visit.query
    with visit.services.connection() as connection:
        found = webhook_queries.list_webhooks(
            connection, wanted.client, LISTED, wanted.cursor, only_disabled=wanted.disabled is not None
        )
    context = {"found": found, "wanted": wanted, "recent": webhook_queries.RECENT_MAX}
    return Page("webhooks.html", context)


@pages.get("/webhooks/<webhook>", query=WantedDeliveries)
def one_webhook(visit: Visit, webhook: str) -> Page:
    """Its state, its deliveries, and what can be done."""
    wanted: WantedDeliveries = visit.query
    with visit.services.connection() as connection:
        found = _read(connection, webhook)
        counts = webhook_queries.count_deliveries(connection, found.id)
        told = webhook_queries.list_deliveries(connection, found.id, wanted.status, LISTED, wanted.cursor)
    return Page(
        "webhook.html",
        {
            "webhook": found,
            "counts": counts,
            "told": told,
            "wanted": wanted,
            "resent_max": resends.RESENT_MAX,
        },
    )


@pages.post("/webhooks/<webhook>/resend", roles=ADMINS)
def resend_failed(visit: Visit, webhook: str) -> Redirect:
    """All that had failed when they were counted, up to a limit."""
    sent = visit.read(Resending)
    with visit.services.connection() as connection:
        found = _read(connection, webhook)
        resent = resends.resend_failed(connection, found.id, sent.newest, visit.caller, sent.reason)
    visit.services.doorbell.notify_couriers()
    text = f"{resent:,} deliveries are due now." if resent != 1 else "One delivery is due now."
    return Redirect(f"{ADDRESS}/{found.id}", Notice(text if resent else "No failed delivery was left."))


@pages.post("/deliveries/<delivery>/resend", roles=ADMINS)
def resend(visit: Visit, delivery: str) -> Redirect:
    """One, whatever became of it."""
    sent, number = visit.read(Back), _number(delivery)
    if not isinstance(number, int):
        raise NotFound("there is no such delivery")
    with visit.services.connection() as connection:
        resent = resends.resend(connection, number, visit.caller)
    visit.services.doorbell.notify_couriers()
    back = local_path(sent.back) if sent.back else f"{ADDRESS}/{resent.webhook_id}"
    return Redirect(back, Notice(f"Delivery {number} is due now."))


@pages.post("/webhooks/<webhook>/rotate", roles=ADMINS)
def rotate(visit: Visit, webhook: str) -> Page:
    """A new secret, shown by this answer alone."""
    sent = visit.read(Reason)
    with visit.services.connection() as connection:
        found = _read(connection, webhook)
        changed, secret = webhooks.rotate(connection, found.id, visit.caller, sent.reason)
    return Page("webhook_secret.html", {"webhook": changed, "secret": secret})


@pages.post("/webhooks/<webhook>/delete", roles=ADMINS)
def delete(visit: Visit, webhook: str) -> Redirect:
    """It is told nothing more."""
    sent = visit.read(Reason)
    with visit.services.connection() as connection:
        found = _read(connection, webhook)
        webhooks.delete(connection, found.id, visit.caller, sent.reason)
    return Redirect(ADDRESS, Notice(f"The webhook {found.id} of {found.client_id} is deleted."))


def _read(connection: Connection, text: str) -> Webhook:
    try:
        found = webhooks.read(connection, UUID(text), None)
    except ValueError:
        found = None
    if found is None:
        raise NotFound("there is no such webhook")
    return found
