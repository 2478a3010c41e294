"""
The OpenAPI document, the pages made from it, and the pages of the problems.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
from openapi_spec_validator import validate

from api import openapi_document
from api.app import ROUTES
from api.docs.openapi import AMOUNT_FIELDS, IN_WHOLE_UNITS
from api.web.problems import PROBLEMS, type_of
from processor.domain.model import MAX_QUANTITY

if TYPE_CHECKING:
    from tests.http.teller import Reply, Teller

DOCUMENT = openapi_document()
#: Pages for people. They are not part of the API.
PAGES = ("/admin", "/lab")


def test_the_document_is_valid_and_has_every_route(teller: Teller) -> None:
    """
    The document is valid OpenAPI 3.1 and has exactly the routes that Flask serves.
    """
    validate(DOCUMENT)

    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    served = {
        (method, re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in teller.application.url_map.iter_rules()
        for method in rule.methods or ()
        if method != "HEAD" and rule.rule != "/" and not rule.rule.startswith(PAGES)
    }
    assert DOCUMENT["openapi"] == "3.1.0"
    assert described == served
    assert teller.client.get("/openapi.json").json == DOCUMENT


def test_every_amount_says_in_which_unit_it_counts(teller: Teller) -> None:
    """
    A field that takes up to the largest quantity is an amount, whatever its name.
    """
    schemas = teller.client.get("/openapi.json").json["components"]["schemas"]
    fields = [
        (name, field, schema)
        for name, model in schemas.items()
        for field, schema in model.get("properties", {}).items()
        if field in AMOUNT_FIELDS or str(MAX_QUANTITY) in str(schema)
    ]

    assert (
        {"amount", "available", "refunded", "overdraft"} <= {field for _, field, _ in fields} <= AMOUNT_FIELDS
    )
    assert not [
        (name, field) for name, field, schema in fields if IN_WHOLE_UNITS not in schema["description"]
    ]


def test_every_route_describes_its_keys_and_its_problems() -> None:
    """
    Each route has its security and problems. A route that makes a request has an idempotency key.
    """
    for route in ROUTES:
        operation = DOCUMENT["paths"][re.sub(r"<(\w+)>", r"{\1}", route.path)][route.method.lower()]
        assert operation["summary"]
        assert operation["description"]
        assert operation["security"] == ([{"key": []}] if route.roles else [])
        if route.roles:
            assert {"401", "422", "503"} <= set(operation["responses"])
        makes_a_request = "Idempotency-Replayed" in str(operation["responses"])
        if makes_a_request and route.method == "POST":
            assert {"$ref": "#/components/parameters/IdempotencyKey"} in operation["parameters"]


def schema_of(method: str, path: str, status: int) -> dict[str, Any]:
    """Return the schema of an answer, with its references."""
    [content] = DOCUMENT["paths"][path][method]["responses"][str(status)]["content"].values()
    return {**content["schema"], "components": DOCUMENT["components"]}


def check(answer: Reply, method: str, path: str) -> None:
    """Check that the answer conforms to the document and has no other field."""
    schema = schema_of(method, path, answer.status_code)
    jsonschema.validate(answer.json, schema, jsonschema.Draft202012Validator)
    named = schema["$ref"].rpartition("/")[2]
    assert set(answer.json) <= set(DOCUMENT["components"]["schemas"][named]["properties"])


def test_answers_conform_to_the_document(teller: Teller) -> None:
    """
    Answers of the real application conform to their schemas.
    """
    teller.open("a", unit="pairs")
    made = teller.client.post(
        "/v1/redemptions", {"resource": "a", "account": "u", "apply_before": "2126-01-01T00:00:00Z"}
    )
    queued = teller.client.get(f"/v1/requests/{made.json['id']}")
    item = {"kind": "redemption", "idempotency_key": "k", "resource": "a", "account": "u"}
    batch = teller.client.post("/v1/batches", {"requests": [item, item, {}]})
    teller.drain()
    named = made.json["id"]

    check(made, "post", "/v1/redemptions")
    check(queued, "get", "/v1/requests/{request}")
    check(batch, "post", "/v1/batches")
    check(teller.client.post("/v1/redemptions", {}), "post", "/v1/redemptions")
    check(teller.client.get(f"/v1/requests/{named}"), "get", "/v1/requests/{request}")
    check(teller.client.get("/v1/requests"), "get", "/v1/requests")
    check(teller.client.get(f"/v1/requests/{named}/entries"), "get", "/v1/requests/{request}/entries")
    check(teller.client.get(f"/v1/requests/{named}/events"), "get", "/v1/requests/{request}/events")
    check(teller.client.get("/v1/resources/a"), "get", "/v1/resources/{resource}")
    check(teller.client.get("/v1/resources"), "get", "/v1/resources")
    check(teller.client.get("/v1/resources/b"), "get", "/v1/resources/{resource}")
    check(teller.admin.get("/v1/admin/partitions"), "get", "/v1/admin/partitions")
    check(teller.admin.get("/v1/admin/audit"), "get", "/v1/admin/audit")
    check(teller.admin.get("/readyz"), "get", "/readyz")


def test_answers_about_gateways_and_notifications_conform_to_the_document(teller: Teller) -> None:
    """
    Webhooks, deliveries, accounts, failed requests, refunds and the sandbox conform to their schemas.
    """
    teller.open("bank", "balance", 100, gateway="sandbox")
    made = teller.client.post("/v1/webhooks", {"url": "https://8.8.8.8/", "events": ["request.failed"]})
    webhook = f"/v1/webhooks/{made.json['id']}"
    account = teller.client.put("/v1/accounts/u", {"email": "ada@example.com"})
    failed = teller.fail_withdrawal("bank")
    deliveries = teller.client.get(f"{webhook}/deliveries")
    resend = f"/v1/deliveries/{deliveries.json['data'][0]['id']}/resend"
    path, named = f"/v1/admin/requests/{failed}", "/v1/admin/requests/{request}"

    check(made, "post", "/v1/webhooks")
    check(teller.client.post("/v1/webhooks", {"url": "http://8.8.8.8/"}), "post", "/v1/webhooks")
    check(teller.client.get("/v1/webhooks"), "get", "/v1/webhooks")
    check(teller.client.get(webhook), "get", "/v1/webhooks/{webhook}")
    check(teller.client.post(f"{webhook}/rotate"), "post", "/v1/webhooks/{webhook}/rotate")
    check(deliveries, "get", "/v1/webhooks/{webhook}/deliveries")
    check(teller.client.post(resend), "post", "/v1/deliveries/{delivery}/resend")
    check(account, "put", "/v1/accounts/{account}")
    check(teller.client.get("/v1/accounts/u"), "get", "/v1/accounts/{account}")
    check(teller.admin.get("/v1/admin/failed"), "get", "/v1/admin/failed")
    check(teller.admin.get(path), "get", named)
    check(teller.admin.post("/v1/admin/replay", {"reason": "x", "dry_run": True}), "post", "/v1/admin/replay")
    check(teller.admin.post(f"{path}/refund", {"reason": "x"}), "post", f"{named}/refund")
    check(teller.admin.post(f"{path}/replay", {"reason": "x"}), "post", f"{named}/replay")
    teller.drain()
    check(teller.admin.post(f"{path}/replay", {"reason": "x"}), "post", f"{named}/replay")
    check(teller.admin.get(f"/sandbox/gateway/calls?request={failed}"), "get", "/sandbox/gateway/calls")


def test_every_problem_is_explained_at_its_type(teller: Teller) -> None:
    """
    The type of a problem is the address of a page, or of text for a terminal. Unknown problems return 404.
    """
    for code, kind in PROBLEMS.items():
        page = teller.client.get(type_of(code), Authorization="", Accept="text/html,*/*")
        text = teller.client.get(type_of(code), Accept="text/plain")
        assert (page.status_code, text.status_code) == (200, 200)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert all(words in text.data.decode() for words in (kind.title, kind.explanation, kind.remedy))
        assert code in page.data.decode()
        assert "Remedy" in page.data.decode()
    assert teller.client.get("/problems/unheard-of").status_code == 404
    assert teller.client.get("/problems/not_found").status_code == 404


def test_every_problem_of_a_route_is_in_the_table() -> None:
    """
    Each problem that a route may return has an explanation.
    """
    named = {problem.code for route in ROUTES for problem in route.problems}

    assert named <= PROBLEMS.keys()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/nowhere", 404, "not_found"),
        ("GET", "/v1/requests/", 404, "not_found"),
        ("GET", "//v1//requests", 404, "not_found"),
        ("DELETE", "/v1/requests", 405, "method_not_allowed"),
        ("GET", "/v1/redemptions", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/redemptions", 405, "method_not_allowed"),
        ("PUT", "/docs", 405, "method_not_allowed"),
    ],
)
@pytest.mark.changes_nothing
def test_an_error_of_flask_is_a_problem_too(
    teller: Teller, method: str, path: str, status: int, code: str
) -> None:
    """
    An error of Flask is neither HTML nor a redirect.
    """
    answer = teller.client.call(method, path)

    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["type"] == type_of(code)
    assert ("Allow" in answer.headers) is (status == 405)


def test_the_pages_load_nothing_from_outside(teller: Teller) -> None:
    """
    The pages have no script and no resource of another host. Their policy forbids both, and they list every route.
    """
    page = teller.client.get("/docs")
    html = page.data.decode()

    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert "<script" not in html
    assert "style=" not in html
    assert not re.search(r"""(?:href|src)=["'](?:https?:)?//""", html)
    assert not re.search(r"url\(|@import", html)
    for route in ROUTES:
        assert f'id="{route.name}"' in html
        assert re.sub(r"<(\w+)>", r"{\1}", route.path) in html
