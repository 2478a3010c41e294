"""
The access matrix: each route without a valid key, with each role, and with a key of another client.

A route without a row in ACCESS fails a test. The call of a row is valid, so only the caller decides its status.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from api.app import ROUTES
from processor.clients import keys
from processor.domain.partitioning import partition_of
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http.teller import Client, Reply, Teller


@dataclass(frozen=True)
class Generated:
    """A body that differs in each call."""

    make: Callable[[], Any]


@dataclass(frozen=True)
class Access:
    """The status for the owner, another client, an operator and an admin. Each of them is a client of its own."""

    client: int
    other: int
    operator: int
    admin: int
    body: Any = None
    query: str = ""


@dataclass(frozen=True)
class Public:
    """A route without keys, and its status for every caller."""

    status: int = 200
    body: Any = None


REDEMPTION = {"resource": "bank", "account": "u"}
WITHDRAWAL = {"resource": "bank", "account": "u", "amount": 1}
ITEM = {"kind": "redemption", "idempotency_key": "k", "resource": "bank", "account": "u"}
OPENING = {"id": "new", "kind": "stock", "available": 1}
WEBHOOK = {"url": "https://8.8.8.8/hook"}

EXCHANGE = {"account": "u_1", "legs": [{"resource": "bank", "take": 1}, {"resource": "sneaker", "give": 1}]}
ACCESS: dict[str, Access | Public] = {
    "POST /v1/resources": Access(403, 403, 403, 202, body=OPENING),
    "PATCH /v1/resources/<resource>": Access(403, 403, 403, 202, body={"unit": "pairs"}),
    "POST /v1/resources/<resource>/close": Access(403, 403, 403, 202),
    "GET /v1/resources": Access(200, 200, 200, 200),
    "GET /v1/resources/<resource>": Access(200, 404, 200, 200),
    "GET /v1/resources/<resource>/entries": Access(200, 404, 200, 200),
    "POST /v1/redemptions": Access(202, 202, 403, 202, body=REDEMPTION),
    "POST /v1/withdrawals": Access(202, 202, 403, 202, body=WITHDRAWAL),
    "POST /v1/reservations": Access(202, 202, 403, 202, body=REDEMPTION),
    "POST /v1/deposits": Access(403, 403, 202, 202, body={"resource": "bank", "amount": 1}),
    "POST /v1/exchanges": Access(202, 202, 403, 202, body=EXCHANGE),
    "POST /v1/batches": Access(202, 202, 202, 202, body={"requests": [ITEM]}),
    "GET /v1/requests/<request>": Access(200, 404, 200, 200),
    "GET /v1/requests": Access(200, 200, 200, 200),
    "GET /v1/requests/<request>/entries": Access(200, 404, 200, 200),
    "GET /v1/requests/<request>/events": Access(200, 404, 200, 200),
    "POST /v1/requests/<request>/cancel": Access(202, 404, 202, 202),
    "POST /v1/requests/<request>/capture": Access(409, 404, 403, 409),
    "POST /v1/requests/<request>/release": Access(409, 404, 409, 409),
    "GET /v1/accounts/<account>": Access(200, 404, 403, 404),
    "POST /v1/requests/<request>/confirm": Access(409, 404, 403, 409, body={"code": "123456"}),
    "POST /v1/requests/<request>/code": Access(409, 404, 403, 409),
    "PUT /v1/accounts/<account>": Access(200, 200, 403, 200, body={"email": "ada@example.com"}),
    "POST /v1/codes": Access(
        202, 202, 403, 202, body=Generated(lambda: {"destination": f"{uuid.uuid4()}@example.com"})
    ),
    "POST /v1/codes/verify": Access(
        422, 422, 403, 422, body={"destination": "ada@example.com", "code": "123456"}
    ),
    "POST /v1/webhooks": Access(201, 201, 403, 201, body=WEBHOOK),
    "GET /v1/webhooks": Access(200, 200, 200, 200),
    "GET /v1/webhooks/<webhook>": Access(200, 404, 200, 200),
    "DELETE /v1/webhooks/<webhook>": Access(204, 404, 403, 204),
    "POST /v1/webhooks/<webhook>/rotate": Access(200, 404, 403, 200),
    "GET /v1/webhooks/<webhook>/deliveries": Access(200, 404, 200, 200),
    "POST /v1/deliveries/<delivery>/resend": Access(202, 404, 403, 202),
    "GET /v1/admin/failed": Access(403, 403, 200, 200),
    "GET /v1/admin/requests/<request>": Access(403, 403, 200, 200),
    "POST /v1/admin/requests/<failed>/replay": Access(403, 403, 202, 202, body={"reason": "x"}),
    "POST /v1/admin/replay": Access(403, 403, 200, 200, body={"reason": "x", "dry_run": True}),
    "POST /v1/admin/requests/<failed>/refund": Access(403, 403, 403, 202, body={"reason": "x"}),
    "POST /v1/admin/requests/<awaiting>/approve": Access(403, 403, 202, 202, body={"reason": "x"}),
    "POST /v1/admin/requests/<awaiting>/deny": Access(403, 403, 202, 202, body={"reason": "x"}),
    "GET /v1/admin/partitions": Access(403, 403, 200, 200),
    "POST /v1/admin/partitions/<partition>/pause": Access(403, 403, 200, 200),
    "POST /v1/admin/partitions/<partition>/resume": Access(403, 403, 200, 200),
    "GET /v1/admin/audit": Access(403, 403, 200, 200),
    # The courier authenticates with a signature, not with a key.
    "POST /sandbox/gateway": Public(401, body={"request": "x"}),
    "GET /sandbox/gateway/calls": Access(403, 403, 200, 200, query="?request=<request>"),
    "GET /healthz": Public(),
    "GET /readyz": Public(),
    "GET /metrics": Public(),
    "GET /openapi.json": Public(),
    "GET /docs": Public(),
    "GET /problems/<slug>": Public(),
}


@dataclass
class Objects:
    """A Teller in which the client owns one object of each kind. Each call gets objects that it may use up."""

    teller: Teller

    def __post_init__(self) -> None:
        self.teller.open("bank", "balance", 10_000, gateway="sandbox")
        self.teller.open("own", client=self.teller.client.id)
        self.teller.open("vault", "balance", 10_000, approve_above=5)
        assert self.teller.client.put("/v1/accounts/u", {"email": "ada@example.com"}).status_code == 200
        self.webhook_id = self.webhook()
        self.failed = self.teller.fail_withdrawal("bank")
        [self.delivery] = self.teller.client.get(f"/v1/webhooks/{self.webhook_id}/deliveries").json["data"]

    def webhook(self) -> str:
        """Create a webhook of the client."""
        return str(self.teller.client.post("/v1/webhooks", WEBHOOK).json["id"])

    def redemption(self) -> str:
        """Submit a request of the client."""
        return str(self.teller.client.post("/v1/redemptions", REDEMPTION).json["id"])

    def fill(self, path: str) -> str:
        """Return the path with objects of the client in place of its parameters."""
        makers: dict[str, Callable[[], str]] = {
            "<resource>": lambda: "own",
            "<account>": lambda: "u",
            "<request>": self.redemption,
            "<failed>": lambda: self.teller.fail_withdrawal("bank"),
            "<awaiting>": lambda: self.teller.withdraw("vault"),
            "<webhook>": self.webhook,
            "<delivery>": lambda: str(self.delivery["id"]),
            "<partition>": lambda: str(1 - partition_of("bank", 2)),
            "<slug>": lambda: "not-found",
        }
        for placeholder, make in makers.items():
            if placeholder in path:
                path = path.replace(placeholder, make())
        return path

    def call(self, client: Client, route: str, access: Access | Public) -> Reply:
        """Call a route as a client."""
        method, _, path = route.partition(" ")
        path = self.fill(path + getattr(access, "query", ""))
        body = access.body
        if isinstance(body, Generated):
            body = body.make()
        if method == "POST":
            return client.post(path, body)
        return client.call(method, path, json=body)


@pytest.fixture
def objects(teller: Teller) -> Objects:
    """
    A Teller with one object of each kind.
    """
    return Objects(teller)


def route_of(row: str) -> str:
    """Return the route of a row as the application names it."""
    return row.replace("<failed>", "<request>").replace("<awaiting>", "<request>")


def callers_without_a_valid_key(teller: Teller) -> dict[str, Client]:
    """Return callers without a key and with a wrong, a revoked and an expired key."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        revoked = keys.create_key(connection, "revoked", "admin")
        keys.revoke_key(connection, revoked.id)
        expired = keys.create_key(connection, "expired", "admin", lifetime=timedelta(days=1))
        connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", (expired.id,))
    without_key = replace(teller.admin, headers={"Authorization": None})  # type: ignore[dict-item]  # it is not sent
    wrong = replace(teller.admin, key="teller_" + "a" * 43)
    return {
        "none": without_key,
        "wrong": wrong,
        "revoked": replace(teller.admin, key=revoked.key),
        "expired": replace(teller.admin, key=expired.key),
    }


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    """
    Each route has a row here, and each row belongs to a route.
    """
    named = {f"{route.method} {route.path}": route for route in ROUTES}
    rows = {route_of(row): access for row, access in ACCESS.items()}

    assert sorted(rows) == sorted(named)
    assert all(isinstance(access, Access) == bool(named[row].roles) for row, access in rows.items())


def test_a_caller_without_a_valid_key_gets_401(objects: Objects) -> None:
    """
    No key, a wrong, a revoked and an expired key all return 401. Public routes need no key.
    """
    found, expected = {}, {}
    for route, access in ACCESS.items():
        for role, caller in (
            callers_without_a_valid_key(objects.teller).items()
            if isinstance(access, Access)
            else [("none", callers_without_a_valid_key(objects.teller)["none"])]
        ):
            answer = objects.call(caller, route_of(route), access)
            found[route, role] = answer.status_code
            expected[route, role] = 401 if isinstance(access, Access) else access.status
            if isinstance(access, Access):
                assert answer.json["code"] == "unauthorized"
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    assert found == expected


def test_each_role_gets_the_status_of_its_row(objects: Objects) -> None:
    """
    Each role gets the status in its row. Another client's object returns 404, never 403.
    """
    callers = {
        "client": objects.teller.client,
        "other": objects.teller.other,
        "operator": objects.teller.operator,
        "admin": objects.teller.admin,
    }
    found, expected = {}, {}
    for route, access in ACCESS.items():
        for role, caller in callers.items():
            answer = objects.call(caller, route, access)
            found[route, role] = answer.status_code
            expected[route, role] = access.status if isinstance(access, Public) else getattr(access, role)
            if answer.status_code == 403:
                assert answer.json["code"] == "forbidden"

    assert found == expected


def test_a_refused_call_writes_no_row(objects: Objects) -> None:
    """
    A call that returns 403 or 404 writes no row in any table.
    """

    def count_rows() -> dict[str, int]:
        with connections.connect(objects.teller.settings.database_url, application_name="test") as connection:
            tables = connection.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            ).fetchall()
            return {
                table: connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]  # noqa: S608
                for (table,) in tables
            }

    refused = [
        (getattr(objects.teller, role), route, access.body)
        for route, access in ACCESS.items()
        for role in ("client", "other", "operator", "admin")
        if isinstance(access, Access) and getattr(access, role) in (403, 404)
    ]
    placeholders = dict.fromkeys(("<request>", "<failed>", "<awaiting>"), objects.failed) | {
        "<webhook>": objects.webhook_id
    }
    before = count_rows()
    for caller, route, body in refused:
        named = route
        for placeholder, name in placeholders.items():
            named = named.replace(placeholder, name)
        assert objects.call(caller, named, Public(body=body)).status_code in (403, 404)

    assert count_rows() == before


# ---------------------------------------------------------------- objects of another client


def test_lists_contain_no_objects_of_another_client(objects: Objects) -> None:
    """
    No list contains an object of another client, with or without a filter that names it.
    """
    mine = {
        objects.failed,
        objects.webhook_id,
        objects.teller.client.id,
        '"own"',
        f'"id":{objects.delivery["id"]},',
    }
    lists = [
        "/v1/requests?limit=100",
        "/v1/requests?limit=100&resource=bank&account=u&status=failed",
        "/v1/resources?limit=100",
        "/v1/resources/bank/entries?limit=100",
        "/v1/webhooks?limit=100",
    ]
    for address in lists:
        shown = objects.teller.other.get(address).data.decode().replace(" ", "")
        assert not [name for name in mine if name in shown], address
    found = "".join(objects.teller.client.get(address).data.decode() for address in lists)
    assert objects.failed in found
    assert objects.webhook_id in found


def test_a_cursor_works_only_within_the_callers_own_list(objects: Objects) -> None:
    """
    A cursor is a position. With another client's key it continues in the list of that client.
    """
    for _ in range(3):
        objects.redemption()
    theirs = objects.teller.other.post("/v1/redemptions", REDEMPTION).json["id"]
    for _ in range(2):
        objects.redemption()
    cursor = objects.teller.client.get("/v1/requests?limit=1").json["next_cursor"]

    shown = objects.teller.other.get(f"/v1/requests?limit=100&cursor={cursor}").json

    assert [row["id"] for row in shown["data"]] == [theirs]


def test_a_client_is_not_notified_of_another_clients_requests(objects: Objects) -> None:
    """
    A webhook, or an account of the same name, of another client gets no notification.
    """
    objects.teller.other.put("/v1/accounts/u", {"email": "eve@example.com"})
    theirs = objects.teller.other.post("/v1/webhooks", WEBHOOK).json["id"]

    objects.teller.fail_withdrawal("bank")

    assert objects.teller.other.get(f"/v1/webhooks/{theirs}/deliveries").json["data"] == []
    with connections.connect(objects.teller.settings.database_url, application_name="test") as connection:
        addresses = connection.execute(
            "SELECT DISTINCT email FROM deliveries WHERE email IS NOT NULL"
        ).fetchall()
    assert addresses == [("ada@example.com",)]


def test_clients_may_use_the_same_idempotency_key(objects: Objects) -> None:
    """
    Idempotency keys belong to a client. The same key of two clients makes two requests.
    """
    first = objects.teller.client.post("/v1/redemptions", REDEMPTION, key="k")
    second = objects.teller.other.post("/v1/redemptions", {**REDEMPTION, "account": "w"}, key="k")

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json["id"] != second.json["id"]
    assert "Idempotency-Replayed" not in second.headers
