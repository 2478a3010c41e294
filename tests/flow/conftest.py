"""
Workers as processes, on a database and a Redis of the test's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.flow.workers import WorkerStack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.settings import Settings


@pytest.fixture
def installation(settings: Settings, tmp_path: Path) -> Iterator[WorkerStack]:
    """
    A stack of workers. At the end every request must have been decided once, and in order.
    """
    with WorkerStack(settings, tmp_path) as stack:
        yield stack
        stack.check_order()
