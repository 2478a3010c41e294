"""
The pages about the API in a browser: their policy allows their style, and they are accessible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.browser.pages import check_page

if TYPE_CHECKING:
    from tests.browser.pages import BrowserStack


def test_pages_are_for_everybody(stack: BrowserStack) -> None:
    """
    Axe finds nothing serious, nothing is wider than its window, and the policy refuses nothing.
    """
    with stack.look() as page:
        page.goto("/docs")
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(244, 246, 249)"
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(ground) == "rgb(15, 20, 27)"
        page.locator("summary", has_text="/v1/withdrawals").first.click()
        check_page(page, "docs")
        page.goto("/problems/idempotency-key-reused")
        assert page.get_by_role("heading", name="Remedy").is_visible()
        check_page(page, "problem")
