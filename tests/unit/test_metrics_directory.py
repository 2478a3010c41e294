"""
The directory of the metrics of `teller up`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from teller.embedded.home import try_lock
from teller.up.metrics import metrics_directory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the directories in one of their own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_it_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    """
    Only its owner reads it.
    """
    with metrics_directory() as made:
        assert made.parent == tmp_path
        assert made.stat().st_mode & 0o777 == 0o700

    assert list(tmp_path.iterdir()) == []


def test_one_that_a_killed_process_left_is_removed_and_one_in_use_stays(tmp_path: Path) -> None:
    """
    The lock shows which. A directory with another name, or without a lock yet, stays.
    """
    kinds = ("teller-metrics-left", "teller-metrics-used", "teller-metrics-new", "other")
    left, used, new, other = (tmp_path / kind for kind in kinds)
    for directory in (left, used, new, other):
        directory.mkdir()
        (directory / "counter.db").write_bytes(b"x")
    for directory in (left, used, other):
        (directory / "lock").touch()
    lock = try_lock(used / "lock")
    assert lock is not None

    with metrics_directory() as made:
        assert set(tmp_path.iterdir()) == {used, new, other, made}
    os.close(lock)


def test_two_processes_do_not_remove_each_other(tmp_path: Path) -> None:
    """
    The second one finds the lock of the first.
    """
    with metrics_directory() as first, metrics_directory() as second:
        assert set(tmp_path.iterdir()) == {first, second}
