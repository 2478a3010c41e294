"""
One system under load for the stories of this folder; when all are told, everything that it did must be right.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.faults.run import running
from tests.servers import temporary_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.run import Run

#: How often each story is told; `make faults` says how often it was.
ROUNDS = int(os.environ.get("SCENARIO_ROUNDS", "1"))
SEED = int(os.environ.get("SEED", "1"))
PEOPLE = 6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Each test that is a story.
    """
    if "told" in metafunc.fixturenames:
        metafunc.parametrize("told", range(ROUNDS))


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """
    It runs, and people ask. In the end each answer, entry, payout and message is held against what must be.
    """
    with temporary_home() as home, running(home, SEED, PEOPLE) as begun:
        begun.load.start()
        begun.system.pause(1)
        yield begun
        begun.settle()
        assert begun.judge() == []
