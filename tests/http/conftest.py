"""
A Teller in this process, on a database of the test's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from api import create_app
from processor.clients import keys
from processor.storage import connections
from tests.http.teller import Client, Teller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings


@pytest.fixture
def teller(settings: Settings) -> Iterator[Teller]:
    """A Teller without a server and without workers. The test runs the batches."""
    made = {}
    with connections.connect(settings.database_url, application_name="test") as connection:
        for name, role in (
            ("admin", "admin"),
            ("operator", "operator"),
            ("client", "client"),
            ("other", "client"),
        ):
            made[name] = keys.create_key(connection, name, role)
    application = create_app(settings)
    clients = {name: Client(application, key.key, key.client) for name, key in made.items()}
    yield Teller(application, settings, **clients)
    application.extensions["teller"].close()
