"""
Webhooks at the console: the state of deliveries, resends, and secrets that are shown once.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from processor.clients import webhooks
from processor.operations import resends
from processor.outbox import deliveries
from processor.outbox.tries import SendResult
from processor.storage import connections
from tests.http.visitor import Visitor, fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.clients.webhooks import Webhook
    from processor.storage.connections import Connection
    from tests.http.teller import Teller

SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]+")
SCRIPT = "<script>alert(1)</script>"
URL = f"https://shop.example/hook?{SCRIPT}"


@pytest.fixture
def owner(teller: Teller) -> Iterator[Connection]:
    """
    A connection as the owner of the schema.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        yield connection


@pytest.fixture
def hook(owner: Connection, teller: Teller) -> Webhook:
    """
    A webhook of the client.
    """
    return webhooks.register(owner, teller.client.id, URL, ["request.completed"], "test")[0]


@pytest.fixture
def admin(teller: Teller) -> Visitor:
    """
    An admin with a session.
    """
    return Visitor.signed_in(teller, teller.admin)


def deliver(owner: Connection, hook: Webhook, status: str, count: int = 1) -> list[int]:
    """Insert deliveries with this status. Returns their numbers."""
    rows = owner.execute(
        """INSERT INTO deliveries (request_id, version, type, webhook_id, status, due_at, tries, last_status,
                                   last_error)
           SELECT gen_random_uuid(), 2, 'request.completed', %(hook)s, %(status)s,
                  CASE %(status)s WHEN 'pending' THEN now() + interval '1 hour' END, 3, 503, 'said <script>'
             FROM generate_series(1, %(count)s)
           RETURNING id""",
        {"hook": hook.id, "status": status, "count": count},
    ).fetchall()
    return [number for (number,) in rows]


def states(owner: Connection) -> dict[int, tuple[str, int, bool]]:
    """Return status, tries, and whether it is due, for each delivery."""
    rows = owner.execute("SELECT id, status, tries, coalesce(due_at <= now(), false) FROM deliveries")
    return {number: (status, tries, due) for number, status, tries, due in rows}


def listed(text: str) -> list[int]:
    """Return the numbers of the deliveries on a page."""
    return [int(found) for found in re.findall(r'data-label="Delivery"><span><span class="num">(\d+)<', text)]


def test_the_list_shows_the_state_of_each_webhook(
    teller: Teller, owner: Connection, hook: Webhook, admin: Visitor
) -> None:
    """
    The list counts the failed and the pending among the last twenty deliveries, and marks disabled webhooks.
    """
    deliver(owner, hook, "failed", 30)
    deliver(owner, hook, "delivered", 15)
    deliver(owner, hook, "pending", 2)
    other = webhooks.register(owner, teller.other.id, "https://other.example/", None, "test")[0]
    owner.execute(
        "UPDATE webhooks SET disabled_at = now(), disabled_reason = 'gone' WHERE id = %s", (other.id,)
    )

    text = admin.get("/admin/webhooks").text
    disabled = admin.get("/admin/webhooks?state=disabled").text
    own = admin.get(f"/admin/webhooks?client={teller.client.id}").text

    assert '<strong class="wrong">3 failed</strong>, 2 pending' in text
    assert SCRIPT not in text
    assert [str(other.id) in page for page in (text, disabled, own)] == [True, True, False]
    assert [str(hook.id) in page for page in (text, disabled, own)] == [True, False, True]


def test_a_webhook_that_fails_says_since_when_how_often_and_why(
    teller: Teller, owner: Connection, hook: Webhook, admin: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    List, page and overview show the tries since the last success, and the last error. A success ends it.
    """
    monkeypatch.setattr("api.console.rates.FRESH_SECONDS", 0)
    addresses = ("/admin", "/admin/webhooks", "/admin/webhooks?state=failing", f"/admin/webhooks/{hook.id}")

    def send(**result: Any) -> list[str]:
        """Send all deliveries with a result. Returns the text of the pages."""
        owner.execute("UPDATE deliveries SET due_at = now() WHERE due_at IS NOT NULL")
        with connections.connect(
            teller.settings.courier_database_url, application_name="test courier"
        ) as courier:
            claimed = deliveries.claim_webhooks(courier, {hook.id: 100}, 1.0)
            deliveries.record(courier, [SendResult(one, **result) for one in claimed])
        return [" ".join(re.sub("<[^>]+>", " ", admin.get(address).text).split()) for address in addresses]

    teller.open("a", available=100)
    for _ in range(3):
        teller.client.post("/v1/redemptions", {"resource": "a", "account": "u"})
    teller.drain()
    deliveries.expand(owner)
    first = send(is_sent=False, error="answered 503", pause_seconds=1.0)
    [since] = owner.execute("SELECT failing_since FROM webhooks").fetchall()
    second = send(is_sent=False, error="the name does not lead to a public address", pause_seconds=1.0)
    [kept] = owner.execute("SELECT failing_since FROM webhooks").fetchall()
    after = send(is_sent=True)

    assert all("0 of 3" in page and "answered 503" in page for page in first)
    assert all(
        "0 of 6" in page and "delivered: the name does not lead to a public" in page for page in second
    )
    assert f"A webhook of {hook.client_id} has been failing since" in second[0]
    assert kept == since
    assert not any("failing since" in page or "0 of" in page for page in after)


def test_deliveries_are_filtered_by_status(owner: Connection, hook: Webhook, admin: Visitor) -> None:
    """
    The list is newest first, in pages, with all deliveries or those of one status. Outside text is escaped.
    """
    failed = deliver(owner, hook, "failed", 60)
    done = deliver(owner, hook, "delivered", 1)
    base = f"/admin/webhooks/{hook.id}"

    assert listed(admin.get(base).text) == [*done, *reversed(failed)][:50]
    assert listed(admin.get(f"{base}?status=delivered").text) == done
    first = admin.get(f"{base}?status=failed").text
    assert listed(first) == list(reversed(failed))[:50]
    cursor = re.search(r'name="cursor" value="([^"]+)"', first)
    assert cursor is not None
    assert listed(admin.get(f"{base}?status=failed&cursor={cursor[1]}").text) == list(reversed(failed))[50:]
    assert "said &lt;script&gt;" in first
    assert SCRIPT not in first
    assert admin.get(f"{base}?status=lost").status == 422
    assert admin.get("/admin/webhooks/nothing").status == 404


def test_notifications_are_counted_before_they_are_expanded(
    owner: Connection, hook: Webhook, admin: Visitor
) -> None:
    """
    Notifications that are not deliveries yet are counted separately.
    """
    owner.execute(
        "INSERT INTO fanouts (webhook_id, request_ids, versions) "
        "SELECT %s, array_agg(gen_random_uuid()), array_agg(2) FROM generate_series(1, 7)",
        (hook.id,),
    )

    text = admin.get(f"/admin/webhooks/{hook.id}").text

    assert '<span class="num">7</span> more are not listed yet' in text


def test_a_delivery_can_be_resent(owner: Connection, hook: Webhook, admin: Visitor) -> None:
    """
    The delivery is due now with all its tries. The answer leads back to the page of the form.
    """
    [failed, other] = deliver(owner, hook, "failed", 2)
    back = f"/admin/webhooks/{hook.id}?status=failed"

    answer = admin.send(f"/admin/deliveries/{failed}/resend", {"back": back})

    assert (answer.status, answer.location) == (303, back)
    assert states(owner) == {failed: ("pending", 0, True), other: ("failed", 3, False)}
    assert admin.send(f"/admin/deliveries/{failed}/resend", {"back": "//evil.example"}).location == "/admin"
    assert admin.send("/admin/deliveries/999/resend").status == 404
    assert admin.send("/admin/deliveries/x/resend").status == 404


def test_the_failed_deliveries_that_were_counted_are_resent(
    teller: Teller, owner: Connection, hook: Webhook, admin: Visitor
) -> None:
    """
    The page counts the failed deliveries. Later failures and other deliveries are not resent.
    """
    failed = deliver(owner, hook, "failed", 3)
    done = deliver(owner, hook, "delivered")
    base = f"/admin/webhooks/{hook.id}"
    text = admin.get(base).text
    assert "All <strong>3</strong> failed deliveries are due at once" in text
    newest = re.search(r'name="newest" value="(\d+)"', text)
    assert newest is not None
    later = deliver(owner, hook, "failed")

    answer = admin.send(f"{base}/resend", {"reason": "they are back", "newest": newest[1]})

    assert answer.status == 303
    assert "3 deliveries are due now." in admin.get(base).text
    assert states(owner) == {
        **dict.fromkeys(failed, ("pending", 0, True)),
        **dict.fromkeys(done, ("delivered", 3, False)),
        **dict.fromkeys(later, ("failed", 3, False)),
    }
    [line, *_] = teller.admin.get("/v1/admin/audit").json["data"]
    assert (line["action"], line["reason"], line["detail"]["deliveries"]) == (
        "deliveries_resent",
        "they are back",
        3,
    )
    assert admin.send(f"{base}/resend", {"newest": newest[1]}).status == 422
    assert admin.send(f"{base}/resend", {"reason": "x", "newest": "-1"}).status == 422


def test_the_number_of_resends_at_once_is_limited(
    owner: Connection, hook: Webhook, admin: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Above the limit the oldest deliveries are resent, and the page shows their number.
    """
    failed = deliver(owner, hook, "failed", 5)
    monkeypatch.setattr(resends, "RESENT_MAX", 2)
    base = f"/admin/webhooks/{hook.id}"
    assert (
        "The oldest <strong>2</strong> of <strong>5</strong> failed deliveries are due at once"
        in admin.get(base).text
    )

    admin.send(f"{base}/resend", {"reason": "x", "newest": str(failed[-1])})

    assert [status for status, _, _ in states(owner).values()].count("pending") == 2
    assert {number for number, (status, _, _) in states(owner).items() if status == "pending"} == set(
        failed[:2]
    )


def test_a_disabled_webhook_gets_no_resend(owner: Connection, hook: Webhook, admin: Visitor) -> None:
    """
    The page has no form for a resend, and sending one returns 409.
    """
    [failed] = deliver(owner, hook, "failed")
    owner.execute("UPDATE webhooks SET disabled_at = now(), disabled_reason = %s", (SCRIPT,))
    base = f"/admin/webhooks/{hook.id}"
    text = admin.get(base).text

    assert "/resend" not in text
    assert SCRIPT not in text
    assert admin.send(f"{base}/resend", {"reason": "x", "newest": str(failed)}).status == 409
    assert admin.send(f"/admin/deliveries/{failed}/resend").status == 409
    assert states(owner) == {failed: ("failed", 3, False)}


def test_a_new_secret_is_shown_once_and_nowhere_else(
    teller: Teller, owner: Connection, hook: Webhook, admin: Visitor, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The secret is only in the answer to the form, which is not cached. No header, page, audit line or log has it.
    """
    answer = admin.send(f"/admin/webhooks/{hook.id}/rotate", {"reason": "it leaked"})

    assert answer.status == 200
    [secret] = set(SECRET.findall(answer.text.replace("&#43;", "+")))
    assert answer.headers["Cache-Control"] == "no-store"
    assert secret not in str(answer.headers)
    for address in ("/admin/webhooks", f"/admin/webhooks/{hook.id}", "/admin/audit"):
        seen = admin.get(address)
        assert seen.status == 200
        assert "whsec_" not in seen.text
    assert secret not in capsys.readouterr().out
    [line, *_] = teller.admin.get("/v1/admin/audit").json["data"]
    assert (line["action"], line["reason"]) == ("webhook_secret_rotated", "it leaked")


def test_a_rotation_that_is_sent_again_rotates_once(
    teller: Teller, owner: Connection, hook: Webhook, admin: Visitor
) -> None:
    """
    A reload of the page with the secret, and simultaneous clicks. A form that is loaded again rotates again.
    """
    base = f"/admin/webhooks/{hook.id}"
    read = "SELECT secret, previous_secret, previous_until FROM webhooks"
    for turn in (1, 2):
        form = fields(admin.get(base).text, f"{base}/rotate") | {"reason": "it leaked"}
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _, form=form: admin.send(f"{base}/rotate", form), range(4)))
        after = owner.execute(read).fetchone()
        again = admin.send(f"{base}/rotate", form)

        assert sorted(answer.status for answer in answers) == [200, 303, 303, 303]
        assert (again.status, again.location) == (303, base)
        assert "Nothing was done again." in admin.get(base).text
        assert owner.execute(read).fetchone() == after
        lines = teller.admin.get("/v1/admin/audit").json["data"]
        assert [line["action"] for line in lines].count("webhook_secret_rotated") == turn


def test_a_webhook_is_deleted_with_a_reason(teller: Teller, hook: Webhook, admin: Visitor) -> None:
    """
    A deletion needs a reason, which is in the audit.
    """
    base = f"/admin/webhooks/{hook.id}"
    assert admin.send(f"{base}/delete").status == 422

    assert admin.send(f"{base}/delete", {"reason": "moved"}).location == "/admin/webhooks"

    assert admin.get(base).status == 404
    [line, *_] = teller.admin.get("/v1/admin/audit").json["data"]
    assert (line["action"], line["reason"]) == ("webhook_deleted", "moved")


def test_operators_see_webhooks_and_change_none(teller: Teller, owner: Connection, hook: Webhook) -> None:
    """
    An operator's page has no form, and sending one is refused.
    """
    [failed] = deliver(owner, hook, "failed")
    operator = Visitor.signed_in(teller, teller.operator)
    base = f"/admin/webhooks/{hook.id}"

    text = operator.get(base).text

    assert listed(text) == [failed]
    assert "<form" not in text.partition("<main")[2]
    forms = {
        f"{base}/resend": {"reason": "x", "newest": str(failed)},
        f"{base}/rotate": {"reason": "x"},
        f"{base}/delete": {"reason": "x"},
        f"/admin/deliveries/{failed}/resend": {},
    }
    assert [operator.send(address, form).status for address, form in forms.items()] == [403] * 4
    assert states(owner) == {failed: ("failed", 3, False)}
