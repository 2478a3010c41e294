"""
A Teller in this process, on a database of the test's own, or on one that tests share because they change nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from api.console import requests as console_requests
from processor.storage import connections
from tests.http.teller import Teller, opened
from tests.servers import NEWEST, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.settings import Settings
    from tests.servers import Clones

#: Numbers that grow with every change that a call can make.
CHANGES = """
    SELECT (SELECT count(*) FROM requests), (SELECT count(*) FROM inbox), (SELECT count(*) FROM resources),
           (SELECT count(*) FROM accounts), (SELECT count(*) FROM webhooks), (SELECT count(*) FROM deliveries),
           (SELECT count(*) FROM codes), (SELECT count(*) FROM api_keys), (SELECT count(*) FROM audit),
           (SELECT count(*) FROM pauses), (SELECT count(*) FROM sandbox_payouts)
"""


@pytest.fixture(autouse=True)
def no_waits_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The console does not wait for decisions, since no worker runs.
    """
    monkeypatch.setattr(console_requests, "DECISION_SECONDS", 0.0)


@pytest.fixture
def teller(request: pytest.FixtureRequest) -> Iterator[Teller]:
    """
    A Teller without a server and without workers. The test runs the batches.

    Tests with the mark `changes_nothing` share one, and fail if they change it.
    """
    if request.node.get_closest_marker("changes_nothing") is None:
        with opened(request.getfixturevalue("settings")) as own:
            yield own
        return
    shared: Teller = request.getfixturevalue("shared_teller")
    with connections.connect(shared.settings.database_url, application_name="test") as connection:
        before = connection.execute(CHANGES).fetchone()
        yield shared
        assert connection.execute(CHANGES).fetchone() == before, "the test has changed the shared database"


@pytest.fixture(scope="session")
def shared_teller(servers: Settings, clones: Callable[[str], Clones]) -> Iterator[Teller]:
    """The Teller of all tests that change nothing."""
    with clones(NEWEST).clone() as database, opened(settings_of(servers, database)) as shared:
        yield shared
