"""
With 200,000 requests, no page of the console scans a whole table, and no list of the API reads many rows.

One test loads each page and sends each form. Each statement of the console's SQL files is explained with its real
values before it is executed. The other reads each list with each combination of filters, and counts the rows.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from api import create_app
from processor.clients import keys
from processor.operations import bulk_actions, resends
from processor.reading import failed as failed_queries
from processor.reading import health as health_queries
from processor.reading import keys as key_queries
from processor.reading import overview as overview_queries
from processor.reading import request_detail, request_lists, requests
from processor.reading import webhooks as webhook_queries
from processor.records import audit
from processor.storage import connections, pools
from tests.http.teller import Client, Teller
from tests.http.visitor import Visitor, fields
from tests.http.walked_reads import READ_MAX, WALKED, WALKED_OF_EACH_CLIENT, Measured, reads
from tests.servers import NEWEST, OLDEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.settings import Settings
    from tests.servers import Clones

#: The tables that grow with the number of requests.
BIG: Final = {
    *(
        "requests",
        "decisions",
        "entries",
        "inbox",
        "deliveries",
        "attempts",
        "effects",
        "audit",
        "bulk_items",
        "resources",
    ),
}
#: The lists that read too much, before the tables have statistics and after.
EXCESSIVE: Final[dict[str, list[str]]] = {}
#: The modules whose SQL files the console, `/readyz` and `/metrics` execute.
MODULES: Final = (
    bulk_actions,
    overview_queries,
    audit,
    key_queries,
    webhook_queries,
    failed_queries,
    health_queries,
    request_detail,
    resends,
)
ACTION: Final = "00000000-0000-7000-8000-000000000001"

_STATEMENT: Final = re.compile(r"(?:--[^\n]*\n)*\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b")


@pytest.fixture(scope="module")
def crowded(
    request: pytest.FixtureRequest, servers: Settings, clones: Callable[[str], Clones]
) -> Iterator[Teller]:
    """
    The application on a filled database, on the PostgreSQL of the option, because planners differ.
    """
    text = (Path(__file__).parent / "crowded.sql").read_text()
    filling, vacuum, tables = text.rpartition("VACUUM")
    version = OLDEST if request.config.getoption("--oldest-postgres") else NEWEST
    with clones(version).clone() as clone, pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_lists, "WALKED_MAX", WALKED)
        patch.setattr(request_lists, "WALKED_OF_EACH_CLIENT_MAX", WALKED_OF_EACH_CLIENT)
        patch.setattr(request_lists, "COUNTED_MAX", WALKED)
        patch.setattr(requests, "WALKED_MAX", WALKED)
        patch.setattr(requests, "GAUGE_MAX", WALKED)
        with psycopg.connect(clone.url, autocommit=True) as owner:
            owner.execute(filling.encode())
            EXCESSIVE["without statistics"] = excessive(clone.api_url)
            owner.execute((vacuum + tables).encode())
        EXCESSIVE["with statistics"] = excessive(clone.api_url)
        settings = replace(
            servers,
            database_url=clone.url,
            api_database_url=clone.api_url,
            worker_database_url=clone.worker_url,
            courier_database_url=clone.courier_url,
        )
        with connections.connect(clone.url, application_name="test") as connection:
            admin = keys.create_key(connection, "admin", "admin")
        application = create_app(settings)
        client = Client(application, admin.key, admin.client)
        yield Teller(application, settings, client, client, client, client)
        application.extensions["teller"].close()


def excessive(url: str) -> list[str]:
    """Return the lists that scan a table with many rows, or that read many of its rows."""
    found = []
    pool = pools.open_pool(url, application_name="test", size=1, statement_timeout_ms=60_000)
    with contextlib.closing(pool), pools.lend(pool, 60) as connection:
        for name, read in reads():
            measured = Measured(connection)
            read(measured)
            scanned_ones = measured.sequential & BIG
            if scanned_ones or measured.read_max > READ_MAX:
                found.append(f"{name}: reads {measured.read_max}, scans {scanned_ones}")
    return found


@pytest.mark.usefixtures("crowded")
def test_no_list_reads_more_rows_than_a_few_walks() -> None:
    """
    For each filter and each reader, before the tables have statistics and after.
    """
    assert EXCESSIVE == {"without statistics": [], "with statistics": []}


class Explainer:
    """Explains each statement of the console's SQL files before it is executed."""

    def __init__(self) -> None:
        self.statements = {
            f"{module.__name__}: {name}": text
            for module in MODULES
            for name, text in module.SQL.items()
            if _STATEMENT.match(text)
        }
        self.executed: set[str] = set()
        self.scans: set[tuple[str, str]] = set()
        self._execute = psycopg.Connection.execute

    def named(self, statement: str) -> str | None:
        """Return the name of a statement, whose filters are filled in."""
        beginnings = {name: text.partition("{filters}")[0] for name, text in self.statements.items()}
        found = [name for name, beginning in beginnings.items() if statement.startswith(beginning)]
        return max(found, key=lambda name: len(beginnings[name]), default=None)

    def execute(self, connection: Any, query: Any, params: Any = None, **options: Any) -> Any:
        """Explain and execute a statement, in place of the connection's method."""
        name = self.named(query) if isinstance(query, str) else None
        if name is not None:
            self.executed.add(name)
            [(plan,)] = self._execute(connection, "EXPLAIN (FORMAT JSON) " + query, params).fetchall()
            self.scans |= {(name, table) for table in scanned(plan[0]["Plan"]) if table in BIG}
        return self._execute(connection, query, params, **options)


def scanned(plan: dict[str, Any]) -> set[str]:
    """Return the tables with a sequential scan in a plan."""
    found = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return found.union(*(scanned(inner) for inner in plan.get("Plans", ())))


def test_no_page_reads_a_whole_table(crowded: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Each statement is executed by a page or a form, and none scans a large table.
    """
    explainer = Explainer()
    monkeypatch.setattr(
        psycopg.Connection,
        "execute",
        lambda connection, query, params=None, **options: explainer.execute(
            connection, query, params, **options
        ),
    )
    visitor = Visitor.signed_in(crowded, crowded.admin)
    for address in addresses(crowded):
        assert visitor.get(address).status in {200, 303}, address
    send_forms(visitor)

    assert explainer.scans == set()
    assert explainer.executed == set(explainer.statements)


def addresses(crowded: Teller) -> list[str]:
    """Return the address of each page, with each filter, and of the next page of each list."""
    with connections.connect(crowded.settings.database_url, application_name="test") as connection:
        [(failed,)] = connection.execute(
            "SELECT request_id FROM decisions WHERE current AND status = 'failed' LIMIT 1 OFFSET 50000"
        ).fetchall()
    pages = [
        "/readyz",
        "/metrics",
        "/admin",
        "/admin/partitions/7",
        "/admin/resources",
        "/admin/resources?kind=balance",
        "/admin/resources/resource:7",
        f"/admin/search?q={failed}",
        "/admin/search?q=account-7",
        "/admin/search?q=resource:1",
        "/admin/search?q=key-7",
        "/admin/requests",
        "/admin/requests?status=failed&resource=resource:0",
        "/admin/requests?account=account-7&client=client-7&kind=withdrawal",
        "/admin/requests?metadata=A-17&amount=2.50&id=019&since=2026-11-18T12:00",
        "/admin/requests?key=key-7",
        "/admin/failed",
        "/admin/failed?code=processor_error",
        "/admin/failed?resource=resource:7",
        "/admin/failed?account=account-7&client=client-7",
        "/admin/failed?since=2026-11-18T12:00&until=2026-11-18T13:00",
        "/admin/failed/preview?action=replay&resource=resource:7",
        "/admin/failed/preview?action=refund",
        f"/admin/failed/actions/{ACTION}",
        f"/admin/requests/{failed}",
        "/admin/approvals",
        "/admin/webhooks",
        "/admin/webhooks?client=client-7",
        "/admin/webhooks?state=disabled",
        "/admin/webhooks?state=failing",
        "/admin/webhooks/00000000-0000-7000-8000-000000000001",
        "/admin/webhooks/00000000-0000-7000-8000-000000000001?status=failed",
        "/admin/keys",
        "/admin/keys?client=client-7",
        "/admin/keys?role=operator",
        "/admin/keys?state=revoked",
        "/admin/keys/00000000-0000-7000-8000-000000000007",
        "/admin/keys/new",
        "/admin/audit",
        "/admin/audit?action=replay",
        "/admin/audit?actor=client-7+(admin+key+7)",
        f"/admin/audit?request={failed}",
        "/admin/audit?since=2026-11-18T12:00&until=2026-11-18T13:00",
    ]
    return pages + [later for page in pages if (later := next_page(crowded, page)) is not None]


def next_page(crowded: Teller, page: str) -> str | None:
    """Return the address of the next page of a list, or None if there is none."""
    visitor = Visitor.signed_in(crowded, crowded.admin)
    found = re.search(r'name="cursor" value="([^"]+)"', visitor.get(page).text)
    return None if found is None else f"{page}{'&' if '?' in page else '?'}cursor={found[1]}"


def send_forms(visitor: Visitor) -> None:
    """Send each form, for a few rows."""
    for action, number in (("replay", 7), ("refund", 9)):
        wanted = f"action={action}&account=account-{number}&client=client-{number}"
        preview = visitor.get(f"/admin/failed/preview?{wanted}").text
        form = fields(preview, f"/admin/failed/{action}") | {"reason": "x"}
        begun = visitor.send(f"/admin/failed/{action}", form)
        assert begun.status == 303, begun.text
        assert visitor.get(str(begun.location)).status == 200
        assert visitor.send(f"{begun.location}/stop").status == 303
    made = visitor.send("/admin/keys", {"name": "one more", "role": "client", "client": "client-7"})
    assert made.status == 200, made.text
    hook = "/admin/webhooks/00000000-0000-7000-8000-000000000001"
    resent = visitor.send(f"{hook}/resend", {"reason": "x", "newest": "1000000"})
    assert resent.status == 303, resent.text
    resent = visitor.send("/admin/deliveries/1/resend")
    assert resent.status == 303, resent.text
