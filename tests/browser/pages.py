"""
A whole Teller with clients, and browsers that show the pages of its console.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import expect

from tests.stack import Client, Stack, environment_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize

    from processor.settings import Settings
    from tests.servers import Database

#: The places of an installed Chromium. PATH is not searched.
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
#: The limit of a wait for a page, in milliseconds. No test measures it.
TIMEOUT_MS = 60_000
#: The directory for screenshots of the pages that are checked. None: no screenshots.
SCREENSHOTS = os.environ.get("TELLER_SCREENSHOTS")
#: The findings of axe that fail a test.
GRAVE = ("serious", "critical")
#: The rules of axe whose outcome depends on the colours, and on the width. All rules are checked once.
COLOUR_RULES = ["color-contrast", "link-in-text-block"]
LAYOUT_RULES = ["color-contrast", "scrollable-region-focusable"]
#: Chromium logs this for each response with status 4xx or 5xx.
ANSWERED = "the server responded with a status"
#: The appearances in which each page is checked: its colours, its size, and the rules of axe. None: all rules.
LOOKS: dict[str, tuple[Literal["light", "dark"], ViewportSize, list[str] | None]] = {
    "dark": ("dark", {"width": 1280, "height": 900}, COLOUR_RULES),
    "narrow": ("light", {"width": 390, "height": 844}, LAYOUT_RULES),
    "light": ("light", {"width": 1280, "height": 900}, None),
}

expect.set_options(timeout=TIMEOUT_MS)


class BrowserStack(Stack):
    """An API, a worker, a courier and a browser, with an admin, an operator and a client."""

    def __init__(self, settings: Settings, database: Database, browser: Browser, logs: Path) -> None:
        super().__init__(
            environment_of(
                settings,
                database,
                TELLER_HOME=str(logs / "home"),
                TELLER_GATEWAY_TRIES="1",
                TELLER_GATEWAY_BACKOFF_SECONDS="0.05",
                TELLER_GATEWAY_TIMEOUT_SECONDS="2",
                TELLER_ALLOW_PRIVATE_WEBHOOKS="1",
                TELLER_SIGN_IN_LIMIT="1000",
                TELLER_LAB="1",
            ),
            logs,
        )
        self.browser = browser

    def begin(self) -> None:
        """
        Start the processes, and create the clients. Returns when the API is ready.
        """
        self.start_api()
        self.start("worker")
        self.start("courier", TELLER_PORT=str(self.ports[0]))
        self.admin = self.new_client("admin")
        self.operator = self.new_client("operator")
        self.client = self.new_client("client")

    @contextlib.contextmanager
    def look(
        self,
        client: Client | None = None,
        *,
        scripts: bool = True,
        expected: tuple[str, ...] = (),
    ) -> Iterator[Page]:
        """
        Open a browser page, signed in with the client's key if one is given.

        At the end an error on the page's console or in its scripts fails the test, unless it is expected.
        """
        context: BrowserContext = self.browser.new_context(
            base_url=self.url,
            java_script_enabled=scripts,
            color_scheme="light",
            viewport=LOOKS["light"][1],
        )
        try:
            context.set_default_timeout(TIMEOUT_MS)
            page = context.new_page()
            errors: list[str] = []
            page.on(
                "console", lambda message: errors.append(message.text) if message.type == "error" else None
            )
            page.on("pageerror", lambda error: errors.append(str(error)))
            if client is not None:
                sign_in(page, client)
            yield page
            wrong = [text for text in errors if not any(part in text for part in (ANSWERED, *expected))]
            assert not wrong, "\n".join(wrong)
        finally:
            context.close()

    def open(self, resource: str, kind: str = "stock", available: int = 10, **rules: Any) -> None:
        """
        Open a resource.
        """
        body = {"id": resource, "kind": kind, "available": available, **rules}
        assert self.admin.post("/v1/resources", body, 200, wait=20)["status"] == "completed"

    def withdraw(
        self, resource: str, account: str = "ada", amount: int = 1, wait: int = 20, **more: Any
    ) -> str:
        """
        Make a withdrawal of the client. Returns its id.
        """
        body = {"resource": resource, "account": account, "amount": amount, **more}
        asked: str = self.client.post("/v1/withdrawals", body, 200, 202, wait=wait)["id"]
        return asked


def sign_in(page: Page, client: Client) -> None:
    """
    Sign in through the form.
    """
    page.goto("/admin/sign-in")
    page.get_by_label("Key of an operator or admin").fill(client.key.key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/admin")


def check_page(page: Page, name: str) -> None:
    """
    Fail if axe finds something serious or critical, or if the page is wider than its window, in any look.

    The page stays, and its look is light and wide afterwards. Axe cannot judge moving colours, so nothing moves.
    """
    page.evaluate(Axe().axe_script)
    for look, (colours, size, rules) in LOOKS.items():
        page.emulate_media(color_scheme=colours, reduced_motion="reduce")
        page.set_viewport_size(size)
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if rules is not None:
            options["runOnly"] = {"type": "rule", "values": rules}
        grave = [
            f"{look}: {one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for one in page.evaluate("options => axe.run(options)", options)["violations"]
            if one["impact"] in GRAVE
            for node in one["nodes"]
        ]
        assert not grave, "\n".join(grave)
        width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert page.evaluate(width), f"{look}: wider than its window"
        if SCREENSHOTS:
            page.screenshot(path=f"{SCREENSHOTS}/{name}-{look}.png", full_page=True)
