"""
The race lab in a browser: the unsafe side oversells, the safe side does not, and both are accessible.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.browser.pages import check_page

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser.pages import BrowserStack

QUEUE = "Teller\N{RIGHT SINGLE QUOTATION MARK}s queue"
#: The tries until a race must have happened, which needs luck.
TRIES = 10


def run(page: Page, users: int = 50, stock: int = 1, protection: str = QUEUE) -> None:
    """Choose and run, as a person does."""
    page.get_by_role("spinbutton", name="Users").fill(str(users))
    page.get_by_role("spinbutton", name="Pieces in stock").fill(str(stock))
    page.get_by_role("combobox", name="Protection").select_option(label=protection)
    with page.expect_navigation(url="**/lab/runs/*"):
        page.get_by_role("button", name=re.compile("^Run")).click()


def side(page: Page, name: str) -> Locator:
    """One side of the page."""
    return page.get_by_role("region", name=name, exact=True)


def approved(shown: Locator) -> int:
    """The big number."""
    return int(shown.locator("dl div", has_text="approved").locator("dd").inner_text())


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_the_unsafe_side_oversells_and_the_safe_side_holds(stack: BrowserStack, scripts: bool) -> None:
    """
    Fifty want the last one. Left, more than one gets it, and the moment is marked; right, one. For real: the queue's
    requests are in the ledger.
    """
    stack.open(f"warm-{scripts}")  # a worker is at work
    with stack.look(scripts=scripts) as page:
        page.goto("/lab")
        unsafe = side(page, "Without protection")
        for _ in range(TRIES):
            run(page)
            if approved(unsafe) > 1:
                break
        safe = side(page, f"With {QUEUE}")

        assert approved(unsafe) > 1
        assert "There was 1 in stock." in unsafe.inner_text()
        assert unsafe.locator("svg .danger").count() == 1
        assert unsafe.get_by_text("the first has written").count() == 1
        assert unsafe.locator("svg.lab-ends text", has_text="✓").count() == approved(unsafe)
        assert unsafe.locator("svg.lab-ends text").count() == 50
        assert approved(safe) == 1
        assert "1 user approved, 49 refused, 0 left." in safe.inner_text()
        assert safe.locator("svg .danger").count() == 0
        assert safe.locator("svg .step-queue").count() == 50
    [(asked,)] = stack.owner.execute(
        "SELECT count(*) FROM requests WHERE client_id = 'race-lab' AND kind = 'redemption'"
    ).fetchall()
    assert asked >= 50


@pytest.mark.parametrize(
    ("protection", "title"),
    [
        ("Conditional update", "With a conditional update"),
        ("Row lock", "With a row lock"),
        ("Redis lock", "With a Redis lock"),
    ],
)
def test_every_protection_can_be_chosen(stack: BrowserStack, protection: str, title: str) -> None:
    """
    Each holds; the Redis lock is also shown to fail when its holder is paused.
    """
    with stack.look() as page:
        page.goto("/lab")
        run(page, users=10, stock=3, protection=protection)

        assert approved(side(page, title)) == 3
        assert page.get_by_role("combobox").locator("option:checked").inner_text() == protection
        paused = side(page, "When the holder of the lock is paused")
        assert paused.count() == (1 if protection == "Redis lock" else 0)
        if paused.count():
            assert approved(paused) == 2


def test_the_lab_is_accessible(stack: BrowserStack) -> None:
    """
    Axe finds nothing serious, nothing is wider than its window, and the steps can be read as a table.
    """
    stack.open("warm")
    with stack.look() as page:
        page.emulate_media(reduced_motion="reduce")  # axe cannot judge a moving page
        page.goto("/lab")
        check_page(page, "lab-empty")
        run(page)
        check_page(page, "lab")
        table = side(page, "Without protection").locator("details")
        table.locator("summary").click()
        assert table.get_by_role("row").count() == 51
        check_page(page, "lab-table")
        run(page, users=6, stock=2, protection="Redis lock")
        check_page(page, "lab-redis")
