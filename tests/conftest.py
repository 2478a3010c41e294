"""
The fixtures of all tests: servers that start once, and a database for each test.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import pytest
import redis
import structlog

from tests import servers as test_servers
from tests.servers import NEWEST, OLDEST, Clones, Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.settings import Settings

# structlog by itself draws each local variable of a traceback: a second of work, in the thread that others wait for.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does that to a command that ends with &
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Add the option for the oldest supported PostgreSQL.
    """
    parser.addoption(
        "--oldest-postgres", action="store_true", help="test the store on an installed PostgreSQL 15 alone"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Run the tests of the store, and of the console's plans, on the embedded PostgreSQL or on the oldest one.
    """
    if "postgres" in metafunc.fixturenames and "store" in metafunc.definition.path.parts:
        version = OLDEST if metafunc.config.getoption("--oldest-postgres") else NEWEST
        metafunc.parametrize("postgres", [version], indirect=True, scope="session")


@pytest.fixture(scope="session")
def servers() -> Iterator[Settings]:
    """
    An embedded PostgreSQL and Valkey in a temporary home, or those of DATABASE_URL and REDIS_URL: the settings of
    a Teller that uses them.
    """
    with test_servers.embedded() as settings:
        yield settings


@pytest.fixture(scope="session")
def clones(servers: Settings) -> Iterator[Callable[[str], Clones]]:
    """
    For each PostgreSQL, started when it is first asked for, its template.
    """
    with contextlib.ExitStack() as running:
        made: dict[str, Clones] = {}

        def of(version: str) -> Clones:
            if version not in made:
                url = servers.database_url
                if version == OLDEST:
                    binaries = test_servers.find_oldest()
                    assert binaries is not None, "install PostgreSQL 15, or leave out --oldest-postgres"
                    url = running.enter_context(test_servers.oldest(binaries))
                made[version] = Clones(url)
                running.enter_context(made[version].template())
            return made[version]

        yield of


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, clones: Callable[[str], Clones]) -> Clones:
    """
    The PostgreSQL of a test: the embedded one, or in tests/store the oldest one, if the option says so.
    """
    return clones(getattr(request, "param", NEWEST))


@pytest.fixture
def database(postgres: Clones) -> Iterator[Database]:
    """
    A migrated database of the test's own.
    """
    with postgres.clone() as clone:
        yield clone


@pytest.fixture
def empty_database(postgres: Clones) -> Iterator[str]:
    """
    The URL of a database that was never migrated.
    """
    with postgres.empty() as url:
        yield url


@pytest.fixture
def version_2(postgres: Clones) -> Iterator[str]:
    """
    The URL of a database of schema version 2, with data.
    """
    with postgres.version_2() as url:
        yield url


@pytest.fixture
def redis_url(servers: Settings) -> str:
    """
    An empty Redis, if it is the tests' own. A given one is left as it is.
    """
    if servers.embeds_valkey:
        with redis.Redis.from_url(servers.redis_url) as client:
            client.flushall()
    return servers.redis_url


@pytest.fixture
def settings(servers: Settings, database: Database, redis_url: str) -> Settings:
    """
    The settings of a Teller that has the test's database, as the roles that guard it.
    """
    assert redis_url == servers.redis_url  # it is empty now
    return test_servers.settings_of(servers, database)
