"""
Keys: validity, owners, expiry and revocation. The access matrix has the rights of each role.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from api import create_app
from api.app import ROUTES
from processor.clients import keys
from processor.reading import keys as key_queries
from processor.storage import connections
from tests.waiting import Deadline

if TYPE_CHECKING:
    from flask import Flask

    from tests.http.teller import Teller

#: The lifetime of a key in seconds, which leaves time for its first use on a busy machine.
LIFETIME_SECONDS = 3


def test_everything_under_v1_needs_a_key() -> None:
    """
    No route under /v1 is public. Elsewhere, only the list of calls to the sandbox needs a key.
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
@pytest.mark.changes_nothing
def test_an_invalid_key_is_refused(teller: Teller, authorization: str) -> None:
    """
    An unknown key, another scheme and a malformed header all return 401.
    """
    answer = teller.client.get("/v1/requests", Authorization=authorization)

    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")


def test_the_scheme_is_case_insensitive(teller: Teller) -> None:
    """
    Schemes are case-insensitive (RFC 9110).
    """
    assert teller.client.get("/v1/requests", Authorization=f"bearer {teller.client.key}").status_code == 200


def test_a_revoked_key_stops_working_within_a_second(teller: Teller) -> None:
    """
    The API caches keys for less than a second.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        key = next(key for key in key_queries.list_keys(connection).rows if key.client == teller.client.id)
        assert teller.client.get("/v1/requests").status_code == 200
        keys.revoke_key(connection, key.id)

    Deadline(1).until(lambda: teller.client.get("/v1/requests").status_code != 200)
    assert teller.other.get("/v1/requests").status_code == 200


def test_two_keys_of_one_client_share_requests_and_idempotency_keys(teller: Teller) -> None:
    """
    Requests and idempotency keys belong to the client, not to the key.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        second = keys.create_key(connection, "second", "client", teller.client.id)
    first = teller.client.post("/v1/redemptions", {"resource": "a", "account": "b"}, key="k")
    teller.client.key = second.key
    again = teller.client.post("/v1/redemptions", {"resource": "a", "account": "b"}, key="k")

    assert again.json["id"] == first.json["id"]


def test_a_key_of_an_unknown_client_is_not_created(teller: Teller) -> None:
    """
    An unknown client, an unknown role and an invalid name are refused.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        before = len(key_queries.list_keys(connection).rows)
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
        assert len(key_queries.list_keys(connection).rows) == before


def test_creating_and_revoking_keys_is_in_the_audit_without_the_key(teller: Teller) -> None:
    """
    The audit has the actor and the key's id, but not the secret.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
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


def test_a_key_works_until_it_expires(teller: Teller) -> None:
    """
    A key expires by the clock of the database, and within a second also if it is cached.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        short = keys.create_key(
            connection, "short", "client", teller.client.id, lifetime=timedelta(seconds=LIFETIME_SECONDS)
        )
    limit = Deadline(LIFETIME_SECONDS + 1)
    teller.client.key = short.key
    assert short.expires_at is not None
    assert teller.client.get("/v1/requests").status_code == 200
    limit.until(lambda: teller.client.get("/v1/requests").status_code != 200)
    assert datetime.now(UTC) > short.expires_at
    assert teller.client.get("/v1/requests").json["code"] == "unauthorized"


def test_keys_are_replaced_without_a_gap(teller: Teller) -> None:
    """
    Two keys of one client work at the same time. After the first is revoked, the second still sees the requests.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        first = next(key for key in key_queries.list_keys(connection).rows if key.client == teller.client.id)
        made = teller.client.post("/v1/redemptions", {"resource": "a", "account": "b"}).json["id"]
        second = keys.create_key(connection, "second", "client", teller.client.id)
        after = replace(teller.client, key=second.key)
        assert [one.get(f"/v1/requests/{made}").status_code for one in (teller.client, after)] == [200, 200]
        keys.revoke_key(connection, first.id)
    time.sleep(1)  # the time in which a revocation takes effect

    assert [one.get(f"/v1/requests/{made}").status_code for one in (teller.client, after)] == [401, 200]


def test_the_last_use_of_a_key_is_recorded_to_the_minute(teller: Teller) -> None:
    """
    The use is recorded at the end of the process at the latest, and at most once a minute for all processes.

    An unused key has no last use.
    """

    def last_used() -> dict[str, datetime | None]:
        with connections.connect(teller.settings.database_url, application_name="test") as connection:
            return {key.name: key.last_used_at for key in key_queries.list_keys(connection).rows}

    def use(application: Flask) -> None:
        assert replace(teller.client, application=application).get("/v1/requests").status_code == 200

    for _ in range(2):
        application = create_app(teller.settings)
        use(application)
        assert last_used()["other"] is None
        noted = last_used()["client"]
        application.extensions["teller"].close()
        assert last_used()["client"] == noted if noted else last_used()["client"]
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        connection.execute("UPDATE api_keys SET last_used_at = now() - interval '61 seconds'")
        before = last_used()["client"]
        found = next(key for key in key_queries.list_keys(connection).rows if key.client == teller.client.id)
    with connections.connect(teller.settings.api_database_url, application_name="test api") as connection:
        keys.note_uses(connection, [found.id])
    now = last_used()["client"]
    assert before is not None
    assert now is not None
    assert now - before > timedelta(seconds=60)
