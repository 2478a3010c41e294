"""
The OpenAPI 3.1 document, made from the routes and the models that check the input.
"""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from api.web import idempotency, long_poll
from api.web.auth import ALL_ROLES
from api.web.fields import ID_PATTERN
from api.web.problems import (
    PROBLEM_JSON,
    PROBLEMS,
    BodyTooLarge,
    Forbidden,
    Invalid,
    Malformed,
    RateLimited,
    Unauthorized,
    UnsupportedMediaType,
)
from api.web.responses import Problem
from processor.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

    from api.web.routing import AnswerDoc, Route

Json = dict[str, Any]

_SCHEMA = "#/components/schemas/{model}"
_NAMES_IN_PATHS = re.compile(r"<(\w+)>")

DESCRIPTION: Final = """\
Requests for the same limited thing are decided one after the other. Each POST that makes a request answers 202 \
once it is durable; then `GET /v1/requests/{id}` tells how it ended, or the header `Prefer: wait=N` waits for it. \
Errors are problem+json (RFC 9457). Every list is newest first, with `limit` and `cursor`."""

_PATH_PARAMETERS: Final[dict[str, tuple[str, Json]]] = {
    "request": ("The id of a request.", {"type": "string", "format": "uuid"}),
    "resource": ("The id of a resource.", {"type": "string", "pattern": ID_PATTERN}),
    "account": ("The name of an account of your client.", {"type": "string", "pattern": ID_PATTERN}),
    "webhook": ("The id of a webhook.", {"type": "string", "format": "uuid"}),
    "delivery": ("The number of a delivery.", {"type": "integer", "minimum": 1}),
    "partition": ("The number of a partition, from 0.", {"type": "integer", "minimum": 0}),
    "slug": ("What the `type` of a problem ends with.", {"type": "string", "pattern": "^[a-z-]+$"}),
}

_IDEMPOTENCY_KEY: Final[Json] = {
    "type": "string",
    "pattern": idempotency.HEADER_PATTERN,
    "maxLength": idempotency.HEADER_CHARACTERS_MAX,
}

_REQUEST_HEADERS: Final[dict[str, Json]] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "One key for one intent, the same with every retry: it then happens once. Bare or quoted.",
        "schema": _IDEMPOTENCY_KEY,
        "example": "order-A-17",
    },
    "IdempotencyKeyOptional": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "As for a POST, but it may be left out.",
        "schema": _IDEMPOTENCY_KEY,
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": f"`wait=N`: answer when the request is final, or after N seconds, at most"
        f" {long_poll.WAIT_SECONDS_MAX}.",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "An ETag: 304 when nothing has changed since.",
        "schema": {"type": "string"},
    },
}

_RESPONSE_HEADERS: Final[dict[str, Json]] = {
    "Location": {"description": "Where the request can be read.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds after which to look or try again.",
        "schema": {"type": "integer"},
    },
    "ETag": {"description": "Names this state of the request.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true`: the key was used before, with the same body; nothing happened twice.",
        "schema": {"type": "string", "const": "true"},
    },
    "Preference-Applied": {
        "description": "`wait=N`: the wait was granted. Missing: too many were waiting.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
    "RateLimit-Policy": {
        "description": "How many requests (q) your key may make in how many seconds (w): "
        "draft-ietf-httpapi-ratelimit-headers-11.",
        "schema": {"type": "string"},
        "example": '"key";q=20000;w=1',
    },
    "RateLimit": {
        "description": "How many are left (r), and in how many seconds there is one more (t).",
        "schema": {"type": "string"},
        "example": '"key";r=19999;t=1',
    },
    "Allow": {"description": "What the address takes.", "schema": {"type": "string"}},
}


#: What each answer to a valid key has.
_STANDING_HEADERS: Final = ("RateLimit-Policy", "RateLimit")


def document(routes: Iterable[Route]) -> Json:
    """All of it, as JSON."""
    routes = tuple(routes)
    schemas = _Schemas(routes)
    paths: dict[str, Json] = defaultdict(dict)
    for route in routes:
        paths[_NAMES_IN_PATHS.sub(r"{\1}", route.path)][route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Teller",
            "version": version("teller"),
            "summary": "Decides simultaneous requests for the same limited thing, one after the other.",
            "description": DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": dict(paths),
        "components": {
            "schemas": schemas.definitions,
            "parameters": _REQUEST_HEADERS,
            "headers": _RESPONSE_HEADERS,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key: `Bearer teller_…`."}
            },
        },
    }


class _Schemas:
    """The models of all routes as JSON schemas, under their names."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        sent = {route.body: None for route in routes if route.body}
        shown = {answer.model: None for route in routes for answer in route.answers.values() if answer.model}
        shown[Problem] = None
        inputs = [(model, "validation") for model in sent]
        outputs = [(model, "serialization") for model in shown]
        self._found, definitions = models_json_schema([*inputs, *outputs], ref_template=_SCHEMA)  # type: ignore[list-item]  # the modes are literals
        self.definitions: Json = _without_null_defaults(definitions["$defs"])

    def sent(self, model: type[BaseModel]) -> Json:
        """What a body must be."""
        return self._found[model, "validation"]

    def shown(self, model: type[BaseModel]) -> Json:
        """What an answer is."""
        return self._found[model, "serialization"]


def _operation(route: Route, schemas: _Schemas) -> Json:
    operation: Json = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "description": _described(route),
        "parameters": _parameters(route),
        "responses": _responses(route, schemas),
        "security": [{"key": []}] if route.roles else [],
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": schemas.sent(route.body)}},
        }
    return operation


def _described(route: Route) -> str:
    if not route.roles or route.roles == ALL_ROLES:
        return route.description
    return f"{route.description} For: {', '.join(sorted(route.roles))}."


def _parameters(route: Route) -> list[Json]:
    named = [(name, *_PATH_PARAMETERS[name]) for name in _NAMES_IN_PATHS.findall(route.path)]
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "description": description, "schema": schema}
        for name, description, schema in named
    ]
    query = _without_null_defaults(route.query.model_json_schema())
    for name, schema in query.get("properties", {}).items():
        description = schema.pop("description", None)
        schema.pop("title", None)
        parameter = {"name": name, "in": "query", "schema": schema}
        if name in query.get("required", ()):
            parameter["required"] = True
        parameters.append(parameter | ({"description": description} if description else {}))
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in route.request_headers]
    return parameters


def _responses(route: Route, schemas: _Schemas) -> Json:
    standing = _STANDING_HEADERS if route.roles else ()
    responses = {str(status): _shown(shown, schemas, standing) for status, shown in route.answers.items()}
    for status, codes in _problems_of(route).items():
        response = responses.setdefault(
            str(status),
            {
                "description": " / ".join(f"{PROBLEMS[code].title} (`{code}`)" for code in codes),
                "headers": _headers(_PROBLEM_HEADERS.get(status, ())),
            },
        )
        response.setdefault("content", {})[PROBLEM_JSON] = {"schema": schemas.shown(Problem)}
    return dict(sorted(responses.items()))


_PROBLEM_HEADERS: Final = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", *_STANDING_HEADERS),
    503: ("Retry-After",),
}


def _problems_of(route: Route) -> dict[int, list[str]]:
    """The codes of everything that can go wrong, by status."""
    codes = [problem.code for problem in route.problems]
    if route.roles:
        codes += [Unauthorized.code, RateLimited.code, Invalid.code, DatabaseUnavailable.code]
        if route.body is not None:
            codes += [Malformed.code, UnsupportedMediaType.code, BodyTooLarge.code]
        if route.roles != ALL_ROLES:
            codes.append(Forbidden.code)
        codes.append("internal_error")
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in sorted(set(codes)):
        by_status[PROBLEMS[code].status].append(code)
    return by_status


def _shown(shown: AnswerDoc, schemas: _Schemas, standing: tuple[str, ...]) -> Json:
    response: Json = {"description": shown.description}
    if shown.headers or standing:
        response["headers"] = _headers((*shown.headers, *standing))
    if shown.model is not None:
        response["content"] = {shown.content_type: {"schema": schemas.shown(shown.model)}}
    elif shown.content_type != "application/json":
        response["content"] = {shown.content_type: {"schema": {"type": "string"}}}
    return response


def _headers(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _without_null_defaults(schema: Any) -> Any:
    """
    "May be left out" is not "null by default": null is refused where the type has none.
    """
    if isinstance(schema, list):
        return [_without_null_defaults(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_null_defaults(inner)
        for name, inner in schema.items()
        if not (name == "default" and inner is None)
    }
