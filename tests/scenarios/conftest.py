"""
One system for all stories, on a database and a Valkey of its own.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from teller.embedded import home as homes
from teller.embedded.valkey import Valkey, environment
from tests.scenarios.system import System
from tests.servers import temporary_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings
    from tests.servers import Clones

#: How often a story is told, by the name of the argument that says which time it is: each way of asking once, and
#: the long ones once.
ROUNDS = {
    "told": int(os.environ.get("SCENARIO_ROUNDS", "4")),
    "seldom_told": int(os.environ.get("SCENARIO_ROUNDS", "1")),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Each test that is a story.
    """
    for argument in metafunc.fixturenames:
        if argument in ROUNDS:
            metafunc.parametrize(argument, range(ROUNDS[argument]))


@pytest.fixture(scope="package")
def valkey_url() -> Iterator[str]:
    """
    The bells of this system are heard by nobody else's workers.
    """
    with temporary_home() as home:
        homes.prepare(home)
        valkey = Valkey(home)
        valkey.start()
        try:
            yield environment(home)["REDIS_URL"]
        finally:
            valkey.stop()


@pytest.fixture(scope="package")
def system(
    servers: Settings, clones: object, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """
    Two APIs and two workers. When all is over, the books must be right.
    """
    made: Clones = clones("embedded")  # type: ignore[operator]
    with made.clone() as database:
        settings = replace(
            servers,
            database_url=database.url,
            api_database_url=database.api_url,
            worker_database_url=database.worker_url,
            courier_database_url=database.courier_url,
            redis_url=valkey_url,
        )
        running = System(settings, tmp_path_factory.mktemp("scenarios"))
        try:
            running.start()
            yield running
            running.check_books()
        finally:
            running.close()
