"""
The fixtures of all tests: servers that start once, and a database for each test.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import redis
import structlog

from processor.settings import Settings
from tests import servers as test_servers
from tests.servers import NEWEST, OLDEST, Clones, Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# structlog by itself draws each local variable of a traceback: a second of work, in the thread that others wait for.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Add the option that halves the time of the store's tests.
    """
    parser.addoption("--newest-postgres", action="store_true", help="test the store on no older PostgreSQL")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    The tests of the store run on the oldest PostgreSQL, too, where one is installed.
    """
    if "postgres" in metafunc.fixturenames and "store" in metafunc.definition.path.parts:
        has_oldest = test_servers.find_oldest() and not metafunc.config.getoption("--newest-postgres")
        versions = [NEWEST, OLDEST] if has_oldest else [NEWEST]
        metafunc.parametrize("postgres", versions, indirect=True, scope="session")


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
                    assert binaries is not None
                    url = running.enter_context(test_servers.oldest(binaries))
                made[version] = Clones(url)
                running.enter_context(made[version].template())
            return made[version]

        yield of


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, clones: Callable[[str], Clones]) -> Clones:
    """
    The PostgreSQL of a test: the embedded one; in tests/store, one after the other, the oldest, too.
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
    return Settings.from_environment(
        {
            **servers.environment(),
            "DATABASE_URL": database.url,
            "TELLER_API_DATABASE_URL": database.api_url,
            "TELLER_WORKER_DATABASE_URL": database.worker_url,
            "TELLER_COURIER_DATABASE_URL": database.courier_url,
            "REDIS_URL": redis_url,
        }
    )
