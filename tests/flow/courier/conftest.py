"""
A courier on a store whose batches the test drains, and servers for it to call.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from tests.flow.courier.mail_server import MailServer, receiving
from tests.flow.courier.outside import Outside, serving
from tests.flow.courier.till import Till
from tests.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.settings import Settings
    from tests.servers import Database


@pytest.fixture
def outside() -> Iterator[Outside]:
    """
    A server that answers 200 until the test changes that.
    """
    with serving() as server:
        yield server


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """
    A mail server on a free port of this machine.
    """
    with receiving() as server:
        yield server


@pytest.fixture
def till(settings: Settings, database: Database, outside: Outside, tmp_path: Path) -> Iterator[Till]:
    """
    A store with couriers. At the end the ledger must be right.
    """
    quick = dataclasses.replace(
        settings,
        home=tmp_path / "home",
        gateways={"bank": f"{outside.url}/pay"},
        gateway_tries=3,
        gateway_backoff_seconds=0.05,
        gateway_timeout_seconds=2.0,
        allow_private_webhooks=True,
        smtp_url=None,
    )
    with open_store(database) as store:
        made = Till(store, quick, tmp_path, outside)
        try:
            yield made
        finally:
            made.close()
        store.check_ledger()
