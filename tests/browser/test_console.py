"""
The console in a browser: sign-in and sign-out, live pages, pages without JavaScript, and accessibility.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.pages import check_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.browser.pages import BrowserStack

#: A text that a browser runs where it is not escaped. It changes the title of the page.
SCRIPT = "</title><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"


@pytest.fixture
def paused(stack: BrowserStack) -> Iterator[str]:
    """
    A resource with the longest name and all fields, in a paused partition where two requests wait.
    """
    name = f"pool:{'a-long-name.' * 9}{stack.owner.info.backend_pid}"
    if stack.admin.http.get(f"/v1/resources/{name}").status_code == 404:
        stack.open(
            name,
            "pool",
            1_000,
            unit=SCRIPT,
            metadata={SCRIPT: SCRIPT},
            gateway="sandbox",
            per_account_limit=500,
        )
        for amount in (5, 7, 9):
            stack.withdraw(name, amount=amount, destination="ok")
    home = stack.admin.get(f"/v1/resources/{name}")["partition"]
    stack.admin.post(f"/v1/admin/partitions/{home}/pause", {"reason": SCRIPT}, 200)
    for amount in (1, 2):
        stack.withdraw(name, amount=amount, wait=0)
    yield name
    stack.admin.post(f"/v1/admin/partitions/{home}/resume", {}, 200)


def test_an_operator_signs_in_and_out(stack: BrowserStack) -> None:
    """
    The requested page follows the sign-in. After the sign-out it asks for the key again.
    """
    stack.open("till")
    with stack.look() as page:
        page.goto("/admin/resources/till")
        page.get_by_label("Key of an operator or admin").fill(stack.operator.key.key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/admin/resources/till")

        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("status")).to_have_text("You are signed out.")
        page.goto("/admin/resources/till")
        assert page.url.endswith("/admin/sign-in?next=%2Fadmin%2Fresources%2Ftill")


def test_a_clients_key_is_refused_with_a_clear_line(stack: BrowserStack) -> None:
    """
    A client's key and an unknown key are refused, each with its own line.
    """
    with stack.look() as page:
        for key, words in (
            (stack.client.key.key, "This is a client's key."),
            ("teller_x", "This key is unknown"),
        ):
            page.goto("/admin/sign-in")
            page.get_by_label("Key of an operator or admin").fill(key)
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("alert")).to_contain_text(words)
        check_page(page, "sign-in-refused")


def test_pages_are_accessible(stack: BrowserStack, paused: str) -> None:
    """
    Axe finds nothing serious on any page, no page is wider than its window, and texts of clients do not run.
    """
    home = stack.admin.get(f"/v1/resources/{paused}")["partition"]
    with stack.look() as page:
        page.goto("/admin/sign-in")
        _check(page, "sign-in")
    pages = {
        "overview": "/admin",
        "requests": "/admin/requests",
        "requests-filtered": f"/admin/requests?resource={paused}&kind=withdrawal&amount=5&status=completed",
        "resources": "/admin/resources",
        "resource": f"/admin/resources/{paused}",
        "partition": f"/admin/partitions/{home}",
        "search": "/admin/search?q=ada",
        "nothing-found": "/admin/search?q=nothing",
        "not-found": "/admin/nothing",
    }
    with stack.look(stack.operator) as page:
        for title, address in pages.items():
            page.goto(address)
            _check(page, title)


def _check(page: Page, name: str) -> None:
    check_page(page, name)
    assert page.title() != "run"


def test_the_overview_is_live(stack: BrowserStack) -> None:
    """
    New figures appear without a reload, the focus stays, and the navigation counts, too.
    """
    stack.open("live", available=1_000)
    stack.open("live-till", "balance", 1_000, approve_above=10)
    with stack.look(stack.operator) as page:
        page.goto("/admin")
        page.evaluate("document.body.dataset.seen = 'yes'")
        cell = page.locator("#p5")
        cell.focus()
        figure = page.locator(".figure", has_text="Accepted per second").locator(".big")
        for account in range(40):
            stack.client.post("/v1/redemptions", {"resource": "live", "account": f"u{account}"}, 202)
        expect(figure).to_have_text(re.compile(r"^[1-9]"))
        counted = page.locator("#count-approvals")
        before = int(counted.text_content() or "")
        withdrawal = {"resource": "live-till", "account": "u", "amount": 20}
        asked = stack.client.post("/v1/withdrawals", withdrawal, 202)["id"]
        expect(counted).to_have_text(str(before + 1))
        assert page.evaluate("document.body.dataset.seen") == "yes"
        stack.admin.post(f"/v1/admin/requests/{asked}/deny", {"reason": "seen"}, 200, 202)
        expect(counted).to_have_text(str(before))
        expect(page.locator("#p5")).to_be_focused()


def test_a_live_page_says_when_it_is_not_up_to_date(stack: BrowserStack) -> None:
    """
    The line disappears when Teller is available again.
    """
    with stack.look(stack.operator, expected=("net::ERR_FAILED", "htmx:")) as page:
        page.goto("/admin")
        page.route("**/admin", lambda route: route.abort())
        expect(page.get_by_text("Not up to date")).to_be_visible()
        page.unroute("**/admin")
        expect(page.get_by_text("Not up to date")).to_be_hidden()


def test_a_live_page_leads_to_sign_in_when_the_key_is_revoked(stack: BrowserStack) -> None:
    """
    The page changes by itself, with its next refresh.
    """
    watcher = stack.new_client("operator", "watcher")
    with stack.look(watcher) as page:
        page.goto("/admin")
        stack.owner.execute("UPDATE api_keys SET revoked_at = now() WHERE id = %s", (watcher.key.id,))
        page.wait_for_url("**/admin/sign-in")
        expect(page.get_by_label("Key of an operator or admin")).to_be_visible()


@pytest.mark.parametrize("scripts", [True, False], ids=["with JavaScript", "without"])
def test_a_partition_is_paused_and_resumed(stack: BrowserStack, scripts: bool) -> None:
    """
    The page of a resource names the partition before the pause, and the result after it. Requests wait meanwhile.
    """
    name = f"halt-{scripts}"
    stack.open(name)
    home = stack.admin.get(f"/v1/resources/{name}")["partition"]
    with stack.look(stack.operator, scripts=scripts) as page:
        page.goto(f"/admin/resources/{name}")
        expect(page.get_by_text(f"This stops every resource of partition {home}")).to_be_visible()
        form = page.locator("form.action", has_text=f"partition {home}")
        form.get_by_label("Reason").fill("stocktaking")
        page.get_by_role("button", name=f"Pause partition {home}").click()
        expect(page.get_by_role("status")).to_have_text(
            f"Partition {home} is paused. It accepts requests, but decides none."
        )
        asked = stack.client.post("/v1/redemptions", {"resource": name, "account": "ada"}, 202)["id"]
        page.reload()
        expect(page.get_by_role("link", name=asked)).to_be_visible()

        form.get_by_label("Reason").fill("done")
        page.get_by_role("button", name=f"Resume partition {home}").click()
        expect(page.get_by_role("status")).to_have_text(f"Partition {home} decides requests again.")
        assert stack.client.post("/v1/redemptions", {"resource": name, "account": "eve"}, 200, wait=20)
        page.reload()
        expect(page.get_by_text("No requests waiting")).to_be_visible()


def test_lists_filters_and_search_work_without_javascript(stack: BrowserStack) -> None:
    """
    Forms and links work as plain HTML.
    """
    stack.open("seat:1A", "seat", 1)
    with stack.look(stack.operator, scripts=False) as page:
        page.goto("/admin/resources")
        page.get_by_label("Kind").select_option("seat")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url("**/admin/resources?kind=seat")
        expect(page.get_by_role("link", name="seat:1A")).to_be_visible()
        page.get_by_role("searchbox", name="Search").fill("seat:1A")
        page.get_by_role("searchbox", name="Search").press("Enter")
        page.wait_for_url("**/admin/resources/seat:1A")


def test_a_filter_acts_when_it_is_chosen_and_a_slash_goes_to_the_search(stack: BrowserStack) -> None:
    """
    Both need JavaScript. The first stop of the keyboard skips to the content.
    """
    with stack.look(stack.operator) as page:
        page.goto("/admin/resources")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("/")
        expect(page.get_by_role("searchbox", name="Search")).to_be_focused()
        page.get_by_label("Kind").select_option("pool")
        page.wait_for_url("**/admin/resources?kind=pool")


def test_no_script_from_elsewhere_runs(stack: BrowserStack) -> None:
    """
    The content policy refuses scripts in the page itself.
    """
    with stack.look(stack.operator, expected=("Content Security Policy",)) as page:
        page.goto("/admin")
        page.evaluate("globalThis.ran = false")
        refused = page.evaluate(
            """() => new Promise((done) => {
                document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
                const script = document.createElement("script");
                script.textContent = "globalThis.ran = true";
                document.body.append(script);
                setTimeout(() => done("nothing"), 5000);
            })"""
        )
        assert refused == "script-src-elem"
        assert page.evaluate("globalThis.ran") is False
