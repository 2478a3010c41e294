"""
Who may do what: every route with every role, and without a key.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import pytest

from api.app import ROUTES
from api.auth import EVERYBODY
from processor import database, keys

if TYPE_CHECKING:
    from api.routing import Route
    from tests.http.conftest import Teller

#: As CONTRACT.md says it; what is not here is for everybody who has a key.
ROLES = {
    ("POST", "/v1/redemptions"): {"client", "admin"},
    ("POST", "/v1/withdrawals"): {"client", "admin"},
    ("POST", "/v1/deposits"): {"operator", "admin"},
    ("POST", "/v1/resources"): {"admin"},
    ("PATCH", "/v1/resources/<resource>"): {"admin"},
    ("POST", "/v1/resources/<resource>/close"): {"admin"},
    ("GET", "/v1/admin/partitions"): {"operator", "admin"},
    ("POST", "/v1/admin/partitions/<partition>/pause"): {"operator", "admin"},
    ("POST", "/v1/admin/partitions/<partition>/resume"): {"operator", "admin"},
    ("GET", "/v1/admin/audit"): {"operator", "admin"},
    ("GET", "/v1/admin/failed"): {"operator", "admin"},
    ("GET", "/v1/admin/requests/<request>"): {"operator", "admin"},
    ("POST", "/v1/admin/requests/<request>/replay"): {"operator", "admin"},
    ("POST", "/v1/admin/replay"): {"operator", "admin"},
    ("POST", "/v1/admin/requests/<request>/refund"): {"admin"},
    ("PUT", "/v1/accounts/<account>"): {"client", "admin"},
    ("GET", "/v1/accounts/<account>"): {"client", "admin"},
    ("POST", "/v1/webhooks"): {"client", "admin"},
    ("DELETE", "/v1/webhooks/<webhook>"): {"client", "admin"},
    ("POST", "/v1/webhooks/<webhook>/rotate"): {"client", "admin"},
    ("POST", "/v1/deliveries/<delivery>/resend"): {"client", "admin"},
    ("GET", "/sandbox/gateway/calls"): {"operator", "admin"},
}
KEYED = [route for route in ROUTES if route.roles]


def address(route: Route) -> str:
    """The route's path with something in the place of its names."""
    named = {
        "<request>": str(uuid.uuid4()),
        "<resource>": "a",
        "<account>": "u",
        "<webhook>": str(uuid.uuid4()),
        "<delivery>": "7",
        "<partition>": "7",
    }
    path = route.path
    for name, value in named.items():
        path = path.replace(name, value)
    return path


@pytest.mark.parametrize("route", KEYED, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_is_for_its_roles_alone(teller: Teller, route: Route) -> None:
    """
    403 for the others before anything else is looked at, 401 without a key, and neither changes anything.
    """
    roles = ROLES.get((route.method, route.path), set(EVERYBODY))
    for role in ("client", "operator", "admin"):
        answer = getattr(teller, role).call(route.method, address(route))
        if role in roles:
            assert answer.status_code not in (401, 403)
        else:
            assert (answer.status_code, answer.json["code"]) == (403, "forbidden")

    without = teller.client.call(route.method, address(route), headers={"Authorization": None})
    assert (without.status_code, without.json["code"]) == (401, "unauthorized")
    assert without.headers["WWW-Authenticate"].startswith("Bearer")


def test_everything_under_v1_needs_a_key() -> None:
    """
    There is no public route under /v1, and only what the sandbox was asked needs a key elsewhere.
    """
    assert {route.path for route in ROUTES if route.roles and not route.path.startswith("/v1")} == {
        "/sandbox/gateway/calls"
    }
    assert not any(route.path.startswith("/v1") for route in ROUTES if not route.roles)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Basic dGVsbGVy",
        "Bearer teller_" + "a" * 43,
        "teller_" + "a" * 43,
    ],
)
def test_what_is_no_key_is_refused(teller: Teller, authorization: str) -> None:
    """
    Unknown, of another scheme or of no form: 401 alike.
    """
    answer = teller.client.get("/v1/requests", Authorization=authorization)

    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")


def test_the_scheme_may_be_written_as_one_likes(teller: Teller) -> None:
    """
    RFC 9110: schemes are case-insensitive.
    """
    assert teller.client.get("/v1/requests", Authorization=f"bearer {teller.client.key}").status_code == 200


def test_a_revoked_key_stops_working_within_a_second(teller: Teller) -> None:
    """
    It worked a moment ago, and is remembered; a second later nobody believes it any more.
    """
    with database.connect(teller.settings.database_url, application_name="test") as connection:
        key = next(key for key in keys.list_keys(connection) if key.client == teller.client.id)
        assert teller.client.get("/v1/requests").status_code == 200
        keys.revoke_key(connection, key.id)

    revoked_at = time.monotonic()
    while teller.client.get("/v1/requests").status_code == 200:
        assert time.monotonic() - revoked_at < 1
        time.sleep(0.02)
    assert teller.other.get("/v1/requests").status_code == 200


def test_two_keys_of_one_client_share_its_requests_and_its_idempotency_keys(teller: Teller) -> None:
    """
    The scope of what one sees and of a key's meaning is the client.
    """
    with database.connect(teller.settings.database_url, application_name="test") as connection:
        second = keys.create_key(connection, "second", "client", teller.client.id)
    first = teller.client.post("/v1/redemptions", {"resource": "a", "account": "b"}, key="k")
    teller.client.key = second.key
    again = teller.client.post("/v1/redemptions", {"resource": "a", "account": "b"}, key="k")

    assert again.json["id"] == first.json["id"]


def test_a_key_of_a_client_that_does_not_exist_is_not_made(teller: Teller) -> None:
    """
    One line says why; and roles and names are checked.
    """
    with database.connect(teller.settings.database_url, application_name="test") as connection:
        before = len(keys.list_keys(connection))
        for name, role, client in (
            ("x", "client", "nobody"),
            ("x", "root", None),
            ("", "client", None),
            ("a\nb", "client", None),
        ):
            with pytest.raises(keys.KeyRefused):
                keys.create_key(connection, name, role, client)
        with pytest.raises(keys.KeyNotFound):
            keys.revoke_key(connection, uuid.uuid4())
        assert len(keys.list_keys(connection)) == before


def test_making_and_revoking_keys_is_in_the_audit_without_the_key(teller: Teller) -> None:
    """
    Who did what; never the secret.
    """
    with database.connect(teller.settings.database_url, application_name="test") as connection:
        key = keys.create_key(connection, "short-lived", "operator", actor="ada")
        keys.revoke_key(connection, key.id, actor="ada")
        keys.revoke_key(connection, key.id, actor="ada")

    answer = teller.operator.get("/v1/admin/audit?limit=2")

    assert [(line["actor"], line["action"]) for line in answer.json["data"]] == [
        ("ada", "key_revoked"),
        ("ada", "key_created"),
    ]
    assert answer.json["data"][0]["detail"]["key"] == str(key.id)
    assert key.key.encode() not in answer.data
    assert answer.json["next_cursor"] is not None
