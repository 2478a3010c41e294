"""
One Teller and one Chromium for all tests of pages.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.pages import CHROMIUM, BrowserStack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from processor.settings import Settings
    from tests.servers import Clones


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """
    An installed Chromium, or the one that Playwright fetched before.
    """
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = next((path for path in (*CHROMIUM, own) if path.exists()), None)
        if found is None:
            pytest.skip(
                "no Chromium here; install one (Debian has `chromium`), or run `playwright install chromium`"
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
def stack(
    servers: Settings,
    clones: Callable[[str], Clones],
    browser: Browser,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[BrowserStack]:
    """
    API, worker and courier. The tests share them, and create resources and clients of their own.
    """
    with (
        clones("embedded").clone() as database,
        BrowserStack(servers, database, browser, tmp_path_factory.mktemp("browser")) as running,
    ):
        running.begin()
        yield running
        running.stop()
