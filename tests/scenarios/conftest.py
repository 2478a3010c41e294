"""
One Teller for all scenarios, on a database and a Valkey of its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from teller.embedded import home as homes
from teller.embedded.valkey import Valkey, environment
from tests.scenarios.scenario_stack import ScenarioStack
from tests.servers import temporary_home
from tests.stack import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.settings import Settings
    from tests.servers import Clones

#: The rounds of a scenario, by the name of the argument that numbers them.
ROUNDS = {
    "round_number": int(os.environ.get("SCENARIO_ROUNDS", "4")),
    "long_round": int(os.environ.get("SCENARIO_ROUNDS", "1")),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Number the rounds of each scenario.
    """
    for argument in metafunc.fixturenames:
        if argument in ROUNDS:
            metafunc.parametrize(argument, range(ROUNDS[argument]))


@pytest.fixture(scope="package")
def valkey_url() -> Iterator[str]:
    """
    A Valkey that no other workers use.
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
def stack(
    servers: Settings,
    clones: Callable[[str], Clones],
    valkey_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ScenarioStack]:
    """
    Two APIs and two workers. At the end everything must be right.
    """
    with clones("embedded").clone() as database:
        # One key sends the load of a whole crowd.
        variables = environment_of(servers, database, REDIS_URL=valkey_url, TELLER_RATE_LIMIT="1000000")
        logs = tmp_path_factory.mktemp("scenarios")
        with ScenarioStack(variables, logs, embeds_postgres=servers.embeds_postgres) as running:
            running.begin()
            yield running
            running.check_all()
