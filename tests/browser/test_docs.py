"""
The pages about the API in a browser: their policy allows their style, and they are accessible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.pages import LOOKS, check_accessible, check_fits, screenshot

if TYPE_CHECKING:
    from tests.browser.pages import BrowserStack


@pytest.mark.parametrize("look", LOOKS)
def test_pages_are_for_everybody(stack: BrowserStack, look: str) -> None:
    """
    Axe finds nothing serious, nothing is wider than its window, and the policy refuses nothing.
    """
    with stack.look(look=look) as page:
        page.goto("/docs")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(15, 20, 27)" if look == "dark" else "rgb(244, 246, 249)")
        page.locator("summary", has_text="/v1/withdrawals").first.click()
        check_accessible(page)
        check_fits(page)
        screenshot(page, f"docs-{look}")
        page.goto("/problems/idempotency-key-reused")
        assert page.get_by_role("heading", name="Remedy").is_visible()
        check_accessible(page)
        check_fits(page)
        screenshot(page, f"problem-{look}")
