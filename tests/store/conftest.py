"""
A store for each test, on the embedded PostgreSQL and, where one is installed, on the oldest that is supported.
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
    A Teller without processes: the test hands in and drains. Whatever happened, the books must be right.
    """
    with open_store(database) as opened:
        yield opened
        opened.check_books()
