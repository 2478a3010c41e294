"""
The doors: every route with no key, with keys that are none any more, with each role, and with another client's key.

A route that has no row in DOORS fails. Each row is the answer to a call that is right in all but who makes it.
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
class Fresh:
    """A body that is another one in each call."""

    make: Callable[[], Any]


@dataclass(frozen=True)
class Door:
    """The status that each gets: whose it is, another client, an operator, an admin (each of a client of its own)."""

    client: int
    other: int
    operator: int
    admin: int
    body: Any = None
    query: str = ""


@dataclass(frozen=True)
class Open:
    """A route without keys, and what everybody gets there."""

    status: int = 200
    body: Any = None


REDEMPTION = {"resource": "bank", "account": "u"}
WITHDRAWAL = {"resource": "bank", "account": "u", "amount": 1}
ITEM = {"kind": "redemption", "idempotency_key": "k", "resource": "bank", "account": "u"}
OPENING = {"id": "new", "kind": "stock", "available": 1}
WEBHOOK = {"url": "https://8.8.8.8/hook"}

DOORS: dict[str, Door | Open] = {
    "POST /v1/resources": Door(403, 403, 403, 202, body=OPENING),
    "PATCH /v1/resources/<resource>": Door(403, 403, 403, 202, body={"unit": "pairs"}),
    "POST /v1/resources/<resource>/close": Door(403, 403, 403, 202),
    "GET /v1/resources": Door(200, 200, 200, 200),
    "GET /v1/resources/<resource>": Door(200, 404, 200, 200),
    "GET /v1/resources/<resource>/entries": Door(200, 404, 200, 200),
    "POST /v1/redemptions": Door(202, 202, 403, 202, body=REDEMPTION),
    "POST /v1/withdrawals": Door(202, 202, 403, 202, body=WITHDRAWAL),
    "POST /v1/deposits": Door(403, 403, 202, 202, body={"resource": "bank", "amount": 1}),
    "POST /v1/batches": Door(202, 202, 202, 202, body={"requests": [ITEM]}),
    "GET /v1/requests/<request>": Door(200, 404, 200, 200),
    "GET /v1/requests": Door(200, 200, 200, 200),
    "GET /v1/requests/<request>/entries": Door(200, 404, 200, 200),
    "GET /v1/requests/<request>/events": Door(200, 404, 200, 200),
    "POST /v1/requests/<request>/cancel": Door(202, 404, 202, 202),
    "GET /v1/accounts/<account>": Door(200, 404, 403, 404),
    "POST /v1/requests/<request>/confirm": Door(409, 404, 403, 409, body={"code": "123456"}),
    "POST /v1/requests/<request>/code": Door(409, 404, 403, 409),
    "PUT /v1/accounts/<account>": Door(200, 200, 403, 200, body={"email": "ada@example.com"}),
    "POST /v1/codes": Door(
        202, 202, 403, 202, body=Fresh(lambda: {"destination": f"{uuid.uuid4()}@example.com"})
    ),
    "POST /v1/codes/verify": Door(
        422, 422, 403, 422, body={"destination": "ada@example.com", "code": "123456"}
    ),
    "POST /v1/webhooks": Door(201, 201, 403, 201, body=WEBHOOK),
    "GET /v1/webhooks": Door(200, 200, 200, 200),
    "GET /v1/webhooks/<webhook>": Door(200, 404, 200, 200),
    "DELETE /v1/webhooks/<webhook>": Door(204, 404, 403, 204),
    "POST /v1/webhooks/<webhook>/rotate": Door(200, 404, 403, 200),
    "GET /v1/webhooks/<webhook>/deliveries": Door(200, 404, 200, 200),
    "POST /v1/deliveries/<delivery>/resend": Door(202, 404, 403, 202),
    "GET /v1/admin/failed": Door(403, 403, 200, 200),
    "GET /v1/admin/requests/<request>": Door(403, 403, 200, 200),
    "POST /v1/admin/requests/<parked>/replay": Door(403, 403, 202, 202, body={"reason": "x"}),
    "POST /v1/admin/replay": Door(403, 403, 200, 200, body={"reason": "x", "dry_run": True}),
    "POST /v1/admin/requests/<parked>/refund": Door(403, 403, 403, 202, body={"reason": "x"}),
    "POST /v1/admin/requests/<awaiting>/approve": Door(403, 403, 202, 202, body={"reason": "x"}),
    "POST /v1/admin/requests/<awaiting>/deny": Door(403, 403, 202, 202, body={"reason": "x"}),
    "GET /v1/admin/partitions": Door(403, 403, 200, 200),
    "POST /v1/admin/partitions/<partition>/pause": Door(403, 403, 200, 200),
    "POST /v1/admin/partitions/<partition>/resume": Door(403, 403, 200, 200),
    "GET /v1/admin/audit": Door(403, 403, 200, 200),
    # The couriers' signature opens it, not a key.
    "POST /sandbox/gateway": Open(401, body={"request": "x"}),
    "GET /sandbox/gateway/calls": Door(403, 403, 200, 200, query="?request=<request>"),
    "GET /healthz": Open(),
    "GET /readyz": Open(),
    "GET /metrics": Open(),
    "GET /openapi.json": Open(),
    "GET /docs": Open(),
    "GET /problems/<slug>": Open(),
}


@dataclass
class House:
    """A Teller in which the client has one of everything; what a call uses up is there again for the next one."""

    teller: Teller

    def __post_init__(self) -> None:
        self.teller.open("bank", "balance", 10_000, gateway="sandbox")
        self.teller.open("own", client=self.teller.client.id)
        self.teller.open("vault", "balance", 10_000, approve_above=5)
        assert self.teller.client.put("/v1/accounts/u", {"email": "ada@example.com"}).status_code == 200
        self.hook = self.webhook()
        self.parked = self.teller.fail_withdrawal("bank")
        [self.delivery] = self.teller.client.get(f"/v1/webhooks/{self.hook}/deliveries").json["data"]

    def webhook(self) -> str:
        """A new webhook of the client's."""
        return str(self.teller.client.post("/v1/webhooks", WEBHOOK).json["id"])

    def redemption(self) -> str:
        """A new request of the client's, not decided yet."""
        return str(self.teller.client.post("/v1/redemptions", REDEMPTION).json["id"])

    def name(self, path: str) -> str:
        """The path with the client's things in it."""
        makers: dict[str, Callable[[], str]] = {
            "<resource>": lambda: "own",
            "<account>": lambda: "u",
            "<request>": self.redemption,
            "<parked>": lambda: self.teller.fail_withdrawal("bank"),
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

    def call(self, who: Client, route: str, door: Door | Open) -> Reply:
        """A call of a route, by whom."""
        method, _, path = route.partition(" ")
        path = self.name(path + getattr(door, "query", ""))
        body = door.body
        if isinstance(body, Fresh):
            body = body.make()
        if method == "POST":
            return who.post(path, body)
        return who.call(method, path, json=body)


@pytest.fixture
def house(teller: Teller) -> House:
    """
    A Teller with something in it.
    """
    return House(teller)


def plain(row: str) -> str:
    """The row's route as the application names it."""
    return row.replace("<parked>", "<request>").replace("<awaiting>", "<request>")


def outsiders(teller: Teller) -> dict[str, Client]:
    """Who has no key that is one: none, a wrong one, a revoked one, an expired one."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        revoked = keys.create_key(connection, "revoked", "admin")
        keys.revoke_key(connection, revoked.id)
        expired = keys.create_key(connection, "expired", "admin", lifetime=timedelta(days=1))
        connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", (expired.id,))
    nobody = replace(teller.admin, headers={"Authorization": None})  # type: ignore[dict-item]  # it is not sent
    wrong = replace(teller.admin, key="teller_" + "a" * 43)
    return {
        "none": nobody,
        "wrong": wrong,
        "revoked": replace(teller.admin, key=revoked.key),
        "expired": replace(teller.admin, key=expired.key),
    }


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    """
    A new route says here who may use it.
    """
    named = {f"{route.method} {route.path}": route for route in ROUTES}
    rows = {plain(row): door for row, door in DOORS.items()}

    assert sorted(rows) == sorted(named)
    assert all(isinstance(door, Door) == bool(named[row].roles) for row, door in rows.items())


def test_without_a_key_that_is_one_every_door_is_shut(house: House) -> None:
    """
    No key, a wrong one, a revoked one, an expired one: 401 alike, whatever is asked for; public routes do not ask.
    """
    seen, expected = {}, {}
    for route, door in DOORS.items():
        for who, caller in (
            outsiders(house.teller).items()
            if isinstance(door, Door)
            else [("none", outsiders(house.teller)["none"])]
        ):
            answer = house.call(caller, plain(route), door)
            seen[route, who] = answer.status_code
            expected[route, who] = 401 if isinstance(door, Door) else door.status
            if isinstance(door, Door):
                assert answer.json["code"] == "unauthorized"
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    assert seen == expected


def test_each_role_gets_through_its_own_doors_and_no_other(house: House) -> None:
    """
    Whose it is, another client, operator, admin: the table says what each gets. What is foreign is 404, never 403.
    """
    people = {
        "client": house.teller.client,
        "other": house.teller.other,
        "operator": house.teller.operator,
        "admin": house.teller.admin,
    }
    seen, expected = {}, {}
    for route, door in DOORS.items():
        for who, caller in people.items():
            answer = house.call(caller, route, door)
            seen[route, who] = answer.status_code
            expected[route, who] = door.status if isinstance(door, Open) else getattr(door, who)
            if answer.status_code == 403:
                assert answer.json["code"] == "forbidden"

    assert seen == expected


def test_what_a_role_may_not_do_leaves_no_trace(house: House) -> None:
    """
    A refused call writes nothing: no request, no webhook, no line in the audit, no row anywhere.
    """

    def everything() -> dict[str, int]:
        with connections.connect(house.teller.settings.database_url, application_name="test") as connection:
            tables = connection.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            ).fetchall()
            return {
                table: connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]  # noqa: S608
                for (table,) in tables
            }

    refused = [
        (getattr(house.teller, who), route, door.body)
        for route, door in DOORS.items()
        for who in ("client", "other", "operator", "admin")
        if isinstance(door, Door) and getattr(door, who) in (403, 404)
    ]
    things = dict.fromkeys(("<request>", "<parked>", "<awaiting>"), house.parked) | {"<webhook>": house.hook}
    before = everything()
    for caller, route, body in refused:
        named = route
        for placeholder, thing in things.items():
            named = named.replace(placeholder, thing)
        assert house.call(caller, named, Open(body=body)).status_code in (403, 404)

    assert everything() == before


# ---------------------------------------------------------------- scenario 27: what is another client's


def test_no_list_shows_what_is_another_clients(house: House) -> None:
    """
    In every list that a client may read there is nothing of the other's, with and without filters that name it.
    """
    mine = {house.parked, house.hook, house.teller.client.id, '"own"', f'"id":{house.delivery["id"]},'}
    lists = [
        "/v1/requests?limit=100",
        "/v1/requests?limit=100&resource=bank&account=u&status=failed",
        "/v1/resources?limit=100",
        "/v1/resources/bank/entries?limit=100",
        "/v1/webhooks?limit=100",
    ]
    for address in lists:
        shown = house.teller.other.get(address).data.decode().replace(" ", "")
        assert not [name for name in mine if name in shown], address
    seen = "".join(house.teller.client.get(address).data.decode() for address in lists)
    assert house.parked in seen
    assert house.hook in seen


def test_a_cursor_opens_no_foreign_list(house: House) -> None:
    """
    A cursor says where to go on, not whose list it is: in another client's hands it leads to that client's things.
    """
    for _ in range(3):
        house.redemption()
    theirs = house.teller.other.post("/v1/redemptions", REDEMPTION).json["id"]
    for _ in range(2):
        house.redemption()
    cursor = house.teller.client.get("/v1/requests?limit=1").json["next_cursor"]

    shown = house.teller.other.get(f"/v1/requests?limit=100&cursor={cursor}").json

    assert [row["id"] for row in shown["data"]] == [theirs]


def test_nobody_is_told_of_another_clients_requests(house: House) -> None:
    """
    A webhook of the other client gets no event of this one's requests, nor does its account of the same name.
    """
    house.teller.other.put("/v1/accounts/u", {"email": "eve@example.com"})
    theirs = house.teller.other.post("/v1/webhooks", WEBHOOK).json["id"]

    house.teller.fail_withdrawal("bank")

    assert house.teller.other.get(f"/v1/webhooks/{theirs}/deliveries").json["data"] == []
    with connections.connect(house.teller.settings.database_url, application_name="test") as connection:
        told = connection.execute("SELECT DISTINCT email FROM deliveries WHERE email IS NOT NULL").fetchall()
    assert told == [("ada@example.com",)]


def test_a_foreign_idempotency_key_is_free(house: House) -> None:
    """
    Two clients may choose the same key: each has its own request, and neither hears of the other's.
    """
    first = house.teller.client.post("/v1/redemptions", REDEMPTION, key="k")
    second = house.teller.other.post("/v1/redemptions", {**REDEMPTION, "account": "w"}, key="k")

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json["id"] != second.json["id"]
    assert "Idempotency-Replayed" not in second.headers
