"""
`teller archive`, and the commands that go on from what it leaves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from processor.storage import connections
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from processor.settings import Settings
    from tests.cli.result import Result
    from tests.store.store import Store


@pytest.fixture
def redeemed(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Three completed redemptions, which may leave at once."""
    monkeypatch.setenv("TELLER_KEEP_DAYS", "0")
    store.open("coupon", "coupon", 10)
    store.accept(*(store.redeems("coupon", f"u{n}") for n in range(3)))
    store.drain("coupon")
    return store


def now() -> str:
    return datetime.now(UTC).isoformat()


@pytest.mark.usefixtures("redeemed")
def test_finished_requests_leave_and_the_rest_is_verified(
    teller: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A dry run counts them, a run moves them, a second run finds none. `teller verify` finds nothing wrong.
    """
    monkeypatch.setenv("TELLER_KEEP_DAYS", "0")
    there = tmp_path / "archive"

    dry = teller("archive", "--before", now(), "--to", str(there), "--dry-run", "--json").document
    assert dry == {"requests": 3, "files": 1, "bytes": 0, "dry_run": True}
    assert not there.exists()

    moved = teller("archive", "--before", now(), "--to", str(there))
    [path] = there.iterdir()
    assert (moved.status, moved.err) == (0, "")
    assert moved.out == f"3 requests left for 1 files in {there} ({path.stat().st_size:,} bytes)\n"
    assert path.stat().st_mode & 0o077 == 0
    assert teller("archive", "--before", now(), "--to", str(there)).out == "no requests leave\n"
    verified = teller("verify", "--json").document
    assert verified["ok"]
    assert verified["checked"]["archived"] == 3


def test_requests_that_have_to_stay_are_refused_in_one_line(
    teller: Callable[..., Result], redeemed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A time within TELLER_KEEP_DAYS, a bad directory and a wrong role are one line each, and change nothing.
    """
    (tmp_path / "file").touch()
    old = (datetime.now(UTC) - timedelta(days=31)).isoformat()
    for days, before, to, code in (
        ("30", now(), "new", "archive_refused"),
        ("0", now(), "file", "archive_unwritable"),
        ("0", now(), "file/below", "archive_unwritable"),
    ):
        monkeypatch.setenv("TELLER_KEEP_DAYS", days)
        teller("archive", "--before", before, "--to", str(tmp_path / to), "--json").refuses(1, code)
    assert teller("archive", "--before", old, "--to", str(tmp_path / "new")).out == "no requests leave\n"
    monkeypatch.setenv("TELLER_ARCHIVE_DATABASE_URL", redeemed.database.worker_url)
    detail = teller("archive", "--before", now(), "--to", str(tmp_path / "other"), "--json").refuses(
        1, "archive_role_missing"
    )
    assert "TELLER_ARCHIVE_DATABASE_URL" in detail
    assert not (tmp_path / "other").exists()
    assert redeemed.one("SELECT count(*) FROM requests") == 4


@pytest.mark.parametrize("name", ["hledger", "beancount", "csv"])
def test_an_export_begins_with_the_checkpoints(
    teller: Callable[..., Result], redeemed: Store, tmp_path: Path, name: str
) -> None:
    """
    Entries in the archive are left out, and the quantities go on from there. An earlier end is refused.
    """
    teller("archive", "--before", now(), "--to", str(tmp_path))
    redeemed.accept(redeemed.redeems("coupon", "zoe"))
    redeemed.drain("coupon")

    exported = teller("export", "--format", name)

    assert exported.status == 0
    assert "left out" in exported.err
    assert "coupon/5" in exported.out or name == "csv"
    assert "coupon/4" not in exported.out
    assert "zoe" in exported.out
    assert "u1" not in exported.out
    if name != "csv":
        assert "forward" in exported.out
    refused = teller("export", "--format", name, "--until", "2026-01-01", "--json")
    refused.refuses(1, "archived")
    assert teller("export", "--format", name, "--until", now()).status == 0


def test_control_c_ends_it_and_the_next_run_goes_on(
    store: Store, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Ctrl-C during the first file ends the command within seconds, and nothing of it stays.
    """
    store.open("coupon", "coupon", 10_000)
    store.accept(*(store.redeems("coupon", f"u{n}") for n in range(3_000)))
    store.drain("coupon")
    environment = {**os.environ, **settings.environment(), "TELLER_KEEP_DAYS": "0"}
    arguments = [
        sys.executable,
        "-m",
        "teller",
        "archive",
        "--before",
        now(),
        "--to",
        str(tmp_path),
        "--json",
    ]
    with (
        connections.connect(store.database.url, application_name="test lock") as holder,
        holder.transaction(),
    ):
        holder.execute("LOCK TABLE archives IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'teller archive' AND wait_event_type = 'Lock'"
        )
        eventually(lambda: store.one(waiting) == 1)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert time.monotonic() - begun < 10
    assert process.returncode != 0
    assert store.one("SELECT count(*) FROM requests") == 3_001

    ended = subprocess.run(arguments, env=environment, capture_output=True, check=True)
    assert json.loads(ended.stdout)["requests"] == 3_000
