"""
A whole Teller with people, and browsers in which they look at its console.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

from processor.clients import keys
from processor.storage import connections
from tests.flow.conftest import WorkerProcess
from tests.flow.courier.conftest import CourierProcess
from tests.flow.house import ApiProcess, Person, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

    from processor.settings import Settings

#: Where a Chromium may be, for Playwright's own is not the only one; never looked up on PATH.
CHROMIUM = (
    Path("/usr/bin/chromium"),
    Path("/usr/bin/chromium-browser"),
    Path("/usr/bin/google-chrome"),
    Path("/usr/bin/google-chrome-stable"),
    Path("/opt/google/chrome/chrome"),
    Path("/snap/bin/chromium"),
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
)
#: Nothing in these stories takes longer, in milliseconds, unless something is broken.
PATIENCE_MS = 15_000
#: Screenshots of the pages go there, if anywhere.
SCREENSHOTS = os.environ.get("TELLER_SCREENSHOTS")
#: Findings of axe that are not let pass.
GRAVE = ("serious", "critical")
#: What Chromium says of each answer that is a 4xx or 5xx.
ANSWERED = "the server responded with a status"
#: How a page is looked at: name → options of the browser context.
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


class Desk:
    """The processes, and those who use them: over HTTP (Person), or with a browser (`look`)."""

    def __init__(self, settings: Settings, browser: Browser, logs: Path) -> None:
        self.browser = browser
        self.logs = logs
        self.settings = replace(
            settings,
            port=free_port(),
            home=logs / "home",
            gateway_tries=1,
            gateway_backoff_seconds=0.05,
            gateway_timeout_seconds=2.0,
            smtp_url=None,
            sign_in_limit=1_000,
            lab=True,
        )
        self.owner = psycopg.connect(settings.database_url, autocommit=True)
        self.api = ApiProcess(self.settings, logs / "api.log", allow_private_webhooks=True)
        self.worker = WorkerProcess(self.settings, logs / "worker.log")
        self.courier = CourierProcess(self.settings, logs / "courier.log")
        self._people: list[Person] = []
        self.admin = self.person("admin")
        self.operator = self.person("operator")
        self.client = self.person("client")

    def person(self, role: str, name: str | None = None) -> Person:
        """Somebody new, with a client of their own."""
        with contextlib.closing(
            connections.connect(self.settings.database_url, application_name="test")
        ) as connection:
            found = Person(self.api.url, keys.create_key(connection, name or role, role))
        self._people.append(found)
        return found

    @contextlib.contextmanager
    def look(
        self,
        who: Person | None = None,
        look: str = "light",
        *,
        scripts: bool = True,
        brought_about: tuple[str, ...] = (),
    ) -> Iterator[Page]:
        """
        A browser page of somebody who has signed in (None: nobody). Errors on its console, such as what the content
        policy refuses, and faults of its scripts fail the test at the end, but for those that it brings about.
        """
        context: BrowserContext = self.browser.new_context(
            base_url=self.api.url, java_script_enabled=scripts, **LOOKS[look]
        )
        try:
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: said.append(str(error)))
            if who is not None:
                sign_in(page, who)
            yield page
            wrong = [text for text in said if not any(known in text for known in (ANSWERED, *brought_about))]
            assert not wrong, "\n".join(wrong)
        finally:
            context.close()

    def open(self, resource: str, kind: str = "stock", available: int = 10, **rules: Any) -> None:
        """A resource that is there."""
        body = {"id": resource, "kind": kind, "available": available, **rules}
        assert self.admin.post("/v1/resources", body, 200, wait=20)["status"] == "completed"

    def withdraw(
        self, resource: str, account: str = "ada", amount: int = 1, wait: int = 20, **more: Any
    ) -> str:
        """A withdrawal of the client's; returns its id."""
        body = {"resource": resource, "account": account, "amount": amount, **more}
        asked: str = self.client.post("/v1/withdrawals", body, 200, 202, wait=wait)["id"]
        return asked

    def close(self) -> None:
        """End all processes; the API in order."""
        for person in self._people:
            person.http.close()
        self.courier.kill()
        self.worker.kill()
        self.api.end()
        self.owner.close()


def sign_in(page: Page, who: Person) -> None:
    """By the form, as a person does."""
    page.goto("/admin/sign-in")
    page.get_by_label("Key of an operator or admin").fill(who.key.key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/admin")


def check_accessible(page: Page) -> None:
    """Axe finds nothing serious or critical."""
    found = Axe().run(page).response["violations"]
    grave = [
        f"{one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for one in found
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]
    assert not grave, "\n".join(grave)


def check_fits(page: Page) -> None:
    """Nothing sticks out to the right: a page is never wider than its window."""
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def screenshot(page: Page, name: str) -> None:
    """The whole page as a picture, into TELLER_SCREENSHOTS, if it is set."""
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)
