"""
The OpenAPI 3.1 document, generated from the routes and from the models that check the input.
"""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from api.docs import generators
from api.web import idempotency, long_poll, problems
from api.web.fields import ID_PATTERN
from api.web.large_bodies import TooManyLargeBodies
from api.web.problems import (
    PROBLEM_JSON,
    PROBLEMS,
    BodyTooLarge,
    Invalid,
    Malformed,
    RateLimited,
    Unauthorized,
    UnsupportedMediaType,
)
from api.web.responses import Problem
from api.web.turns import TooManyAtOnce
from processor.domain.roles import ALL_ROLES
from processor.errors import DatabaseUnavailable, Forbidden

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

    from api.web.routing import AnswerDoc, Route

Json = dict[str, Any]

_SCHEMA = "#/components/schemas/{model}"
_NAMES_IN_PATHS = re.compile(r"<(\w+)>")

DESCRIPTION: Final = """\
Requests for the same limited thing are decided one after the other. Each POST that makes a request answers 202 \
once the request is durable. Then `GET /v1/requests/{id}` returns the result, and the header `Prefer: wait=N` waits \
for it. Errors are problem+json (RFC 9457). Every list is newest first, with `limit` and `cursor`."""

_PATH_PARAMETERS: Final[dict[str, tuple[str, Json]]] = {
    "request": ("The id of a request.", {"type": "string", "format": "uuid"}),
    "resource": ("The id of a resource.", {"type": "string", "pattern": ID_PATTERN}),
    "account": ("The name of an account of your client.", {"type": "string", "pattern": ID_PATTERN}),
    "webhook": ("The id of a webhook.", {"type": "string", "format": "uuid"}),
    "delivery": ("The number of a delivery.", {"type": "integer", "minimum": 1}),
    "partition": ("The number of a partition, from 0.", {"type": "integer", "minimum": 0}),
    "slug": ("The last part of the `type` of a problem.", {"type": "string", "pattern": "^[a-z-]+$"}),
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
        "description": "One key for each intended request, the same with every retry. The request is made once. "
        "Bare or quoted. A key with commas is quoted, because servers join two headers with a comma.",
        "schema": _IDEMPOTENCY_KEY,
        "example": "order-A-17",
    },
    "IdempotencyKeyOptional": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "As for a POST, but optional.",
        "schema": _IDEMPOTENCY_KEY,
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": f"`wait=N`: the answer comes when the request is final, or after N seconds. The maximum is"
        f" {long_poll.WAIT_SECONDS_MAX}.",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "An ETag. The answer is 304 if the request is unchanged since.",
        "schema": {"type": "string"},
    },
}

_RESPONSE_HEADERS: Final[dict[str, Json]] = {
    "Location": {"description": "The address of the request.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds after which to read or try again.",
        "schema": {"type": "integer"},
    },
    "ETag": {"description": "The identifier of this state of the request.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true`: the key was used before with the same body, and nothing was done twice.",
        "schema": {"type": "string", "const": "true"},
    },
    "Preference-Applied": {
        "description": "`wait=N`: the wait was granted. Missing: too many requests were waiting.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "The authentication scheme.", "schema": {"type": "string"}},
    "RateLimit-Policy": {
        "description": "The number of requests (q) that your key may make in a window of w seconds. Each item of a "
        "batch counts. A client that is alone may make more. See draft-ietf-httpapi-ratelimit-headers-11.",
        "schema": {"type": "string"},
        "example": '"key";q=10000;w=1',
    },
    "RateLimit": {
        "description": "The number of requests left (r), and the seconds until there is one more (t).",
        "schema": {"type": "string"},
        "example": '"key";r=9999;t=1',
    },
    "Allow": {"description": "The methods of the address.", "schema": {"type": "string"}},
}


#: The fields that hold an amount, in bodies and answers. Each says in which unit it counts.
AMOUNT_FIELDS: Final = frozenset(
    {
        "amount",
        "approve_above",
        "available",
        "confirm_above",
        "give",
        "held",
        "overdraft",
        "per_account_daily_limit",
        "per_account_limit",
        "refunded",
        "take",
    }
)
IN_WHOLE_UNITS: Final = (
    "In whole units of the smallest kind: 25000 is 250.00 where the resource has 2 `decimals`."
)

#: The headers of each answer to a valid key.
_RATE_LIMIT_HEADERS: Final = ("RateLimit-Policy", "RateLimit")


def document(routes: Iterable[Route], url_prefix: str) -> Json:
    """Return the document for these routes, as JSON."""
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
        "servers": [{"url": url_prefix or "/"}],
        "tags": [generators.tag(tag) for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": dict(paths),
        "webhooks": generators.webhooks(schemas.definitions),
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
    """The models of all routes as JSON schemas, by name."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        bodies = {route.body: None for route in routes if route.body}
        answers = {
            answer.model: None for route in routes for answer in route.answers.values() if answer.model
        }
        answers[Problem] = None
        inputs = [(model, "validation") for model in bodies]
        outputs = [(model, "serialization") for model in answers]
        self._found, definitions = models_json_schema([*inputs, *outputs], ref_template=_SCHEMA)  # type: ignore[list-item]  # the modes are literals
        self.definitions: Json = generators.prepare(_with_units(_without_null_defaults(definitions["$defs"])))

    def of_body(self, model: type[BaseModel]) -> Json:
        """Return the schema of a body."""
        return generators.renamed(self._found[model, "validation"])

    def of_answer(self, model: type[BaseModel]) -> Json:
        """Return the schema of an answer."""
        return generators.renamed(self._found[model, "serialization"])


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
            "content": {"application/json": {"schema": schemas.of_body(route.body)}},
        }
    return operation


def _described(route: Route) -> str:
    if not route.roles or route.roles == ALL_ROLES:
        return route.description
    return f"{route.description} Roles: {', '.join(sorted(route.roles))}."


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
    shared = _RATE_LIMIT_HEADERS if route.roles else ()
    responses = {str(status): _response(answer, schemas, shared) for status, answer in route.answers.items()}
    for status, codes in _problems_of(route).items():
        response = responses.setdefault(
            str(status),
            {
                "description": " / ".join(f"{PROBLEMS[code].title} (`{code}`)" for code in codes),
                "headers": _headers(_PROBLEM_HEADERS.get(status, ())),
            },
        )
        response.setdefault("content", {})[PROBLEM_JSON] = {
            "schema": schemas.of_answer(Problem),
            "examples": {code: {"value": problems.document_of(code)} for code in codes},
        }
    return dict(sorted(responses.items()))


_PROBLEM_HEADERS: Final = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", *_RATE_LIMIT_HEADERS),
    503: ("Retry-After",),
}


def _problems_of(route: Route) -> dict[int, list[str]]:
    """Return the codes of all problems of a route, by status."""
    codes = [problem.code for problem in route.problems]
    if route.roles:
        codes += [Unauthorized.code, RateLimited.code, Invalid.code, DatabaseUnavailable.code]
        codes.append(TooManyAtOnce.code)
        if route.body is not None:
            codes += [Malformed.code, UnsupportedMediaType.code, BodyTooLarge.code, TooManyLargeBodies.code]
        if route.roles != ALL_ROLES:
            codes.append(Forbidden.code)
        codes.append("internal_error")
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in sorted(set(codes)):
        by_status[PROBLEMS[code].status].append(code)
    return by_status


def _response(answer: AnswerDoc, schemas: _Schemas, shared_headers: tuple[str, ...]) -> Json:
    response: Json = {"description": answer.description}
    if answer.headers or shared_headers:
        response["headers"] = _headers((*answer.headers, *shared_headers))
    if answer.model is not None:
        response["content"] = {answer.content_type: {"schema": schemas.of_answer(answer.model)}}
    elif answer.content_type != "application/json":
        response["content"] = {answer.content_type: {"schema": {"type": "string"}}}
    return response


def _headers(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _with_units(definitions: Json) -> Json:
    """Add to each amount of these schemas, which are new, the unit in which it counts."""
    for definition in definitions.values():
        for name, field in definition.get("properties", {}).items():
            if name in AMOUNT_FIELDS:
                field["description"] = " ".join(filter(None, [field.get("description"), IN_WHOLE_UNITS]))
    return definitions


def _without_null_defaults(schema: Any) -> Any:
    """
    Remove the default null of optional fields, which may be left out but do not accept null.
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
