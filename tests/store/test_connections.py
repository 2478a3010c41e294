"""
Connections and pools: a dead or read-only connection is never used, and a server that is back is found at once.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from processor.errors import DatabaseUnavailable, DatabaseUnsafe
from processor.intake.intake import Intake
from processor.storage import connections, pools
from tests.faults.proxy import Proxy
from tests.servers import PARTITIONS, temporary_home
from tests.store.store import NO_LIMIT, started
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.storage.connections import Connection
    from processor.storage.pools import Pool
    from tests.servers import Database
    from tests.store.store import Store

#: The time in which a read of the API must have its connection, in seconds.
LEND_SECONDS = 2.0
#: The time after the return of a server in which it must be used again, in seconds.
RECOVERY_SECONDS = 2.0
#: An outage after which a pause that doubles from one second would be longer than RECOVERY_SECONDS.
OUTAGE_SECONDS = 3.5
POOL_SIZE = 4


@pytest.fixture
def pool(database: Database) -> Iterator[Pool]:
    """
    A pool that has POOL_SIZE idle connections.
    """
    with _filled(database.api_url) as filled:
        yield filled


@contextlib.contextmanager
def _filled(url: str) -> Iterator[Pool]:
    pool = pools.open_pool(url, application_name="test pool", size=POOL_SIZE, statement_timeout_ms=2_500)
    with contextlib.closing(pool):
        assert len(_pids(pool)) == POOL_SIZE
        yield pool


def _pids(pool: Pool) -> set[int]:
    """Lend all connections of a pool at once. Returns the ids of their backends."""
    together = threading.Barrier(POOL_SIZE)

    def one(_: int) -> int:
        with pools.lend(pool, LEND_SECONDS) as connection:
            together.wait()
            return connection.info.backend_pid

    with ThreadPoolExecutor(POOL_SIZE) as threads:
        return set(threads.map(one, range(POOL_SIZE)))


def _read(pool: Pool) -> str:
    with pools.lend(pool, LEND_SECONDS) as connection:
        [(state,)] = connection.execute("SHOW transaction_read_only").fetchall()
        return str(state)


def _end_backends(store: Store, name: str) -> None:
    store.owner.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s AND application_name = %s",
        (store.database.name, name),
    )


def test_a_pool_whose_connections_have_died_lends_a_good_one(store: Store, pool: Pool) -> None:
    """
    All idle connections were closed, as by idle_session_timeout. The next read finds no fault.
    """
    before = _pids(pool)
    _end_backends(store, "test pool")

    assert _read(pool) == "off"
    assert not _pids(pool) & before


def test_a_pool_behind_a_proxy_that_forgot_its_connections_lends_a_good_one(database: Database) -> None:
    """
    A firewall drops idle connections in silence. One check waits in vain, and its siblings are dropped with it.
    """
    with temporary_home() as home, _proxied(database, home / "proxy") as (proxy, url), _filled(url) as pool:
        proxy.strand()

        limit = Deadline(LEND_SECONDS)
        assert _read(pool) == "off"
        limit.check()


@contextlib.contextmanager
def _proxied(database: Database, directory: Path) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of the database's server, and the URL of the API's role through it."""
    with psycopg.connect(database.url) as asking:
        target = f"{asking.info.host}/.s.PGSQL.{asking.info.port}"
    proxy = Proxy(directory, type(directory)(target))
    try:
        yield proxy, re.sub(r"host=[^&]*", f"host={directory}", database.api_url)
    finally:
        proxy.close()


def test_a_connection_that_became_read_only_is_not_lent_and_neither_are_its_siblings(pool: Pool) -> None:
    """
    A primary that has become a standby answers every check that only asks whether it is there.
    """
    before = _pids(pool)
    with pools.lend(pool, LEND_SECONDS) as connection:
        connection.execute("SET default_transaction_read_only = on")

    states = {_read(pool) for _ in range(POOL_SIZE)}

    assert states == {"off"}
    assert not _pids(pool) & before


def test_a_server_that_became_read_only_is_no_server(store: Store) -> None:
    """
    A new connection to a server that accepts no writes is refused, unless the URL asks for any server.
    """
    url = store.database.api_url
    name = sql.Identifier(store.database.name)
    store.owner.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))

    with pytest.raises(DatabaseUnavailable, match="read-only"):
        connections.connect(url, application_name="test")
    connections.connect(f"{url}&target_session_attrs=any", application_name="test").close()


def test_a_pool_finds_a_server_that_was_unavailable_for_long(store: Store, pool: Pool) -> None:
    """
    During the outage clients keep asking. The pauses between two tries do not grow with its length.
    """
    name = sql.Identifier(store.database.name)
    server = re.sub(r"/teller_test_\w+", "/postgres", store.database.url)
    with psycopg.connect(server, autocommit=True) as elsewhere:
        elsewhere.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        _end_backends(store, "test pool")
        ends_at = time.monotonic() + OUTAGE_SECONDS
        while time.monotonic() < ends_at:
            with pytest.raises(DatabaseUnavailable), pools.lend(pool, 0.3):
                pass
        elsewhere.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))

    limit = Deadline(RECOVERY_SECONDS)
    assert _read(pool) == "off"
    limit.check()


def test_a_connection_of_a_thread_is_replaced_after_a_quiet_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The server ends idle sessions. The first request after a quiet time is accepted all the same.
    """
    monkeypatch.setattr(connections, "CHECK_AFTER_SECONDS", 0.05)
    url = f"{store.database.api_url}&options=-c%20idle_session_timeout%3D100ms"

    def connect() -> Connection:
        return connections.connect(url, application_name="test quiet")

    with started(Intake(connect, PARTITIONS, NO_LIMIT, lambda _: None)) as [one]:
        one.accept([store.redeems("sneaker", "ada")])
        eventually(lambda: not _has_backend(store, "test quiet"))

        [receipt] = one.accept([store.redeems("sneaker", "bob")])

    assert receipt.request is not None


def _has_backend(store: Store, name: str) -> bool:
    found = store.owner.execute("SELECT FROM pg_stat_activity WHERE application_name = %s", (name,))
    return found.fetchone() is not None


@pytest.mark.parametrize(
    ("loss", "repair"),
    [
        ("REVOKE INSERT ON requests FROM teller_api", "GRANT INSERT ON requests TO teller_api"),
        ("ALTER TABLE inbox RENAME TO mislaid", "ALTER TABLE mislaid RENAME TO inbox"),
        ("ALTER SCHEMA public RENAME TO mislaid", "ALTER SCHEMA mislaid RENAME TO public"),
    ],
)
def test_rights_and_tables_that_are_missing_for_a_moment_are_a_fault_of_the_database(
    store: Store, loss: str, repair: str
) -> None:
    """
    Rights or tables are missing, as during a restore. Callers may try again, and the writer goes on afterwards.
    """
    store.owner.execute(loss.encode())
    with pytest.raises(DatabaseUnavailable):
        store.intake.accept([store.redeems("sneaker", "ada")])
    store.owner.execute(repair.encode())

    assert store.intake.alive()
    assert store.accept(store.redeems("sneaker", "ada"))


def test_the_writer_survives_an_error_that_has_no_name_here(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Any other error of PostgreSQL is logged and answered as unavailable. The thread goes on.
    """
    monkeypatch.setattr("processor.intake.intake.ACCEPT", "SELECT 1 / %(id)b")
    with pytest.raises(DatabaseUnavailable):
        store.intake.accept([store.redeems("sneaker", "ada")])
    monkeypatch.undo()

    assert store.intake.alive()
    assert store.accept(store.redeems("sneaker", "ada"))


# ---------------------------------------------------------------- settings that break promises


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("timezone", "Asia/Tokyo", "UTC"),
        ("datestyle", "SQL, DMY", "ISO, MDY"),
        ("intervalstyle", "iso_8601", "postgres"),
        ("default_transaction_isolation", "serializable", "read committed"),
        ("synchronous_commit", "off", "on"),
        ("synchronous_commit", "remote_apply", "remote_apply"),
        ("standard_conforming_strings", "off", "on"),
        ("client_min_messages", "error", "warning"),
        ("client_encoding", "latin1", "UTF8"),
    ],
)
def test_a_session_has_the_settings_that_it_needs(store: Store, name: str, wrong: str, right: str) -> None:
    """
    A setting of the database or the role that breaks a promise does not reach a session of Teller.
    """
    store.owner.execute(
        sql.SQL("ALTER DATABASE {} SET {} = {}").format(
            sql.Identifier(store.database.name), sql.Identifier(name), sql.Literal(wrong)
        )
    )

    with (
        contextlib.closing(connections.connect(store.database.api_url, application_name="test")) as one,
        _filled(store.database.api_url) as pool,
        pools.lend(pool, LEND_SECONDS) as another,
    ):
        shown = [
            connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone()
            for connection in (one, another)
        ]

    assert shown == [(right,), (right,)]


@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
def test_a_server_that_may_lose_what_it_committed_is_refused(store: Store, name: str) -> None:
    """
    One line names the setting of the server, which no session can change.
    """
    source = "SELECT source FROM pg_settings WHERE name = %s"
    if store.owner.execute(source, (name,)).fetchone() == ("command line",):
        pytest.skip("the embedded server has it in its command line")
    change = sql.SQL("ALTER SYSTEM {}")
    setting = sql.Identifier(name)
    store.owner.execute(change.format(sql.SQL("SET {} = off").format(setting)))
    try:
        _reload(store, name, "off")
        with pytest.raises(DatabaseUnsafe, match=f"^the setting {name} of PostgreSQL is off"):
            connections.connect(store.database.api_url, application_name="test")
    finally:
        store.owner.execute(change.format(sql.SQL("RESET {}").format(setting)))
        _reload(store, name, "on")


def _reload(store: Store, name: str, value: str) -> None:
    """Let the server read its settings again. Returns when a new session has this value."""
    store.owner.execute("SELECT pg_reload_conf()")

    def has_value() -> bool:
        with psycopg.connect(store.database.url) as new:
            return new.execute("SELECT current_setting(%s)", (name,)).fetchone() == (value,)

    eventually(has_value)


def test_a_database_of_another_encoding_is_refused(store: Store) -> None:
    """
    Not all of Unicode fits into it.
    """
    name = f"{store.database.name}_latin"
    store.owner.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'").format(
            sql.Identifier(name)
        )
    )
    try:
        with pytest.raises(DatabaseUnsafe, match="server_encoding"):
            connections.connect(
                store.database.url.replace(f"/{store.database.name}", f"/{name}"), application_name="test"
            )
    finally:
        store.owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
