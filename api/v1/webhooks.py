"""
Webhooks: the addresses that are notified of a client's requests, and their deliveries.
"""

import threading
from concurrent.futures import Future
from typing import Annotated, Final, Literal, get_args
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from api.services import Call
from api.web import problems
from api.web.fields import Body, Nothing, optional
from api.web.pagination import Page, listed
from api.web.parsing import read_id
from api.web.problems import NotFound
from api.web.responses import ListOf
from api.web.routing import Answer, AnswerDoc, Routes
from api.web.turns import Turns
from processor.clients import webhooks
from processor.clients.webhooks import WEBHOOKS_MAX, TooManyWebhooks
from processor.domain.roles import CLIENTS
from processor.errors import TellerError
from processor.gateways import addresses
from processor.gateways.addresses import WebhookAddressRefused
from processor.operations import resends
from processor.operations.resends import WebhookDisabled
from processor.reading import webhooks as webhook_queries
from processor.records.documents import Document

#: The time that a registration waits for the name service.
LOOKUP_SECONDS: Final = 3.0
#: The names that one process looks up at the same time, and those of one client. A name server that is silent holds a
#: look-up for many seconds.
LOOKUPS_AT_ONCE: Final = 16
LOOKUPS_OF_ONE_CLIENT: Final = 4
#: The look-ups that wait for their turn in one process, and those of one client. Each has a thread.
LOOKUPS_WAITING_MAX: Final = 64
LOOKUPS_WAITING_OF_ONE_CLIENT_MAX: Final = 16
#: The digits of a delivery's number.
DIGITS_MAX: Final = 18

EventType = Literal[
    "request.completed",
    "request.rejected",
    "request.refunded",
    "request.partially_refunded",
    "request.failed",
    "request.cancelled",
]

routes = Routes("Webhooks")


class NameServiceTimeout(TellerError):
    """The name in an address could not be looked up in time."""

    code = "name_service_silent"


_lookups = Turns(
    LOOKUPS_AT_ONCE,
    LOOKUPS_OF_ONE_CLIENT,
    waiting_max=LOOKUPS_WAITING_MAX,
    waiting_of_one_client_max=LOOKUPS_WAITING_OF_ONE_CLIENT_MAX,
    refusal=NameServiceTimeout,
)

problems.declare(
    TooManyWebhooks.code,
    status=409,
    title="Too many webhooks",
    explanation=f"A client may have {WEBHOOKS_MAX} webhooks, because each is notified of each of its requests.",
    remedy="First delete one that is no longer needed.",
)
problems.declare(
    WebhookDisabled.code,
    status=409,
    title="The webhook is disabled",
    explanation="The webhook answered 410 Gone, so nothing more is sent to it.",
    remedy="When the receiver is back, delete the webhook and register its address again. It gets a new secret.",
)
problems.declare(
    WebhookAddressRefused.code,
    status=422,
    title="Nothing is sent to this address",
    explanation="A webhook's URL begins with https:// and names a host whose addresses are all public. Addresses "
    "that are private, loopback, link-local or reserved are refused, and so are those of a cloud's metadata "
    "service. The URL has no user and no password.",
    remedy="Register an address that can be reached from the internet. In a closed network, the operator of this "
    "Teller can set TELLER_ALLOW_PRIVATE_WEBHOOKS=1.",
)
problems.declare(
    NameServiceTimeout.code,
    status=503,
    title="The address could not be looked up",
    explanation="The name service did not resolve the host of the URL in time, or too many of your look-ups were "
    "waiting. Nothing was registered.",
    remedy="Try again after Retry-After seconds.",
)


class Webhook(BaseModel):
    """An address that Teller notifies about the requests of a client."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    client: str
    url: str
    events: list[str] | None = Field(description="The event types that are sent to it; null: all.")
    created_at: AwareDatetime
    previous_secret_until: AwareDatetime | None = Field(
        description="The secret before the last rotation also signs until this time."
    )
    disabled_at: AwareDatetime | None
    disabled_reason: str | None


class NewWebhook(Webhook):
    """A webhook with its secret."""

    secret: str = Field(description="`whsec_…`, shown this once.")


class WebhookList(ListOf[Webhook]):
    """Webhooks."""


class Delivery(BaseModel):
    """A notification of one webhook about one state of a request."""

    id: int
    webhook: str | None = Field(json_schema_extra={"format": "uuid"}, description="null: an e-mail.")
    message: str = Field(description="The `webhook-id` of all its tries.")
    request: str = Field(json_schema_extra={"format": "uuid"})
    type: str
    status: Literal["pending", "delivered", "failed"]
    tries: int
    due_at: AwareDatetime | None = Field(description="The time of the next try; null: there is none.")
    last_status: int | None
    last_error: str | None
    created_at: AwareDatetime
    delivered_at: AwareDatetime | None


class DeliveryList(ListOf[Delivery]):
    """Deliveries of a webhook."""


def _once_each(events: list[EventType]) -> list[EventType]:
    if len(set(events)) != len(events):
        raise ValueError("must name each type once")
    return events


class Registration(Body):
    """The address of a new webhook, and its event types."""

    url: Annotated[str, Field(min_length=1, max_length=addresses.URL_CHARACTERS_MAX)] = Field(
        description="A public https address.", examples=["https://shop.example/teller"]
    )
    events: Annotated[
        list[EventType],
        Field(min_length=1, max_length=len(get_args(EventType)), json_schema_extra={"uniqueItems": True}),
        AfterValidator(_once_each),
    ] = optional("The event types that are sent to it. Left out: all.")


@routes.add(
    "POST",
    "/v1/webhooks",
    roles=CLIENTS,
    body=Registration,
    answers={
        201: AnswerDoc(
            "The webhook with its secret, which is shown this once.", NewWebhook, headers=("Location",)
        )
    },
    problems=(WebhookAddressRefused, TooManyWebhooks, NameServiceTimeout),
)
def register_webhook(call: Call) -> Answer:
    """
    Register a webhook.

    It receives a POST for each event of its client's requests. These follow Standard Webhooks and are signed with
    `secret`.
    """
    body: Registration = call.body
    allow_private = call.services.settings.allow_private_webhooks
    _lookups.refuse_if_full(call.caller.client)  # before a thread is started for it
    with call.services.views.aside():
        _check_address(call.caller.client, body.url, allow_private=allow_private)
    call.confirm()
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
    answers={200: AnswerDoc("Newest first.", WebhookList)},
)
def list_webhooks(call: Call) -> Answer:
    """
    List webhooks.

    A client gets its own webhooks. Operators and admins get those of all clients.
    """
    part: Page = call.query
    with call.services.connection() as connection:
        page = webhook_queries.list_webhooks(connection, call.caller.sees, part.limit, part.cursor)
    return Answer(listed(page))


@routes.add(
    "GET",
    "/v1/webhooks/<webhook>",
    answers={200: AnswerDoc("The webhook.", Webhook)},
    problems=(NotFound,),
)
def get_webhook(call: Call, webhook: str) -> Answer:
    """
    Read a webhook.

    The answer does not have its secret. A webhook that answered 410 is disabled.
    """
    return Answer(_read(call, read_id(webhook, "webhook")))


@routes.add(
    "DELETE",
    "/v1/webhooks/<webhook>",
    roles=CLIENTS,
    answers={204: AnswerDoc("The webhook is deleted and receives nothing more.")},
    problems=(NotFound,),
)
def delete_webhook(call: Call, webhook: str) -> Answer:
    """
    Delete a webhook.

    Pending deliveries to it are dropped.
    """
    webhook_id = read_id(webhook, "webhook")
    with call.services.connection() as connection:
        webhooks.delete(connection, webhook_id, call.caller)
    return Answer(None, 204)


@routes.add(
    "POST",
    "/v1/webhooks/<webhook>/rotate",
    roles=CLIENTS,
    body=Nothing,
    body_optional=True,
    answers={200: AnswerDoc("The webhook with its new secret, which is shown this once.", NewWebhook)},
    problems=(NotFound,),
)
def rotate_webhook(call: Call, webhook: str) -> Answer:
    """
    Rotate the secret of a webhook.

    For one day, deliveries are signed with the old secret as well, so that receivers can change over.
    """
    webhook_id = read_id(webhook, "webhook")
    with call.services.connection() as connection:
        changed, secret = webhooks.rotate(connection, webhook_id, call.caller)
    return Answer(changed.document() | {"secret": secret})


@routes.add(
    "GET",
    "/v1/webhooks/<webhook>/deliveries",
    query=Page,
    answers={200: AnswerDoc("Newest first.", DeliveryList)},
    problems=(NotFound,),
)
def list_deliveries(call: Call, webhook: str) -> Answer:
    """
    List the deliveries of a webhook.

    Each with its request and event type, its number of tries, and the last answer.
    """
    webhook_id = read_id(webhook, "webhook")
    part: Page = call.query
    _read(call, webhook_id)
    with call.services.connection() as connection:
        page = webhook_queries.list_deliveries(connection, webhook_id, None, part.limit, part.cursor)
    return Answer(listed(page))


@routes.add(
    "POST",
    "/v1/deliveries/<delivery>/resend",
    roles=CLIENTS,
    body=Nothing,
    body_optional=True,
    answers={202: AnswerDoc("The delivery is due now.", Delivery)},
    problems=(NotFound, WebhookDisabled),
)
def resend_delivery(call: Call, delivery: str) -> Answer:
    """
    Resend a delivery.

    Works for every delivery, whether it has succeeded or failed. It keeps its `webhook-id` and body, and is tried as
    often as a new one. Admins also resend e-mails, whose numbers `GET /v1/admin/requests/{id}` shows.
    """
    if not (delivery.isascii() and delivery.isdecimal() and len(delivery) <= DIGITS_MAX):
        raise NotFound("there is no such delivery")
    with call.services.connection() as connection:
        resent = resends.resend(connection, int(delivery), call.caller)
    call.services.doorbell.notify_couriers()
    return Answer(resent.document(), 202)


def _check_address(client: str, url: str, *, allow_private: bool) -> None:
    """
    Refuse an address that deliveries may not go to, on a thread of its own, since the name service may be slow.

    Raises WebhookAddressRefused, NameServiceTimeout.
    """
    checked: Future[None] = Future()

    def check() -> None:
        try:
            with _lookups.take(client):
                addresses.check_webhook(url, allow_private=allow_private)
        except BaseException as fault:  # noqa: BLE001 - the waiting thread raises it again
            checked.set_exception(fault)
        else:
            checked.set_result(None)

    threading.Thread(target=check, name="lookup", daemon=True).start()
    try:
        checked.result(LOOKUP_SECONDS)
    except TimeoutError as silence:
        raise NameServiceTimeout("the name service did not answer in time: try again") from silence


def _read(call: Call, webhook_id: UUID) -> Document:
    with call.services.connection() as connection:
        found = webhooks.read(connection, webhook_id, call.caller.sees)
    if found is None:
        raise NotFound("there is no such webhook")
    return found.document()
