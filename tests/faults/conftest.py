"""
One system under load for the stories of this folder. After all of them, everything that it did must be right.
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

#: The number of rounds of each story; `make faults` prints it.
ROUNDS = int(os.environ.get("SCENARIO_ROUNDS", "1"))
SEED = int(os.environ.get("SEED", "1"))
PEOPLE = 6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Run each test that has a `round_number` in all rounds.
    """
    if "round_number" in metafunc.fixturenames:
        metafunc.parametrize("round_number", range(ROUNDS))


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """
    A running system with clients. At the end, each answer, entry, payout and message is checked.
    """
    with temporary_home() as home, running(home, SEED, PEOPLE) as begun:
        begun.load.start()
        begun.system.pause(1)
        yield begun
        begun.settle()
        assert begun.judge() == []
