"""
One system and one Chromium for all tests that look at pages.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.desk import CHROMIUM, Desk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from processor.settings import Settings
    from tests.servers import Clones


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """
    A Chromium that is there already: an installed one, or the one that Playwright fetched before.
    """
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = next((path for path in (*CHROMIUM, own) if path.exists()), None)
        if found is None:
            pytest.skip(
                "no Chromium here: install one (Debian: chromium), or run playwright install chromium"
            )
        started = playwright.chromium.launch(
            executable_path=found,
            # As root there is no sandbox; the pages are our own.
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        try:
            yield started
        finally:
            started.close()


@pytest.fixture(scope="package")
def desk(
    servers: Settings,
    clones: Callable[[str], Clones],
    browser: Browser,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Desk]:
    """
    API, worker and courier; tests share them, and make resources and people of their own.
    """
    with clones("embedded").clone() as database:
        settings = replace(
            servers,
            database_url=database.url,
            api_database_url=database.api_url,
            worker_database_url=database.worker_url,
            courier_database_url=database.courier_url,
        )
        running = Desk(settings, browser, tmp_path_factory.mktemp("desk"))
        try:
            yield running
        finally:
            running.close()
