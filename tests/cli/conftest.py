"""
The commands, run in the process of the test on a database of the test's own.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from processor import log
from processor.domain.partitioning import partition_of
from teller.root import main
from tests.cli.result import Result
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
    A Teller without processes. The test submits requests and runs the batches.
    """
    with open_store(database) as opened:
        yield opened


@pytest.fixture
def run_teller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """
    `run_teller("keys", "list")` is `teller keys list`, in the environment that `monkeypatch` made.
    """
    # Logging is configured once for the process, which belongs to pytest.
    monkeypatch.setattr(log, "configure", lambda *_: None)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["teller", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, out, err)

    return run


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An environment without any setting of Teller.
    """
    for name in os.environ:
        if name.startswith(("TELLER_", "DATABASE_URL", "REDIS_URL")):
            monkeypatch.delenv(name)


@pytest.fixture
def teller(
    settings: Settings,
    clean_environment: None,
    run_teller: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    """
    As `run_teller`, with DATABASE_URL and REDIS_URL set to those of the test.
    """
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    return run_teller


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
def fail_request(store: Store) -> Callable[[str], uuid.UUID]:
    """
    `fail_request("ticket")` returns a failed request for this resource, whose gateway was misconfigured.
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
