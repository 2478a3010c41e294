"""
A primary that dies and a standby that takes its place: two PostgreSQL 15 servers, and one address that names both.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from processor.errors import DatabaseUnavailable
from processor.intake.intake import Intake, Submission, fingerprint
from processor.storage import connections, migrations, pools
from teller.embedded import home as homes
from teller.embedded.child import spawn
from tests.servers import PARTITIONS, find_oldest, temporary_home
from tests.store.store import KEY_ID, NO_LIMIT, accepted_id, started
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from processor.storage.connections import Connection
    from teller.embedded.child import Child

#: The time after the promotion in which requests are accepted and read again, in seconds.
RECOVERY_SECONDS = 2.0
STOP_SECONDS = 10.0


class Pair:
    """A primary with a synchronous standby."""

    def __init__(self, start: Callable[..., Child], primary: Path, standby: Path) -> None:
        self._start = start
        self._standby = standby
        self.urls = [_url(primary), _url(standby)]
        self.primary = self._serve(primary)
        self._until_there(self.urls[0])

    def add_standby(self) -> None:
        """Copy the primary. Commits wait for the copy from now on."""
        host = _host(self.urls[0])
        copy = self._start(
            "pg_basebackup", "-h", host, "-U", "teller", "-D", f"{self._standby}/data", "-R", "-c", "fast"
        )
        eventually(lambda: not copy.alive())
        self._serve(self._standby)
        self._until_there(self.urls[1])
        with psycopg.connect(self.urls[0], autocommit=True) as owner:
            eventually(
                lambda: owner.execute(
                    "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
                ).fetchone()
            )
            owner.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            owner.execute("SELECT pg_reload_conf()")
            eventually(
                lambda: owner.execute(
                    "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
                ).fetchone()
            )

    def promote(self) -> None:
        """Make the standby the primary. Returns when it accepts writes."""
        with psycopg.connect(self.urls[1], autocommit=True) as standby:
            standby.execute("SELECT pg_promote()")

    @property
    def both(self) -> str:
        """The address of both, as the API's role. The standby comes first."""
        hosts = ",".join(_host(url) for url in reversed(self.urls))
        return f"postgresql:///postgres?host={hosts}&user=teller_api"

    def _serve(self, directory: Path) -> Child:
        return self._start(
            "postgres",
            "-D",
            f"{directory}/data",
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={directory}",
        )

    @staticmethod
    def _until_there(url: str) -> None:
        def answers() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(url).close()
                return True
            return False

        eventually(answers)


def _host(url: str) -> str:
    return str(conninfo_to_dict(url)["host"])


def _redeems(number: int) -> Submission:
    body = {"resource": "sneaker", "account": f"u{number}", "amount": 1}
    digest = fingerprint("redemption", body)
    return Submission("shop", KEY_ID, f"key-{number}", digest, "redemption", "sneaker", f"u{number}", 1)


def _url(directory: Path) -> str:
    return f"postgresql:///postgres?host={directory}&user=teller"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """
    Two servers, of which the second is empty yet.
    """
    binaries = find_oldest()
    if binaries is None:
        pytest.skip("PostgreSQL 15 is not installed")
    account = homes.account()
    with temporary_home() as home, contextlib.ExitStack() as running:
        lock = homes.try_lock(home / "lock")
        assert lock is not None
        running.callback(os.close, lock)
        directories = [homes.private_directory(home / name, account) for name in ("a", "b")]

        def start(program: str, *arguments: str) -> Child:
            child = spawn(
                [binaries / program, *arguments],
                stop_signal=signal.SIGQUIT,
                log=home / "log",
                lock=lock,
                account=account,
            )
            running.callback(child.stop, STOP_SECONDS)
            return child

        initdb = start(
            "initdb",
            "-D",
            f"{directories[0]}/data",
            "-U",
            "teller",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        )
        eventually(lambda: not initdb.alive())
        yield Pair(start, *directories)


def test_the_standby_takes_over_with_everything_that_was_accepted(pair: Pair) -> None:
    """
    Requests go to the primary, although the address names the standby first. After its promotion they go there.
    """
    migrations.migrate(pair.urls[0], PARTITIONS)
    pair.add_standby()
    pool = pools.open_pool(pair.both, application_name="test pool", size=4, statement_timeout_ms=2_500)

    def connect() -> Connection:
        return connections.connect(pair.both, application_name="test intake")

    with contextlib.closing(pool), started(Intake(connect, PARTITIONS, NO_LIMIT, lambda _: None)) as [one]:
        accepted = [accepted_id(receipt) for receipt in one.accept([_redeems(n) for n in range(9)])]
        pair.primary.process.kill()
        pair.primary.process.wait()
        with pytest.raises(DatabaseUnavailable):
            one.accept([_redeems(10)])
        pair.promote()

        limit = Deadline(RECOVERY_SECONDS)
        with pools.lend(pool, RECOVERY_SECONDS) as connection:
            stored = connection.execute("SELECT id FROM requests WHERE id = ANY(%s)", (accepted,)).fetchall()
        assert one.accept([_redeems(11)])
        limit.check()
    assert {request for (request,) in stored} == set(accepted)
