"""
The embedded servers as a user meets them: started, used from beside, killed, and started again.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psycopg
import redis

from tests.waiting import TIMEOUT_SECONDS, Deadline, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.embedded.holding import Holder

    Start = Callable[..., Holder]


def test_a_teller_that_is_started_again_has_its_data_and_its_secrets(start: Start, home: Path) -> None:
    """
    Committed rows and generated secrets are there after a clean stop and the next start.
    """
    first = start(home, "up")
    remember(first, "before the stop")
    first.stop()

    second = start(home, "up")

    assert remembered(second) == ["before the stop"]
    assert second.where["TELLER_SECRET"] == first.where["TELLER_SECRET"]
    assert second.where["TELLER_GATEWAY_SECRET"].startswith("whsec_")


def test_servers_die_with_a_killed_teller_and_the_next_one_has_everything(start: Start, home: Path) -> None:
    """
    After kill -9 of Teller no server is left behind, and a start right away waits for them and loses nothing.
    """
    first = start(home, "up")
    remember(first, "before the kill")
    first.kill()

    second = start(home, "up")

    assert second.error == ""
    assert remembered(second) == ["before the kill"]
    assert_gone(first.where["pids"])


def test_servers_die_with_their_teller_where_a_watcher_watches(start: Start, home: Path) -> None:
    """
    Without PR_SET_PDEATHSIG a watcher stops the servers when Teller is killed.
    """
    first = start(home, "up", "watcher")
    first.kill()

    assert_gone(first.where["pids"])


def test_a_watcher_leaves_with_its_server(start: Start, home: Path) -> None:
    """
    A clean stop ends the watchers, too: the locks they might have kept are free.
    """
    start(home, "up", "watcher").stop()

    assert start(home, "up").error == ""


def test_everything_killed_at_once_is_recovered(start: Start, home: Path) -> None:
    """
    As after a power cut: Teller and both servers killed with -9, and what was committed is there.
    """
    first = start(home, "up")
    remember(first, "before the cut")
    for pid in first.where["pids"]:
        os.kill(pid, signal.SIGKILL)
    first.kill()

    assert remembered(start(home, "up")) == ["before the cut"]


def test_a_second_up_on_the_same_home_is_refused_at_once(start: Start, home: Path) -> None:
    """
    Two Tellers on one home: the second says so in one line, without waiting, and the first goes on.
    """
    first = start(home, "up")
    limit = Deadline(2)

    second = start(home, "up")

    assert second.error == f"another Teller already runs on {home}"
    limit.check()
    remember(first, "still here")


def test_a_command_uses_the_servers_that_run(start: Start, home: Path) -> None:
    """
    While `teller up` runs, another command finds its servers, starts none, and leaves them running.
    """
    up = start(home, "up")
    remember(up, "from up")

    command = start(home, "command")

    assert command.where["pids"] == []
    assert remembered(command) == ["from up"]
    command.stop()
    remember(up, "after the command")


def test_a_command_alone_starts_servers_and_waits_for_their_users(start: Start, home: Path) -> None:
    """
    Two commands without a `teller up`: the first starts the servers, and stops them only when the second is done.
    """
    first = start(home, "command")
    second = start(home, "command")
    assert (len(first.where["pids"]), second.where["pids"]) == (2, [])

    assert first.process.stdin
    first.process.stdin.close()
    remember(second, "after the first was done")
    second.stop()

    assert first.process.wait(TIMEOUT_SECONDS) == 0
    assert_gone(first.where["pids"])


def remember(holder: Holder, what: str) -> None:
    """Commit a row, and set a key."""
    with psycopg.connect(holder.where["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS remembered (what text)")
        connection.execute("INSERT INTO remembered VALUES (%s)", (what,))
    with redis.Redis.from_url(holder.where["REDIS_URL"]) as client:
        client.set("remembered", what)


def remembered(holder: Holder) -> list[str]:
    """The rows; Valkey only has to answer."""
    with redis.Redis.from_url(holder.where["REDIS_URL"]) as client:
        client.ping()
    with psycopg.connect(holder.where["DATABASE_URL"]) as connection:
        return [row[0] for row in connection.execute("SELECT what FROM remembered")]


def assert_gone(pids: list[int]) -> None:
    """
    Wait until none of these processes runs.
    """
    assert pids
    eventually(lambda: not any(map(runs, pids)))


def runs(pid: int) -> bool:
    """Whether there is such a process; one that only waits to be reaped does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not is_zombie(pid)


def is_zombie(pid: int) -> bool:
    """
    Say whether it is a zombie. Killed children of a killed Teller stay zombies where no process reaps orphans.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - beside the point
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False
