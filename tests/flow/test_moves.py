"""
A Teller with waiting requests moves from PostgreSQL 15 to the newest version, by dump or logical replication.
"""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from processor.storage import migrations
from teller.embedded import home as homes
from teller.embedded import postgres
from tests.postgres_pair import started_pair
from tests.servers import PARTITIONS, find_oldest, temporary_home
from tests.stack import Stack
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.settings import Settings

#: Requests that are decided before the move, that wait during it, and that are accepted after it.
DECIDED, WAITING, LATER = 30, 20, 10


@pytest.fixture
def source() -> Iterator[str]:
    """
    The owner's address of a Teller on PostgreSQL 15 whose log can be decoded.
    """
    with started_pair("-c", "wal_level=logical") as pair:
        migrations.migrate(pair.urls[0], PARTITIONS)
        yield pair.urls[0]


@pytest.fixture
def target() -> Iterator[str]:
    """
    The owner's address of an empty database on another cluster of the newest version, without any role of Teller.
    """
    with temporary_home() as home:
        homes.prepare(home)
        server = postgres.Postgres(home)
        server.start()
        try:
            yield postgres.environment(home)["DATABASE_URL"]
        finally:
            server.stop()


def _environment(settings: Settings, url: str) -> dict[str, str]:
    return {
        **settings.environment(),
        **{name: url.replace("user=teller", f"user={role}") for name, role in postgres.ROLES.items()},
    }


def _redeem(stack: Stack, beginning: str, count: int) -> list[str]:
    """Redeem one unit for each of some accounts, one after the other. Returns the accepted requests in order."""
    client = stack.new_client("client", beginning)
    return [
        client.post(
            "/v1/redemptions", {"resource": "sneaker", "account": f"{beginning}-{n}", "amount": 1}, 202, 200
        )["id"]
        for n in range(count)
    ]


def _before(stack: Stack) -> list[str]:
    """Let the first Teller decide some requests, and accept more that it does not decide. Returns all in order."""
    stack.start_api()
    worker = stack.start("worker")
    opening = {"id": "sneaker", "kind": "stock", "available": 1_000}
    stack.new_client("admin").post("/v1/resources", opening, 200, wait=20)
    early = _redeem(stack, "early", DECIDED)
    eventually(lambda: _in_order(stack) == early)
    worker.stop()
    return [*early, *_redeem(stack, "waiting", WAITING)]


def _in_order(stack: Stack) -> list[str]:
    """Return the completed redemptions, in the order of their decisions."""
    rows = stack.owner.execute(
        "SELECT d.request_id FROM decisions d JOIN requests r ON r.id = d.request_id"
        " WHERE r.kind = 'redemption' AND d.status = 'completed' ORDER BY d.sequence"
    )
    return [str(request) for (request,) in rows]


def _waits(stack: Stack) -> None:
    """Processes whose roles do not exist say so, and wait."""
    started = [stack.start(part) for part in ("worker", "courier")]
    eventually(lambda: all("does not exist" in process.last_lines() for process in started))
    assert all(process.alive() for process in started)


def _is_refused(stack: Stack) -> None:
    """Each process names the remedy, and does not start."""
    for part in ("api", "worker", "courier"):
        process = stack.start(part)
        assert process.wait() != 0
        assert "run `teller migrate`" in process.last_lines(), process.last_lines()


def _after(stack: Stack, accepted: list[str]) -> None:
    """The second Teller decides all of it, and what comes later, in the order of acceptance."""
    stack.start_api()
    for part in ("worker", "worker", "courier"):
        stack.start(part)
    later = _redeem(stack, "later", LATER)
    eventually(lambda: len(_in_order(stack)) == DECIDED + WAITING + LATER)
    assert _in_order(stack) == [*accepted, *later]
    stack.check_ledger()
    stack.stop()


def _run(program: str, *arguments: str, text: str | None = None) -> str:
    """Run a program of PostgreSQL 15. Returns its output."""
    binaries = find_oldest()
    assert binaries is not None
    done = subprocess.run(
        [binaries / program, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dump_is_restored_into_another_version_without_roles(
    settings: Settings, source: str, target: str, tmp_path: Path
) -> None:
    """
    Until `teller migrate`, each process waits for its role, and says so. Then all is decided in order.
    """
    with Stack(_environment(settings, source), tmp_path) as stack:
        accepted = _before(stack)
        stack.stop()
    dump = _run("pg_dump", "--no-owner", "--no-privileges", "-d", source)
    _run("psql", "--quiet", "-v", "ON_ERROR_STOP=1", "-d", target, text=dump)

    with Stack(_environment(settings, target), tmp_path) as stack:
        _waits(stack)
        repaired: list[str] = []
        migrations.migrate(target, PARTITIONS, on_repaired=repaired.append)
        assert "made the missing roles and rights" in repaired
        _after(stack, accepted)


def test_logical_replication_under_load_is_followed_by_a_cut_over(
    settings: Settings, source: str, target: str, tmp_path: Path
) -> None:
    """
    It copies no sequence. Until `teller migrate`, no process starts. Then what waited comes before what comes later.
    """
    roles = "".join(f"CREATE ROLE {role} LOGIN;" for role in postgres.ROLES.values() if role != "teller")
    schema = _run("pg_dump", "--schema-only", "--no-owner", "-d", source)
    _run("psql", "--quiet", "-v", "ON_ERROR_STOP=1", "-d", target, text=roles + schema)
    with (
        Stack(_environment(settings, source), tmp_path) as stack,
        psycopg.connect(target, autocommit=True) as copy,
    ):
        stack.owner.execute("CREATE PUBLICATION teller FOR ALL TABLES")
        joined = source.replace("postgresql:///postgres?", "dbname=postgres ").replace("&", " ")
        begin = threading.Thread(
            target=copy.execute,
            args=(f"CREATE SUBSCRIPTION teller CONNECTION '{joined}' PUBLICATION teller".encode(),),
        )
        begin.start()
        accepted = _before(stack)
        begin.join()
        stack.stop()
        [(end,)] = stack.owner.execute("SELECT pg_current_wal_lsn()").fetchall()

        def is_copied() -> bool:
            pending = copy.execute("SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r'").rowcount
            confirmed = stack.owner.execute(
                "SELECT FROM pg_replication_slots WHERE slot_name = 'teller' AND confirmed_flush_lsn >= %s",
                (end,),
            ).rowcount
            return pending == 0 and confirmed == 1

        eventually(is_copied)
        copy.execute("DROP SUBSCRIPTION teller")

    with Stack(_environment(settings, target), tmp_path) as stack:
        _is_refused(stack)
        repaired: list[str] = []
        migrations.migrate(target, PARTITIONS, on_repaired=repaired.append)
        assert [line for line in repaired if line.startswith("advanced the numbers of inbox")]
        _after(stack, accepted)
