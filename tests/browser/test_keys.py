"""
Keys, webhooks and the audit in a browser: a key is made, works, and is revoked; each page in light, dark and narrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from processor.clients import keys, webhooks
from tests.browser.pages import check_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from processor.clients.webhooks import Webhook
    from tests.browser.pages import BrowserStack

LONG = "https://hooks.shop.example/teller/v2/tenants/0190f3c2-7c1d-7a55-8f5e-3f0f8f1b7c11/events?" + "a" * 200


def make_key(page: Page, name: str, role: str) -> str:
    """By the form, as an admin does; returns what is shown."""
    page.goto("/admin/keys")
    page.get_by_role("link", name="New key").click()
    page.get_by_label("Name").fill(name)
    page.get_by_role("radio", name=role).check()
    page.get_by_role("button", name="Create key").click()
    return page.get_by_label(f"Key {name}").input_value()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_key_is_made_used_and_revoked(stack: BrowserStack, *, scripts: bool) -> None:
    """
    Its owner signs in with it; when an admin revokes it, they are asked to sign in again.
    """
    name = f"night shift {'with' if scripts else 'without'} scripts"
    with stack.look(stack.admin, scripts=scripts) as admin, stack.look(scripts=scripts) as theirs:
        key = make_key(admin, name, "Operator")
        theirs.goto("/admin/sign-in")
        theirs.get_by_label("Key of an operator or admin").fill(key)
        theirs.get_by_role("button", name="Sign in").click()
        theirs.wait_for_url("**/admin")

        admin.get_by_role("link", name="About this key").click()
        admin.get_by_label("Reason").fill("the night is over")
        admin.get_by_role("button", name="Revoke this key").click()
        assert "is revoked" in admin.get_by_role("status").inner_text()
        theirs.goto("/admin/resources")
        assert "/admin/sign-in" in theirs.url
        admin.goto("/admin/audit?action=key_revoked")
        assert admin.get_by_text("the night is over").first.is_visible()
        assert key not in admin.content()


def test_revoking_ones_own_key_leads_to_sign_in(stack: BrowserStack) -> None:
    """
    The page warns before. Afterwards the sign-in page gives the reason.
    """
    leaving = stack.new_client("admin", "leaving")
    with stack.look(leaving) as page:
        page.goto("/admin/keys")
        page.get_by_role("row", name="(yours)").get_by_role("link", name="leaving").click()
        assert page.get_by_text("Revoking it signs you out at once").is_visible()
        page.get_by_label("Reason").fill("leaving")
        page.get_by_role("button", name="Revoke this key").click()
        page.wait_for_url("**/admin/sign-in")
        assert page.get_by_role("status").inner_text() == "Your key is revoked, and you are signed out."


def furnish(stack: BrowserStack, client: str, url: str = LONG) -> Webhook:
    """A client with webhooks and deliveries of every sort, and keys that are over."""
    webhooks.register(stack.owner, client, "https://quiet.example/", None, "test")
    gone, _ = webhooks.register(stack.owner, client, "https://gone.example/hooks", None, "test")
    stack.owner.execute(
        "UPDATE webhooks SET disabled_at = now() - interval '3 days', disabled_reason = 'it answered 410 Gone' "
        "WHERE id = %s",
        (gone.id,),
    )
    hook, _ = webhooks.register(
        stack.owner, client, url, ["request.completed", "request.failed", "request.refunded"], "test"
    )
    request = stack.owner.execute("SELECT id, 2 FROM requests LIMIT 1").fetchone()
    assert request is not None
    for status, due, tries, answer, error in (
        ("delivered", None, 1, 200, None),
        ("failed", None, 8, 503, "answered 503"),
        (
            "failed",
            None,
            8,
            None,
            "no connection: the name hooks.shop.example could not be looked up in time",
        ),
        ("delivered", None, 3, 204, None),
        ("pending", "2 hours", 5, 500, "answered 500"),
        ("pending", "1 day", 0, None, None),
    ):
        stack.owner.execute(
            "INSERT INTO deliveries (request_id, version, type, webhook_id, status, due_at, tries, last_status,"
            " last_error, created_at) VALUES (%s, 2, 'request.completed', %s, %s, now() + %s::interval, %s, %s, %s,"
            " now() - interval '2 days')",
            (request[0], hook.id, status, due, tries, answer, error),
        )
    old = keys.create_key(stack.owner, "till of last year", "client", None)
    stack.owner.execute(
        "UPDATE api_keys SET expires_at = now() - interval '40 days' WHERE id = %s", (old.id,)
    )
    revoked = keys.create_key(stack.owner, "lost laptop", "operator")
    keys.revoke_key(stack.owner, revoked.id, actor="platform (admin grace)", reason="stolen at the airport")
    return hook


def test_pages_are_for_everybody(stack: BrowserStack) -> None:
    """
    Axe finds nothing serious on any page, nothing is wider than its window, and the policy refuses nothing.
    """
    stack.open("hooked")
    client = "shop.example"
    hook = furnish(stack, client)
    with stack.look(stack.admin) as page:
        for title, address in {
            "webhooks": "/admin/webhooks",
            "webhooks-none": "/admin/webhooks?client=nobody",
            "webhook": f"/admin/webhooks/{hook.id}",
            "webhook-failed": f"/admin/webhooks/{hook.id}?status=failed",
            "keys": "/admin/keys",
            "key-new": "/admin/keys/new",
            "audit": "/admin/audit",
            "audit-none": "/admin/audit?actor=nobody",
        }.items():
            page.goto(address)
            check_page(page, title)
        page.goto("/admin/webhooks?state=disabled")
        page.get_by_role("link", name="https://gone.example/hooks").first.click()
        check_page(page, "webhook-disabled")
        page.goto(f"/admin/webhooks/{hook.id}")
        with_rotation = page.locator("form", has=page.get_by_role("button", name="Rotate the secret"))
        with_rotation.get_by_label("Reason").fill("a new one each spring")
        page.get_by_role("button", name="Rotate the secret").click()
        assert page.get_by_label("Secret of the webhook").input_value().startswith("whsec_")
        check_page(page, "webhook-secret")
        assert make_key(page, "till 7", "Client").startswith("teller_")
        check_page(page, "key-made")
        page.get_by_role("link", name="About this key").click()
        check_page(page, "key")
        page.goto("/admin/keys")
        page.get_by_role("row", name="(yours)").get_by_role("link").first.click()
        check_page(page, "key-own")


def test_all_that_failed_is_sent_again(stack: BrowserStack) -> None:
    """
    The button shows the number. Afterwards no delivery is failed.
    """
    stack.open("hooked-again")
    hook = furnish(stack, "again.example", "https://127.0.0.1:9/nobody-listens")
    with stack.look(stack.admin) as page:
        page.goto(f"/admin/webhooks/{hook.id}?status=failed")
        form = page.locator("form", has=page.get_by_role("button", name="Resend 2 failed"))
        form.get_by_label("Reason").fill("they are back")
        page.get_by_role("button", name="Resend 2 failed").click()
        assert page.get_by_role("status").inner_text() == "2 deliveries are due now."
