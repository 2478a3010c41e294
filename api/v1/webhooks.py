"""
Webhooks: where a client is told of its requests; registered, rotated, deleted, and what became of each delivery.
"""

import threading
from concurrent.futures import Future
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from api.services import Call
from api.web import responses
from api.web.auth import CLIENTS
from api.web.fields import Body, Nothing, optional
from api.web.pagination import Page, listed
from api.web.problems import NameServiceSilent, NotFound
from api.web.routing import Answer, Routes, Shown
from processor.clients import webhooks
from processor.clients.webhooks import TooManyWebhooks
from processor.gateways import addresses
from processor.gateways.addresses import WebhookAddressRefused
from processor.operations import resends
from processor.operations.resends import WebhookDisabled
from processor.records.documents import Document

#: How long a registration waits for the name service, in seconds.
LOOKUP_SECONDS: Final = 3.0
#: Names looked up at once by one process.
LOOKUPS_AT_ONCE: Final = 8
#: A delivery's number has at most so many digits.
DIGITS_MAX: Final = 18

EventType = Literal[
    "request.completed", "request.rejected", "request.refunded", "request.failed", "request.cancelled"
]

_lookups = threading.BoundedSemaphore(LOOKUPS_AT_ONCE)

routes = Routes("Webhooks")


def _once_each(events: list[EventType]) -> list[EventType]:
    if len(set(events)) != len(events):
        raise ValueError("must name each type once")
    return events


class Registration(Body):
    """Where a client wants to be told, and of what."""

    url: Annotated[str, Field(min_length=1, max_length=addresses.URL_CHARACTERS_MAX)] = Field(
        description="A public https address.", examples=["https://shop.example/teller"]
    )
    events: Annotated[
        list[EventType],
        Field(min_length=1, json_schema_extra={"uniqueItems": True}),
        AfterValidator(_once_each),
    ] = optional("The types it wants; left out: all.")


@routes.add(
    "POST",
    "/v1/webhooks",
    roles=CLIENTS,
    body=Registration,
    answers={201: Shown("With its secret, shown this once.", responses.NewWebhook, headers=("Location",))},
    problems=(WebhookAddressRefused, TooManyWebhooks, NameServiceSilent),
)
def register_webhook(call: Call) -> Answer:
    """
    Register a webhook.

    It is told of the requests of its client by POSTs after Standard Webhooks, signed with `secret`.
    """
    body: Registration = call.body
    _check_address(body.url, allow_private=call.services.settings.allow_private_webhooks)
    events: list[str] | None = list(body.events) if "events" in body.model_fields_set else None
    with call.services.connection() as connection:
        webhook, secret = webhooks.register(
            connection, call.caller.client, body.url, events, call.caller.actor
        )
    document = webhook.document() | {"secret": secret}
    return Answer(document, 201, {"Location": f"/v1/webhooks/{webhook.id}"})


@routes.add(
    "GET",
    "/v1/webhooks",
    query=Page,
    answers={200: Shown("Newest first.", responses.WebhookList)},
)
def list_webhooks(call: Call) -> Answer:
    """
    List webhooks.

    A client sees its own; operators and admins see all.
    """
    part: Page = call.query
    with call.services.connection() as connection:
        page = webhooks.list_all(connection, call.caller.sees, part.limit, part.cursor)
    return Answer(listed(page))


@routes.add(
    "GET",
    "/v1/webhooks/<webhook>",
    answers={200: Shown("As it is now.", responses.Webhook)},
    problems=(NotFound,),
)
def get_webhook(call: Call, webhook: str) -> Answer:
    """
    Read a webhook.

    Without its secret. One that answered 410 is disabled.
    """
    return Answer(_read(call, _id(webhook)))


@routes.add(
    "DELETE",
    "/v1/webhooks/<webhook>",
    roles=CLIENTS,
    answers={204: Shown("It is told nothing more.")},
    problems=(NotFound,),
)
def delete_webhook(call: Call, webhook: str) -> Answer:
    """
    Delete a webhook.

    What was still to be delivered to it is not.
    """
    named = _id(webhook)
    with call.services.connection() as connection:
        webhooks.delete(connection, named, call.caller)
    return Answer(None, 204)


@routes.add(
    "POST",
    "/v1/webhooks/<webhook>/rotate",
    roles=CLIENTS,
    body=Nothing,
    body_optional=True,
    answers={200: Shown("With its new secret, shown this once.", responses.NewWebhook)},
    problems=(NotFound,),
)
def rotate_webhook(call: Call, webhook: str) -> Answer:
    """
    Rotate the secret of a webhook.

    For a day the old secret signs as well, so that you can change over.
    """
    named = _id(webhook)
    with call.services.connection() as connection:
        changed, secret = webhooks.rotate(connection, named, call.caller)
    return Answer(changed.document() | {"secret": secret})


@routes.add(
    "GET",
    "/v1/webhooks/<webhook>/deliveries",
    query=Page,
    answers={200: Shown("Newest first.", responses.DeliveryList)},
    problems=(NotFound,),
)
def list_deliveries(call: Call, webhook: str) -> Answer:
    """
    List the deliveries of a webhook.

    What it is told of which request, how often that was tried, and what it answered last.
    """
    named = _id(webhook)
    part: Page = call.query
    _read(call, named)
    with call.services.connection() as connection:
        page = webhooks.list_deliveries(connection, named, part.limit, part.cursor)
    return Answer(listed(page))


@routes.add(
    "POST",
    "/v1/deliveries/<delivery>/resend",
    roles=CLIENTS,
    body=Nothing,
    body_optional=True,
    answers={202: Shown("It is due now.", responses.Delivery)},
    problems=(NotFound, WebhookDisabled),
)
def resend_delivery(call: Call, delivery: str) -> Answer:
    """
    Deliver once more.

    Whatever became of it before, with the same `webhook-id` and body, and with all its tries ahead of it.
    """
    if not (delivery.isascii() and delivery.isdecimal() and len(delivery) <= DIGITS_MAX):
        raise NotFound("there is no such delivery")
    with call.services.connection() as connection:
        resent = resends.resend(connection, int(delivery), call.caller)
    call.services.doorbell.notify_couriers()
    return Answer(resent.document(), 202)


def _check_address(url: str, *, allow_private: bool) -> None:
    """
    Refuse what deliveries may not go to. On a thread of its own, for a name service may keep us waiting for long.
    Raises WebhookAddressRefused, NameServiceSilent.
    """
    if not _lookups.acquire(timeout=LOOKUP_SECONDS):
        raise NameServiceSilent("too many names are being looked up: try again")
    checked: Future[None] = Future()

    def check() -> None:
        try:
            addresses.check_webhook(url, allow_private=allow_private)
        except BaseException as fault:  # noqa: BLE001 - raised again by whoever waits
            checked.set_exception(fault)
        else:
            checked.set_result(None)
        finally:
            _lookups.release()

    threading.Thread(target=check, name="lookup", daemon=True).start()
    try:
        checked.result(LOOKUP_SECONDS)
    except TimeoutError as silence:
        raise NameServiceSilent("the name service did not answer in time: try again") from silence


def _id(text: str) -> UUID:
    try:
        found = UUID(text)
    except ValueError:
        raise NotFound("there is no such webhook") from None
    if str(found) != text.lower():
        raise NotFound("there is no such webhook")
    return found


def _read(call: Call, named: UUID) -> Document:
    with call.services.connection() as connection:
        found = webhooks.read(connection, named, call.caller.sees)
    if found is None:
        raise NotFound("there is no such webhook")
    return found.document()
