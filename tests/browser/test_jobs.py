"""
The jobs of an admin on call, from the page after sign-in, each within the clicks that it may take.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

    from tests.browser.pages import BrowserStack


class Clicks:
    """Clicks on a page, and their number. Enter in a field counts as a click on its button."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.count = 0

    def click(self, target: Locator) -> None:
        """Click once."""
        self.count += 1
        target.click()

    def section(self, name: str) -> None:
        """Open a page of the navigation."""
        self.click(self.page.get_by_label("Sections").get_by_role("link", name=name))

    def search(self, text: str) -> None:
        """Search for a text."""
        self.count += 1
        box = self.page.get_by_role("searchbox", name="Search")
        box.fill(text)
        box.press("Enter")


@pytest.fixture
def clicks(stack: BrowserStack) -> Iterator[Clicks]:
    """
    An admin, who has signed in and sees the overview.
    """
    with stack.look(stack.admin) as page:
        yield Clicks(page)


def test_a_withdrawal_that_did_not_arrive_is_found_in_three_clicks(
    stack: BrowserStack, clicks: Clicks
) -> None:
    """
    Its account has a thousand newer requests.
    """
    stack.open("payouts", "balance", 1_000_000, gateway="sandbox")
    stack.open("likes", "points", 1_000_000)
    lost = stack.withdraw("payouts", "grace", 500, destination="unavailable")
    newer = [
        {"kind": "redemption", "resource": "likes", "account": "grace", "idempotency_key": f"like-{number}"}
        for number in range(1_000)
    ]
    stack.client.post("/v1/batches", {"requests": newer}, 202)

    clicks.section("Failed")
    clicks.page.get_by_label("Account").fill("grace")
    clicks.click(clicks.page.get_by_role("button", name="Filter"))
    clicks.click(clicks.page.get_by_role("link", name=lost))

    expect(clicks.page.get_by_role("heading", name="Problem: gateway unreachable")).to_be_visible()
    assert clicks.count <= 3


def test_a_request_is_found_by_its_order_number_in_two_clicks(stack: BrowserStack, clicks: Clicks) -> None:
    """
    The number is in its metadata.
    """
    stack.open("orders", available=5)
    body = {"resource": "orders", "account": "ada", "metadata": {"order": "B-2117"}}
    asked = stack.client.post("/v1/redemptions", body, 200, wait=20)["id"]

    clicks.search("B-2117")

    clicks.page.wait_for_url(f"**/admin/requests/{asked}")
    assert clicks.count <= 2


def test_the_next_request_is_denied_while_the_verdict_before_waits(
    stack: BrowserStack, clicks: Clicks
) -> None:
    """
    Approved and not decided yet, the first stays on the page without buttons. The denial reaches the second alone.
    """
    stack.open("crate", "balance", 1_000, approve_above=10, unit="EUR")
    first, second = (stack.withdraw("crate", "carl", amount, wait=0) for amount in (50, 60))

    def status(one: str) -> tuple[str, str | None]:
        found = stack.client.get(f"/v1/requests/{one}")
        return found["status"], found["stage"]

    eventually(lambda: {status(one)[1] for one in (first, second)} == {"awaiting_approval"})
    home = stack.admin.get("/v1/resources/crate")["partition"]
    stack.admin.post(f"/v1/admin/partitions/{home}/pause", {"reason": "count"}, 200)
    page = clicks.page

    clicks.section("Approvals")
    cards = {
        one: page.locator("section.card", has=page.get_by_role("link", name=one)) for one in (first, second)
    }
    cards[first].get_by_label("Reason").fill("he called us")
    clicks.click(cards[first].get_by_role("button", name="Approve"))
    expect(cards[first].get_by_text("Approved. The decision waits in the queue.")).to_be_visible()
    expect(cards[first].get_by_role("button")).to_have_count(0)
    cards[second].get_by_label("Reason").fill("not he")
    clicks.click(cards[second].get_by_role("button", name="Deny"))
    expect(cards[second].get_by_text("Denied. The decision waits in the queue.")).to_be_visible()
    page.reload()  # the page after an act: nothing happens twice
    stack.admin.post(f"/v1/admin/partitions/{home}/resume", {"reason": "counted"}, 200)

    eventually(lambda: [status(one)[0] for one in (first, second)] == ["completed", "rejected"])
    acts = stack.owner.execute(
        "SELECT request_id::text, action FROM audit WHERE request_id::text = ANY(%s) ORDER BY id",
        ([first, second],),
    ).fetchall()
    assert acts == [(first, "approve"), (second, "deny")]


def test_a_resource_that_stands_still_says_why_and_by_whom(stack: BrowserStack, clicks: Clicks) -> None:
    """
    The overview names the pause, and its link leads to the partition.
    """
    stack.open("still")
    home = stack.admin.get("/v1/resources/still")["partition"]
    stack.admin.post(f"/v1/admin/partitions/{home}/pause", {"reason": "a wrong price"}, 200)
    try:
        matter = clicks.page.get_by_role("link", name=re.compile(rf"^Partition {home} has been paused"))
        expect(matter).to_contain_text(f"by {stack.admin.key.client} (admin ")
        expect(matter).to_contain_text("a wrong price")
        clicks.click(matter)
        expect(clicks.page.get_by_role("definition").filter(has_text="a wrong price")).to_be_visible()
        assert clicks.count <= 1
    finally:
        stack.admin.post(f"/v1/admin/partitions/{home}/resume", {"reason": "right"}, 200)


def test_a_dead_webhook_is_seen_on_the_overview(stack: BrowserStack, clicks: Clicks) -> None:
    """
    Its line has the time, the tries and the cause, and leads to its page. A reload after an act rotates nothing.
    """
    shop = stack.new_client("client")
    stack.open("parcels")
    hook = shop.post("/v1/webhooks", {"url": "http://nowhere.invalid/hook"}, 201)["id"]
    shop.post("/v1/redemptions", {"resource": "parcels", "account": "ada"}, 200, wait=20)
    page = clicks.page

    line = page.get_by_role(
        "link", name=re.compile(f"^A webhook of {shop.key.client} has been failing since")
    )
    expect(line).to_contain_text("the name does not lead to a public address")
    clicks.click(line)
    page.wait_for_url(f"**/admin/webhooks/{hook}")
    expect(page.get_by_text(re.compile("Failing since .* 0 of "))).to_be_visible()
    assert clicks.count <= 1

    form = page.locator("form.action", has=page.get_by_role("button", name="Rotate the secret"))
    form.get_by_label("Reason").fill("leaked")
    form.get_by_role("button").click()
    secret = page.get_by_label("Secret of the webhook").input_value()
    page.reload()
    expect(page.get_by_text("Nothing was done again.")).to_be_visible()
    assert secret.startswith("whsec_")
    rotated = stack.owner.execute(
        "SELECT count(*) FROM audit WHERE action = 'webhook_secret_rotated' AND detail::text LIKE %s",
        (f"%{hook}%",),
    ).fetchall()
    assert rotated == [(1,)]


def test_the_balance_of_yesterday_takes_two_clicks(stack: BrowserStack, clicks: Clicks) -> None:
    """
    The field holds the time a day ago. The resource did not exist then, and a later time shows its balance.
    """
    stack.open("purse", "balance", 12_345, unit="EUR", decimals=2)
    page = clicks.page

    clicks.search("purse")
    clicks.click(page.get_by_role("button", name="Show the balance"))

    expect(page.get_by_text("The resource did not exist as of")).to_be_visible()
    assert clicks.count <= 2
    page.get_by_label("As of (UTC)").fill("2999-01-01T00:00:00")
    page.get_by_role("button", name="Show the balance").click()
    expect(page.locator(".asof-found").get_by_text("123.45")).to_be_visible()


def test_the_filtered_list_is_a_file_in_one_click(stack: BrowserStack, clicks: Clicks) -> None:
    """
    The file has the rows of the filter. Times on the page are in the zone of the reader, with UTC in the title.
    """
    stack.open("tickets", available=5)
    for account in ("ada", "bob"):
        stack.client.post("/v1/redemptions", {"resource": "tickets", "account": account}, 200, wait=20)
    page = clicks.page
    page.goto("/admin/requests?resource=tickets&account=bob")

    with page.expect_download() as download:
        clicks.click(page.get_by_role("link", name="CSV"))

    with Path(download.value.path()).open(newline="") as file:
        assert [row["account"] for row in csv.DictReader(file)] == ["bob"]
    assert download.value.suggested_filename == "requests.csv"
    assert clicks.count <= 1
    assert page.locator("time[title$=UTC]").count() > 0
    assert page.locator("time[data-clock]").count() == 0
