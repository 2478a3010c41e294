"""
The document as generators of clients read it: names for types, and no surprises.

- Enumerations are schemas with names. A name of a schema is no global of JavaScript.
- A field with a default may be left out, so its default stands in its description. Generators otherwise require it.
- Objects of any content say so, and ids of requests and webhooks are UUIDs.
"""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

#: Names of models that are globals of JavaScript, and the names of their schemas.
RENAMED: Final = {"Error": "RequestError", "Event": "RequestEvent", "EventList": "RequestEventList"}
#: The names of enumerations, by their first value.
ENUMERATIONS: Final = {
    "processing": "RequestStatus",
    "awaiting_confirmation": "RequestStage",
    "redemption": "RequestKind",
    "balance": "ResourceKind",
    "hold": "EntryKind",
    "pending": "DeliveryStatus",
    "done": "GatewayOutcome",
    "request.completed": "EventType",
    "redis": "Degradation",
    "paused": "Attention",
    "postgresql": "MissingPart",
    "unavailable": "RedisCondition",
    "ok": "LifeStatus",
}
#: Fields that hold the id of a request or of a webhook.
UUID_FIELDS: Final = frozenset({"request", "webhook"})
_REF: Final = "#/components/schemas/"

TAGS: Final = {
    "Resources": "The limited things, such as balances, stock and seats, and their rules.",
    "Redemptions": "An account takes some of a resource.",
    "Withdrawals": "An account takes some of a resource, which a gateway pays out.",
    "Reservations": "An account holds some of a resource for a time, then captures or releases it.",
    "Deposits": "A resource gets more.",
    "Exchanges": "An account takes some resources and gives others, all or nothing.",
    "Batches": "Many requests in one call, each accepted or refused on its own.",
    "Requests": "The state, history and entries of requests of all kinds.",
    "Confirmations": "Codes and approvals that large requests wait for.",
    "Codes": "One-time codes for purposes of the client.",
    "Accounts": "The e-mail addresses of accounts.",
    "Webhooks": "Addresses that are notified about requests, and their deliveries.",
    "Failed requests": "Requests that wait for an operator, and refunds.",
    "Partitions": "The queues in which requests are decided in order.",
    "Audit": "The acts of operators and admins.",
    "Sandbox gateway": "A gateway for tries.",
    "Health": "The state of this installation.",
    "Documentation": "This document, and the pages about it.",
}


def tag(name: str) -> Json:
    """Return a tag with its description. That of a new noun may have none yet."""
    return {"name": name, "description": TAGS[name]} if name in TAGS else {"name": name}


def prepare(schemas: Json) -> Json:
    """Return the schemas of the components for generators."""
    named: Json = {}
    found = {RENAMED.get(name, name): _prepared(schema, named) for name, schema in schemas.items()}
    for schema in found.values():
        for name, field in schema.get("properties", {}).items():
            if name in UUID_FIELDS:
                _mark_uuid(field)
    return dict(sorted({**found, **named}.items()))


def _prepared(node: Any, named: Json) -> Any:
    if isinstance(node, list):
        return [_prepared(one, named) for one in node]
    if not isinstance(node, dict):
        return node
    node = {name: _prepared(inner, named) for name, inner in node.items()}
    if isinstance(node.get("$ref"), str):
        name = node["$ref"].removeprefix(_REF)
        node["$ref"] = _REF + RENAMED.get(name, name)
    if node.get("type") == "object" and "properties" not in node:
        node.setdefault("additionalProperties", True)
    if "default" in node and "type" in node:
        default = str(node.pop("default")).lower()
        node["description"] = f"{node.get('description', '')} Default: {default}.".strip()
    return _named(node, named)


def _named(node: Json, named: Json) -> Json:
    """Replace an enumeration by a reference to its schema, which is added to `named`."""
    values = node.get("enum")
    name = ENUMERATIONS.get(values[0]) if isinstance(values, list) and values else None
    if name is None:
        return node
    schema = {"type": "string", "enum": values, "title": name}
    if named.setdefault(name, schema) != schema:
        return node
    others = {key: value for key, value in node.items() if key not in ("type", "enum", "title")}
    return {"$ref": _REF + name, **others}


def _mark_uuid(field: Json) -> None:
    """Mark the text of a field as a UUID, also beside null."""
    field.pop("format", None)
    for one in field.get("anyOf", [field]):
        if one.get("type") == "string":
            one["format"] = "uuid"


def renamed(schema: Json) -> Json:
    """Return the reference to a schema under its name for generators."""
    result: Json = _prepared(schema, {})
    return result


def webhooks(schemas: Json) -> Json:
    """Return the calls that Teller makes to the webhooks of a client, one for each event type of the schemas."""
    events = schemas["EventType"]["enum"] if "EventType" in schemas else []
    return {event: {"post": _webhook(event, {"$ref": f"{_REF}Request"})} for event in events}


def _webhook(event: str, request: Json) -> Json:
    signed = {
        "webhook-id": "The id of the message, the same for each try.",
        "webhook-timestamp": "The time of this try, in seconds since 1970.",
        "webhook-signature": "`v1,` and the base64 of the HMAC-SHA256 over `id.timestamp.body`.",
    }
    body = {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": event, "type": "string"},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": request,
        },
    }
    return {
        "operationId": event.replace("request.", "receive_"),
        "tags": ["Webhooks"],
        "summary": f"Receive {event}.",
        "description": "Teller calls the registered address after the change (Standard Webhooks).",
        "security": [],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": True,
                "description": text,
                "schema": {"type": "string"},
            }
            for name, text in signed.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "2XX": {"description": "The message arrived."},
            "410": {"description": "The address no longer exists, so the webhook is disabled."},
            "default": {"description": "The message is sent again later."},
        },
    }
