"""
The access matrix of the console: each page without a session and with each role, and each form without its token.

A route without a row in ACCESS fails a test. The call of a row is valid, so only the visitor decides its status.
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
class Access:
    """The status for an operator and an admin. A form is sent with these fields."""

    operator: int
    admin: int
    form: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Public:
    """A page without a session, and its status for every visitor."""

    status: int = 200
    form: dict[str, str] = field(default_factory=dict)


REASON = {"reason": "x"}
BEGINNING = REASON | {"number": str(UUID(int=1)), "seen": "2026-11-22T04:30:00+00:00"}

ACCESS: dict[str, Access | Public] = {
    "GET /admin/sign-in": Public(),
    "POST /admin/sign-in": Public(401, {"key": "teller_unknown"}),
    "POST /admin/sign-out": Access(303, 303),
    "GET /admin": Access(200, 200),
    "GET /admin/partitions/<partition>": Access(200, 200),
    "POST /admin/partitions/<partition>/pause": Access(303, 303, REASON),
    "POST /admin/partitions/<partition>/resume": Access(303, 303, REASON),
    "GET /admin/resources": Access(200, 200),
    "GET /admin/resources/<resource>": Access(200, 200),
    "GET /admin/search": Access(200, 200),
    "GET /admin/requests.<form>": Access(200, 200),
    "GET /admin/failed.<form>": Access(200, 200),
    "GET /admin/audit.<form>": Access(200, 200),
    "GET /admin/resources.<form>": Access(200, 200),
    "GET /admin/webhooks.<form>": Access(200, 200),
    "GET /admin/resources/<resource>/entries.<form>": Access(200, 200),
    "GET /admin/webhooks": Access(200, 200),
    "GET /admin/webhooks/<webhook>": Access(200, 200),
    "POST /admin/webhooks/<webhook>/resend": Access(403, 303, REASON | {"newest": "1"}),
    "POST /admin/deliveries/<delivery>/resend": Access(403, 303),
    "POST /admin/webhooks/<webhook>/rotate": Access(403, 200, REASON),
    "POST /admin/webhooks/<webhook>/delete": Access(403, 303, REASON),
    "GET /admin/keys": Access(403, 200),
    "GET /admin/keys/new": Access(403, 200),
    "POST /admin/keys": Access(403, 200, {"name": "x", "role": "client"}),
    "GET /admin/keys/<key>": Access(403, 200),
    "POST /admin/keys/<key>/revoke": Access(403, 303, REASON),
    "GET /admin/audit": Access(200, 200),
    "GET /admin/failed": Access(200, 200),
    "GET /admin/failed/preview": Access(422, 422),
    "POST /admin/failed/preview": Access(303, 303, {"action": "replay"}),
    "POST /admin/failed/replay": Access(303, 303, BEGINNING),
    "POST /admin/failed/refund": Access(403, 303, BEGINNING),
    "GET /admin/failed/actions/<action>": Access(200, 200),
    "POST /admin/failed/actions/<action>/stop": Access(303, 303),
    "GET /admin/requests": Access(200, 200),
    "GET /admin/requests/<request>": Access(200, 200),
    "POST /admin/requests/<failed>/replay": Access(303, 303, REASON),
    "POST /admin/requests/<failed>/refund": Access(403, 303, REASON | {"key": str(UUID(int=1))}),
    "POST /admin/requests/<awaiting>/cancel": Access(303, 303, REASON),
    "POST /admin/requests/<awaiting>/approve": Access(303, 303, REASON),
    "POST /admin/requests/<awaiting>/deny": Access(303, 303, REASON),
    "GET /admin/approvals": Access(200, 200),
    "GET /admin/reservations": Access(200, 200),
    "POST /admin/requests/<held>/release": Access(303, 303, REASON),
    "GET /admin/resources-new": Access(403, 200),
    "POST /admin/resources-new": Access(
        403, 303, REASON | {"key": "0" * 36} | {"id": "new-one", "kind": "stock", "available": "5"}
    ),
    "POST /admin/resources/<resource>/deposit": Access(
        303, 303, REASON | {"key": "1" * 36} | {"amount": "5"}
    ),
    "POST /admin/resources/<resource>/amend": Access(
        403, 303, REASON | {"key": "2" * 36} | {"approve_above": "5"}
    ),
    "POST /admin/resources/<resource>/close": Access(403, 303, REASON | {"key": "3" * 36}),
}
#: The tables that forms can change.
TABLES = (
    *("requests", "inbox", "webhooks", "deliveries", "api_keys", "audit", "pauses", "console_sessions"),
    *("bulk_actions", "bulk_items"),
)


@dataclass
class Objects:
    """A Teller with one object of each kind. Each visit gets objects that it may use up."""

    teller: Teller

    def __post_init__(self) -> None:
        self.teller.open("bank", "balance", 10_000, gateway="sandbox")
        self.teller.open("vault", "balance", 10_000, approve_above=5)

    def fill(self, path: str) -> str:
        """Return the path with objects in place of its parameters."""
        makers: dict[str, Callable[[], str]] = {
            "<resource>": lambda: "bank",
            "<form>": lambda: "csv",
            "<partition>": lambda: "7",
            "<request>": lambda: self.teller.withdraw("bank"),
            "<failed>": lambda: self.teller.fail_withdrawal("bank"),
            "<awaiting>": lambda: self.teller.withdraw("vault"),
            "<held>": self.reserve,
            "<webhook>": self.make_webhook,
            "<delivery>": self.make_delivery,
            "<key>": self.make_key,
            "<action>": self.make_action,
        }
        for placeholder, make in makers.items():
            if placeholder in path:
                path = path.replace(placeholder, make())
        return path

    def reserve(self) -> str:
        """Create a reservation that is held."""
        body = {"resource": "bank", "account": "u"}
        request = str(self.teller.client.post("/v1/reservations", body).json["id"])
        self.teller.drain()
        return request

    def make_webhook(self) -> str:
        """Create a webhook of a new client."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            return str(webhooks.register(connection, str(new_id()), "https://x.example", None, "test")[0].id)

    def make_delivery(self) -> str:
        """Create a failed delivery."""
        hook = self.make_webhook()
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            [(number,)] = connection.execute(
                "INSERT INTO deliveries (request_id, version, type, webhook_id, status, due_at) "
                "VALUES (gen_random_uuid(), 2, 'request.completed', %s, 'failed', NULL) RETURNING id",
                (hook,),
            ).fetchall()
        return str(number)

    def make_key(self) -> str:
        """Create a key of a new client."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            return str(keys.create_key(connection, "one more", "client").id)

    def make_action(self) -> str:
        """Begin a bulk replay that matches no request."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            number = new_id()
            caller = Caller(number, "an operator", "admin", "admin")
            bulk_actions.begin(connection, number, "replay", FailedFilter(), {}, "x", caller)
        return str(number)

    def count_rows(self) -> dict[str, int]:
        """Return the number of rows of each table that forms can change."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            return {
                table: connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]  # noqa: S608
                for table in TABLES
            }

    def impostor(self, client: Client) -> Visitor:
        """Return a visitor with a session of a client's key, which signing in never makes."""
        with connections.connect(self.teller.settings.database_url, application_name="test") as connection:
            [(key_id,)] = connection.execute(
                "SELECT id FROM api_keys WHERE client_id = %s", (client.id,)
            ).fetchall()
            token = sessions.begin(connection, Caller(key_id, client.id, "client", "client"))
        visitor = Visitor.new(self.teller)
        assert token is not None
        visitor.browser.set_cookie("teller_session", token, path="/admin")
        return visitor


@pytest.fixture
def objects(teller: Teller) -> Objects:
    """
    A Teller with one object of each kind.
    """
    return Objects(teller)


def route_of(row: str) -> str:
    """Return the route of a row as the application names it."""
    return (
        row.replace("<failed>", "<request>").replace("<awaiting>", "<request>").replace("<held>", "<request>")
    )


def visit(
    objects: Objects, visitor: Visitor, row: str, access: Access | Public, csrf: str | None = "own"
) -> int:
    """Return the status of a visit."""
    method, _, path = row.partition(" ")
    address = objects.fill(path)
    return (visitor.get(address) if method == "GET" else visitor.send(address, access.form, csrf)).status


def test_every_page_has_a_row_and_every_row_a_page() -> None:
    """
    Each page and form has a row here, and each row belongs to a route.
    """
    named = {route.name: route for route in ROUTES}
    rows = {route_of(row): access for row, access in ACCESS.items()}

    assert sorted(rows) == sorted(named)
    assert all(isinstance(access, Access) == bool(named[row].roles) for row, access in rows.items())


def test_a_visitor_without_a_session_is_sent_to_the_sign_in_page(objects: Objects) -> None:
    """
    All but public pages redirect to the sign-in page. A form changes nothing.
    """
    found, expected = {}, {}
    for row, access in ACCESS.items():
        method, _, path = route_of(row).partition(" ")
        address = objects.fill(path)
        before = objects.count_rows()
        visitor = Visitor.new(objects.teller)
        answer = visitor.get(address) if method == "GET" else visitor.send(address, access.form)
        found[row] = answer.status, (answer.location or "").partition("?")[0]
        expected[row] = (access.status, "") if isinstance(access, Public) else (303, "/admin/sign-in")
        assert objects.count_rows() == before

    assert found == expected


def test_each_role_gets_the_status_of_its_row(objects: Objects) -> None:
    """
    Operators and admins get the status in the row. A session of a client's key gets 403.
    """
    found, expected = {}, {}
    for row, access in ACCESS.items():
        for name in ("operator", "admin"):
            visitor = Visitor.signed_in(objects.teller, getattr(objects.teller, name))
            found[row, name] = visit(objects, visitor, row, access)
            expected[row, name] = getattr(access, name) if isinstance(access, Access) else access.status
            if row == "GET /admin/sign-in":
                expected[row, name] = 303  # a session needs no sign-in page
        if isinstance(access, Access):
            found[row, "client"] = visit(objects, objects.impostor(objects.teller.client), row, access)
            expected[row, "client"] = 403

    assert found == expected


def test_a_form_without_a_valid_token_changes_nothing(objects: Objects) -> None:
    """
    No token, a wrong token, that of another session, and another site all return 403.
    """
    visitor = Visitor.signed_in(objects.teller, objects.teller.admin)
    another = Visitor.signed_in(objects.teller, objects.teller.admin)
    for row, access in ACCESS.items():
        if isinstance(access, Public) or row.startswith("GET "):
            continue
        address = objects.fill(route_of(row).partition(" ")[2])
        before = objects.count_rows()
        answers = [
            visitor.send(address, access.form, csrf=None),
            visitor.send(address, access.form, csrf="0" * 64),
            visitor.send(address, access.form, csrf=another.token),
            visitor.send(address, access.form, Sec_Fetch_Site="cross-site"),
            visitor.send(address, access.form, Origin="https://evil.example"),
        ]
        assert [answer.status for answer in answers] == [403] * 5, row
        assert objects.count_rows() == before
