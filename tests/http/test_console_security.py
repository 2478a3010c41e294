"""
The doors of the console: every page for nobody, for a client's key, for an operator and for an admin, and every form
without its token.

A route that has no row in DOORS fails. Each row is the answer to a visit that is right in all but who makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from api.console.application import ROUTES
from processor.clients import keys, sessions, webhooks
from processor.clients.keys import Caller
from processor.ids import new_id
from processor.operations import bulk_actions
from processor.reading.failed import FailedFilter
from processor.storage import connections
from tests.http.visitor import Visitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http.teller import Client, Teller


@dataclass(frozen=True)
class Door:
    """The status that each gets; a form is sent with these fields."""

    operator: int
    admin: int
    form: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Open:
    """A page for everybody, and what one gets there."""

    status: int = 200
    form: dict[str, str] = field(default_factory=dict)


REASON = {"reason": "x"}
BEGINNING = REASON | {"number": str(UUID(int=1)), "seen": "2026-11-22T04:30:00+00:00"}

DOORS: dict[str, Door | Open] = {
    "GET /admin/sign-in": Open(),
    "POST /admin/sign-in": Open(401, {"key": "teller_nobody"}),
    "POST /admin/sign-out": Door(303, 303),
    "GET /admin": Door(200, 200),
    "GET /admin/partitions/<partition>": Door(200, 200),
    "POST /admin/partitions/<partition>/pause": Door(303, 303, REASON),
    "POST /admin/partitions/<partition>/resume": Door(303, 303, REASON),
    "GET /admin/resources": Door(200, 200),
    "GET /admin/resources/<resource>": Door(200, 200),
    "GET /admin/search": Door(200, 200),
    "GET /admin/webhooks": Door(200, 200),
    "GET /admin/webhooks/<webhook>": Door(200, 200),
    "POST /admin/webhooks/<webhook>/resend": Door(403, 303, REASON | {"newest": "1"}),
    "POST /admin/deliveries/<delivery>/resend": Door(403, 303),
    "POST /admin/webhooks/<webhook>/rotate": Door(403, 200, REASON),
    "POST /admin/webhooks/<webhook>/delete": Door(403, 303, REASON),
    "GET /admin/keys": Door(403, 200),
    "GET /admin/keys/new": Door(403, 200),
    "POST /admin/keys": Door(403, 200, {"name": "x", "role": "client"}),
    "GET /admin/keys/<key>": Door(403, 200),
    "POST /admin/keys/<key>/revoke": Door(403, 303, REASON),
    "GET /admin/audit": Door(200, 200),
    "GET /admin/failed": Door(200, 200),
    "GET /admin/failed/preview": Door(422, 422),
    "POST /admin/failed/preview": Door(303, 303, {"action": "replay"}),
    "POST /admin/failed/replay": Door(303, 303, BEGINNING),
    "POST /admin/failed/refund": Door(403, 303, BEGINNING),
    "GET /admin/failed/actions/<action>": Door(200, 200),
    "POST /admin/failed/actions/<action>/stop": Door(303, 303),
    "GET /admin/requests/<request>": Door(200, 200),
    "POST /admin/requests/<parked>/replay": Door(303, 303, REASON),
    "POST /admin/requests/<parked>/refund": Door(403, 303, REASON | {"key": str(UUID(int=1))}),
    "POST /admin/requests/<awaiting>/cancel": Door(303, 303, REASON),
    "POST /admin/requests/<awaiting>/approve": Door(303, 303, REASON),
    "POST /admin/requests/<awaiting>/deny": Door(303, 303, REASON),
    "GET /admin/approvals": Door(200, 200),
}
#: What forms could change.
TABLES = (
    *("requests", "inbox", "webhooks", "deliveries", "api_keys", "audit", "pauses", "console_sessions"),
    *("bulk_actions", "bulk_items"),
)


@dataclass
class House:
    """A Teller with one of everything; what a form uses up is there again for the next one."""

    teller: Teller

    def __post_init__(self) -> None:
        self.teller.open("bank", "balance", 10_000, gateway="sandbox")
        self.teller.open("vault", "balance", 10_000, approve_above=5)

    def name(self, path: str) -> str:
        """The path with things in it."""
        makers: dict[str, Callable[[], str]] = {
            "<resource>": lambda: "bank",
            "<partition>": lambda: "7",
            "<request>": lambda: self.teller.withdraw("bank"),
            "<parked>": lambda: self.teller.fail_withdrawal("bank"),
            "<awaiting>": lambda: self.teller.withdraw("vault"),
            "<webhook>": self.make_webhook,
            "<delivery>": self.make_delivery,
            "<key>": self.make_key,
            "<action>": self.make_action,
        }
        for placeholder, make in makers.items():
            if placeholder in path:
                path = path.replace(placeholder, make())
        return path

    def make_webhook(self) -> str:
        """One more, of a client of its own."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            return str(webhooks.register(connection, str(new_id()), "https://x.example", None, "test")[0].id)

    def make_delivery(self) -> str:
        """One that failed."""
        hook = self.make_webhook()
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            [(number,)] = connection.execute(
                "INSERT INTO deliveries (request_id, version, type, webhook_id, status, due_at) "
                "VALUES (gen_random_uuid(), 2, 'request.completed', %s, 'failed', NULL) RETURNING id",
                (hook,),
            ).fetchall()
        return str(number)

    def make_key(self) -> str:
        """One more, of a client of its own."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            return str(keys.create_key(connection, "one more", "client").id)

    def make_action(self) -> str:
        """A replay of many, of which there are none."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            number = new_id()
            caller = Caller(number, "somebody", "admin", "admin")
            bulk_actions.begin(connection, number, "replay", FailedFilter(), {}, "x", caller)
        return str(number)

    def everything(self) -> dict[str, int]:
        """How many rows there are of all that forms could change."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            return {
                table: connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]  # noqa: S608
                for table in TABLES
            }

    def impostor(self, who: Client) -> Visitor:
        """Somebody with a session of a client's key, which signing in never makes."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            [(key_id,)] = connection.execute(
                "SELECT id FROM api_keys WHERE client_id = %s", (who.id,)
            ).fetchall()
            token = sessions.begin(connection, Caller(key_id, who.id, "client", "client"))
        visitor = Visitor.new(self.teller)
        assert token is not None
        visitor.browser.set_cookie("teller_session", token, path="/admin")
        return visitor


@pytest.fixture
def house(teller: Teller) -> House:
    """
    A Teller with something in it.
    """
    return House(teller)


def plain(row: str) -> str:
    """The row's route as the application names it."""
    return row.replace("<parked>", "<request>").replace("<awaiting>", "<request>")


def visit(house: House, who: Visitor, row: str, door: Door | Open, csrf: str | None = "own") -> int:
    """The status of a visit."""
    method, _, path = row.partition(" ")
    address = house.name(path)
    return (who.get(address) if method == "GET" else who.send(address, door.form, csrf)).status


def test_every_page_has_a_row_and_every_row_a_page() -> None:
    """
    A new page says here who may see it.
    """
    named = {route.name: route for route in ROUTES}
    rows = {plain(row): door for row, door in DOORS.items()}

    assert sorted(rows) == sorted(named)
    assert all(isinstance(door, Door) == bool(named[row].roles) for row, door in rows.items())


def test_who_is_not_signed_in_is_asked_to(house: House) -> None:
    """
    Every page but the public ones leads to the sign-in page, with the way back, and a form does nothing.
    """
    seen, expected = {}, {}
    for row, door in DOORS.items():
        method, _, path = plain(row).partition(" ")
        address = house.name(path)
        before = house.everything()
        nobody = Visitor.new(house.teller)
        answer = nobody.get(address) if method == "GET" else nobody.send(address, door.form)
        seen[row] = answer.status, (answer.location or "").partition("?")[0]
        expected[row] = (door.status, "") if isinstance(door, Open) else (303, "/admin/sign-in")
        assert house.everything() == before

    assert seen == expected


def test_each_role_gets_through_its_own_doors(house: House) -> None:
    """
    Operator and admin get what the table says; a client's key would get nothing, even if it had a session.
    """
    seen, expected = {}, {}
    for row, door in DOORS.items():
        for name in ("operator", "admin"):
            who = Visitor.signed_in(house.teller, getattr(house.teller, name))
            seen[row, name] = visit(house, who, row, door)
            expected[row, name] = getattr(door, name) if isinstance(door, Door) else door.status
            if row == "GET /admin/sign-in":
                expected[row, name] = 303  # there is no need of it
        if isinstance(door, Door):
            seen[row, "client"] = visit(house, house.impostor(house.teller.client), row, door)
            expected[row, "client"] = 403

    assert seen == expected


def test_a_form_without_its_token_does_nothing(house: House) -> None:
    """
    No token, a wrong one, that of another session, or a right one from another site: 403, and nothing is changed.
    """
    who = Visitor.signed_in(house.teller, house.teller.admin)
    another = Visitor.signed_in(house.teller, house.teller.admin)
    for row, door in DOORS.items():
        if isinstance(door, Open) or row.startswith("GET "):
            continue
        address = house.name(plain(row).partition(" ")[2])
        before = house.everything()
        answers = [
            who.send(address, door.form, csrf=None),
            who.send(address, door.form, csrf="0" * 64),
            who.send(address, door.form, csrf=another.token),
            who.send(address, door.form, Sec_Fetch_Site="cross-site"),
            who.send(address, door.form, Origin="https://evil.example"),
        ]
        assert [answer.status for answer in answers] == [403] * 5, row
        assert house.everything() == before
