"""
A stuck request, found, understood and replayed in a browser; and a withdrawal that waits for approval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.pages import check_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.pages import BrowserStack

METADATA = {"order": "A-17", "channel": "branch 7"}


def stuck(stack: BrowserStack, resource: str, count: int) -> list[str]:
    """Withdrawals that failed because their gateway was unavailable."""
    stack.open(resource, "balance", 1_000_000, gateway="sandbox", unit="EUR")
    return [
        stack.withdraw(
            resource, f"ada-{number}", 1_250 + number, destination="unavailable", metadata=METADATA
        )
        for number in range(count)
    ]


def heal(stack: BrowserStack, requests: list[str]) -> None:
    """The sandbox gateway has paid these, and says so from now on."""
    for request in requests:
        stack.owner.execute("INSERT INTO sandbox_payouts (request_id) VALUES (%s)", (request,))


def test_the_pages_are_for_everybody(stack: BrowserStack) -> None:
    """
    Axe finds nothing serious, nothing is wider than its window, and the policy refuses nothing.
    """
    name = "branch"
    [first, *_] = stuck(stack, name, 3)
    stack.open("vault", "balance", 1_000_000, approve_above=100, unit="EUR")
    big = stack.withdraw("vault", "bob", 50_000, wait=0, destination="DE02 1203 0000 0000 2020 51")
    with stack.look(stack.admin) as page:
        pages = {
            "failed": f"/admin/failed?resource={name}",
            "failed-none": "/admin/failed?account=nobody",
            "failed-preview": f"/admin/failed/preview?action=replay&resource={name}",
            "failed-refund": f"/admin/failed/preview?action=refund&resource={name}",
            "request": f"/admin/requests/{first}",
            "approvals": "/admin/approvals",
            "request-approval": f"/admin/requests/{big}",
        }
        for title, address in pages.items():
            look_at(page, address, title)
        page.goto(pages["failed-preview"])
        page.get_by_label("Reason").fill("the bank is back")
        page.get_by_role("button", name="Replay 3 requests").click()
        page.wait_for_url("**/admin/failed/actions/*")
        page.get_by_text("Failed again", exact=True).wait_for()
        check_page(page, "bulk-action")
        look_at(page, f"/admin/requests/{first}", "request-again")


def look_at(page: Page, address: str, title: str) -> None:
    """Check that a page is accessible and fits its window."""
    page.goto(address)
    check_page(page, title)


def test_a_failed_request_is_found_and_all_that_match_are_replayed(stack: BrowserStack) -> None:
    """
    Signed in; found by its resource; what is wrong is read; all that match are previewed and replayed; they complete
    while one looks.
    """
    asked = stuck(stack, "stuck", 3)
    with stack.look(stack.operator) as page:
        page.get_by_label("Sections").get_by_role("link", name="Failed").click()
        page.get_by_label("Resource").fill("stuck")
        page.get_by_role("button", name="Filter").click()
        page.get_by_text("3 requests match").wait_for()
        page.get_by_role("link", name=asked[0]).click()
        page.get_by_role("heading", name="Problem: gateway unreachable").wait_for()
        page.go_back()
        heal(stack, asked)
        page.get_by_role("link", name="Replay all 3").click()
        page.get_by_role("heading", name="Replay 3 failed requests?").wait_for()
        page.get_by_label("Reason").fill("the bank is back")
        page.get_by_role("button", name="Replay 3 requests").click()

        page.wait_for_url("**/admin/failed/actions/*")
        page.get_by_text("Completed", exact=True).wait_for()
        page.get_by_role("link", name=asked[0]).click()
        page.get_by_text("the bank is back").first.wait_for()

    assert {stack.client.get(f"/v1/requests/{one}")["status"] for one in asked} == {"completed"}


def test_all_of_a_page_are_selected_and_new_failures_are_announced(stack: BrowserStack) -> None:
    """
    The bar counts the selection. Requests that fail later do not change the list, and a line leads to them.
    """
    stuck(stack, "picked", 3)
    with stack.look(stack.operator) as page:
        page.goto("/admin/failed?resource=picked")
        page.get_by_label("Select all 3 of this page").check()
        expect(page.get_by_text("3 selected.")).to_be_visible()
        page.locator('input[name="id"]').first.uncheck()
        expect(page.get_by_text("2 selected.")).to_be_visible()

        stack.withdraw("picked", "late", 5, destination="unavailable")
        expect(page.get_by_text("1 more has failed:")).to_be_visible()
        assert page.locator('input[name="id"]').count() == 3
        expect(page.get_by_text("2 selected.")).to_be_visible()
        page.locator("#newer").get_by_role("link", name="show").click()
        expect(page.get_by_text("4 requests match")).to_be_visible()


def test_without_javascript_a_replay_works(stack: BrowserStack) -> None:
    """
    The same with forms and pages alone. The page with the progress reloads itself.
    """
    asked = stuck(stack, "plain", 2)
    heal(stack, asked)
    with stack.look(stack.operator, scripts=False) as page:
        page.goto("/admin/failed?resource=plain")
        page.get_by_role("link", name="Replay all 2").click()
        page.get_by_label("Reason").fill("the bank is back")
        page.get_by_role("button", name="Replay 2 requests").click()
        page.wait_for_url("**/admin/failed/actions/*")
        page.get_by_text("Completed", exact=True).wait_for()

    assert {stack.client.get(f"/v1/requests/{one}")["status"] for one in asked} == {"completed"}


def test_a_withdrawal_is_approved(stack: BrowserStack) -> None:
    """
    Above the limit it waits; an operator, who is of another client, says yes, and it is done.
    """
    stack.open("safe", "balance", 1_000, approve_above=10, unit="EUR")
    big = stack.withdraw("safe", "carl", 50, wait=0)
    with stack.look(stack.operator) as page:
        page.get_by_label("Sections").get_by_role("link", name="Approvals").click()
        card = page.locator("section.card", has=page.get_by_role("link", name=big))
        card.get_by_label("Reason").fill("he called us")
        card.get_by_role("button", name="Approve").click()
        page.get_by_text("Approved. The request is decided in its turn.").wait_for()

        page.goto(f"/admin/requests/{big}")
        page.get_by_text("he called us").wait_for()
        page.locator(".head .badge", has_text="completed").wait_for()
