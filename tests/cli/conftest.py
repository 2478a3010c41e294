"""
The commands as a person types them, in this process, on a database of the test's own.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from processor import log
from processor.domain.partitioning import partition_of
from teller.root import main
from tests.cli.said import Said
from tests.servers import PARTITIONS
from tests.store.store import open_store

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterator

    from processor.settings import Settings
    from tests.servers import Database
    from tests.store.store import Store


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """
    A Teller without processes: the test hands in and drains.
    """
    with open_store(database) as opened:
        yield opened


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """
    `speak("keys", "list")` is `teller keys list`, in the environment that `monkeypatch` has made.
    """
    monkeypatch.setattr(log, "configure", lambda *_: None)  # the log is the whole process's, and so pytest's

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["teller", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, out, err)

    return run


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An environment without a setting of Teller's.
    """
    for name in os.environ:
        if name.startswith(("TELLER_", "DATABASE_URL", "REDIS_URL")):
            monkeypatch.delenv(name)


@pytest.fixture
def teller(
    settings: Settings, outside: None, speak: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """
    As `speak`, with DATABASE_URL and REDIS_URL set to those of the test.
    """
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    return speak


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """
    `terminal(100)`: standard output is a terminal of a hundred columns.
    """

    def become(columns: int) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))

    return become


@pytest.fixture
def park(store: Store) -> Callable[[str], uuid.UUID]:
    """
    `park("ticket")`: a request after this resource, whose gateway was misconfigured.
    """

    def one(resource: str) -> uuid.UUID:
        if not store.one("SELECT count(*) FROM resources WHERE id = %s", resource):
            store.open(resource, gateway="sandbox")
        [request] = store.accept(store.redeems(resource, "ada"))
        store.drain(resource)
        store.owner.execute(
            "UPDATE effects SET outcome = 'misconfigured', due_at = NULL WHERE request_id = %s", (request,)
        )
        store.owner.execute(
            "INSERT INTO inbox (partition, request_id, verb) VALUES (%s, %s, 'settle')",
            (partition_of(resource, PARTITIONS), request),
        )
        store.drain(resource)
        assert store.statuses([request]) == ["gateway_misconfigured"]
        return request

    return one
