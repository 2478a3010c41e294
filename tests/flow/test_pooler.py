"""
Teller behind PgBouncer in transaction mode, where sessions are shared: everything is as without it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from processor.errors import DatabaseUnsafe
from processor.settings import Address
from processor.storage import connections, migrations
from tests import poolers
from tests.servers import PARTITIONS
from tests.stack import Stack, at_once, environment_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.settings import Settings
    from tests.poolers import Pooler
    from tests.servers import Database
    from tests.stack import Client, Document

#: Clients that ask at the same instant, how often each, and the units that they ask for.
CLIENTS = 32
TURNS = 4
STOCK = 50
#: Executions after which psycopg prepares a statement by name.
EXECUTIONS = 12


@pytest.fixture(scope="session")
def pooler(servers: Settings) -> Iterator[Pooler]:
    """
    A PgBouncer in front of the embedded PostgreSQL.
    """
    program = poolers.find()
    if program is None or not servers.embeds_postgres:
        pytest.skip("PgBouncer is not installed, or PostgreSQL is a given one")
    with poolers.running(program, servers.database_url) as started:
        yield started


@pytest.fixture
def migrated(database: Database) -> Database:
    """
    A database on which `teller migrate` has run: a clone has no settings of roles.
    """
    migrations.migrate(database.url, PARTITIONS)
    return database


def test_a_crowd_is_served_through_the_pooler(
    migrated: Database, pooler: Pooler, settings: Settings, tmp_path: Path
) -> None:
    """
    32 clients want 50 units, 4 times each, and two workers decide them. Nothing had to be tried again.
    """
    urls = {
        name: pooler.url(url)
        for name, url in settings.environment().items()
        if name.endswith("DATABASE_URL") and name != "DATABASE_URL"
    }
    with Stack(environment_of(settings, migrated, **urls), tmp_path) as stack:
        stack.start_api()
        stack.start("courier")
        for _ in range(2):
            stack.start("worker")
        stack.until_shared()
        admin, client = stack.new_client("admin"), stack.new_client("client")
        opening = {"id": "sneaker", "kind": "stock", "available": STOCK}
        assert admin.post("/v1/resources", opening, 200, wait=20)["status"] == "completed"

        def redeem(one: Client, number: int) -> list[Document]:
            body = {"resource": "sneaker", "account": f"u{number}", "amount": 1}
            return [one.post("/v1/redemptions", body, 200, 202, wait=20) for _ in range(TURNS)]

        answers = [answer for some in at_once(CLIENTS, redeem, [client]) for answer in some]

        assert Counter(answer["status"] for answer in answers) == {
            "completed": STOCK,
            "rejected": CLIENTS * TURNS - STOCK,
        }
        stack.check_ledger()
        stack.stop()
        events = [event for process in stack.processes for event in process.events()]
    faults = [event for event in events if event.get("level") in ("warning", "error", "critical")]
    assert faults == []


def test_a_pooler_is_recognised_and_nothing_is_left_in_its_sessions(
    migrated: Database, pooler: Pooler
) -> None:
    """
    No statement is prepared by name, and no setting is made in a session that the next client gets.
    """
    with contextlib.closing(
        connections.connect(pooler.url(migrated.api_url), application_name="test", statement_timeout_ms=77)
    ) as connection:
        for _ in range(EXECUTIONS):
            connection.execute("SELECT count(*) FROM requests")
        with connection.transaction():
            [(prepared,)] = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()
            found: dict[str, str] = dict(
                connection.execute(
                    "SELECT name, setting FROM pg_settings WHERE name IN ('TimeZone', 'statement_timeout')"
                ).fetchall()
            )

    assert prepared == 0
    assert found == {"TimeZone": "UTC", "statement_timeout": "2500"}


def test_a_pooler_that_cannot_be_recognised_is_named_by_a_setting(migrated: Database) -> None:
    """
    With TELLER_DATABASE_POOLER even a direct connection uses nothing of its session.
    """
    url = Address.of(migrated.api_url, is_pooled=True)
    with contextlib.closing(
        connections.connect(url, application_name="test", statement_timeout_ms=77)
    ) as connection:
        for _ in range(EXECUTIONS):
            connection.execute("SELECT count(*) FROM requests")
        [(prepared,)] = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()
        [(timeout,)] = connection.execute("SHOW statement_timeout").fetchall()

    assert (prepared, timeout) == (0, "2500ms")


def test_migrate_repairs_the_settings_of_roles_and_without_them_no_connection_is_used(
    database: Database, pooler: Pooler
) -> None:
    """
    Behind a pooler a wrong setting is one line that names it. `teller migrate` sets it, and says so once.
    """
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute(
            sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Tokyo'").format(sql.Identifier(database.name))
        )

    with pytest.raises(DatabaseUnsafe, match="timezone of the role teller_api is Asia/Tokyo"):
        connections.connect(pooler.url(database.api_url), application_name="test")
    first: list[str] = []
    again: list[str] = []
    migrations.migrate(database.url, PARTITIONS, on_repaired=first.append)
    migrations.migrate(database.url, PARTITIONS, on_repaired=again.append)

    assert [line.split(":")[0] for line in first] == [
        f"set the settings of the role teller_{role}" for role in ("api", "archive", "courier", "worker")
    ]
    assert again == []
    connections.connect(pooler.url(database.courier_url), application_name="test").close()
