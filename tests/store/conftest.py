"""
A store for each test, on the embedded PostgreSQL, or on the oldest supported one (`make test-oldest`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Database
    from tests.store.store import Store


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """
    A Teller without processes: the test submits and drains. The ledger must be right at the end.
    """
    with open_store(database) as opened:
        yield opened
        opened.check_ledger()
