"""
Sessions at the console: sign-in, cookies, the end of a session, and the security headers of pages.
"""

from __future__ import annotations

import html
import re
import threading
from dataclasses import replace
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING

import pytest

from api import create_app
from api.console.pages import local_path
from processor.storage import connections
from tests.http.visitor import Visitor

if TYPE_CHECKING:
    from tests.http.teller import Client, Teller

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGES = ("/admin", "/admin/resources", "/admin/search?q=u", "/admin/partitions/1", "/admin/nothing")


def change(teller: Teller, statement: str, *parameters: object) -> None:
    """Execute a statement as the owner of the database."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        connection.execute(statement.encode(), parameters)


def key_id_of(teller: Teller, client: Client) -> str:
    """Return the id of a client's key."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        [(found,)] = connection.execute(
            "SELECT id FROM api_keys WHERE client_id = %s", (client.id,)
        ).fetchall()
    return str(found)


def has_to_sign_in(visitor: Visitor) -> bool:
    """Return whether a page redirects the visitor to the sign-in page."""
    answer = visitor.get("/admin/resources")
    return (answer.status, answer.location) == (303, "/admin/sign-in?next=%2Fadmin%2Fresources")


def test_an_invalid_key_or_a_clients_key_begins_no_session(teller: Teller) -> None:
    """
    The page reports the error in one line, without the key, and sets no cookie.
    """
    wrong = "teller_" + "a" * 43
    for key, status, words in (
        ("", 422, "begins with teller_"),
        (wrong, 401, "unknown, has expired or was revoked"),
        ("nonsense", 401, "unknown, has expired or was revoked"),
        (teller.client.key, 403, "a client's key"),
    ):
        visitor = Visitor.new(teller)
        answer = visitor.send("/admin/sign-in", {"key": key})
        text = html.unescape(answer.text)
        assert answer.status == status
        assert words in text
        assert "Set-Cookie" not in answer.headers
        assert not key or key not in answer.text
        assert visitor.get("/admin").status == 303


def test_repeated_wrong_keys_get_429(teller: Teller) -> None:
    """
    After too many failures in a minute, sign-ins return 429 with Retry-After. Existing sessions continue.
    """
    application = create_app(replace(teller.settings, sign_in_limit=3))
    try:
        strict = replace(teller, application=application)
        earlier = Visitor.signed_in(strict, teller.operator)
        visitor = Visitor.new(strict)
        answers = [visitor.send("/admin/sign-in", {"key": f"teller_{n:043}"}) for n in range(6)]

        assert [answer.status for answer in answers] == [401, 401, 401, 429, 429, 429]
        assert int(answers[-1].headers["Retry-After"]) >= 1
        assert "<h1>Too many requests</h1>" in answers[-1].text
        assert earlier.get("/admin").status == 200
    finally:
        application.extensions["teller"].close()


def test_the_cookie_is_hidden_from_scripts_and_other_sites(teller: Teller) -> None:
    """
    The cookie is HttpOnly, SameSite, for /admin, and valid for 12 hours. It is Secure if the page came by https.
    """
    for headers, secure in (({}, False), ({"X_Forwarded_Proto": "https"}, True)):
        answer = Visitor.new(teller).send("/admin/sign-in", {"key": teller.admin.key}, **headers)
        [cookie] = SimpleCookie(answer.headers["Set-Cookie"]).values()
        assert cookie["httponly"] is True
        assert cookie["samesite"] == "Lax"
        assert cookie["path"] == "/admin"
        assert cookie["max-age"] == "43200"
        assert bool(cookie["secure"]) == secure
        assert len(cookie.value) == 43


def test_the_database_does_not_contain_the_token(teller: Teller) -> None:
    """
    The database has only the token's digest, so that its content is no way to sign in.
    """
    visitor = Visitor.signed_in(teller, teller.admin)
    token = visitor.browser.get_cookie("teller_session", path="/admin")
    assert token is not None
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        rows = connection.execute("SELECT console_sessions::text FROM console_sessions").fetchall()

    assert len(rows) == 1
    assert token.value not in rows[0][0]
    assert token.value.encode().hex() not in rows[0][0]


def test_a_session_ends_with_its_key_at_the_next_click(teller: Teller) -> None:
    """
    Sessions of a revoked or expired key end at once, in all processes and despite caches.
    """
    for end in ("expires_at = now()", "revoked_at = now()"):  # last, because a revocation is final
        visitor = Visitor.signed_in(teller, teller.operator)
        key = key_id_of(teller, teller.operator)
        assert visitor.get("/admin/resources").status == 200

        change(teller, f"UPDATE api_keys SET {end} WHERE id = %s", key)  # noqa: S608

        assert has_to_sign_in(visitor)
        change(teller, "UPDATE api_keys SET expires_at = NULL WHERE id = %s", key)


def test_a_session_ends_after_twelve_hours_or_on_signing_out(teller: Teller) -> None:
    """
    The session ends in the database, so a copy of the cookie no longer works.
    """
    visitor = Visitor.signed_in(teller, teller.operator)
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        [(hours,)] = connection.execute(
            "SELECT extract(epoch FROM expires_at - created_at) / 3600 FROM console_sessions"
        ).fetchall()
    assert round(float(hours), 3) == 12
    change(teller, "UPDATE console_sessions SET expires_at = now()")
    assert has_to_sign_in(visitor)

    leaving = Visitor.signed_in(teller, teller.operator)
    kept = leaving.browser.get_cookie("teller_session", path="/admin")
    assert kept is not None
    left = leaving.send("/admin/sign-out")
    assert (left.status, left.location) == (303, "/admin/sign-in")
    assert leaving.browser.get_cookie("teller_session", path="/admin") is None
    leaving.browser.set_cookie("teller_session", kept.value, path="/admin")
    assert has_to_sign_in(leaving)
    lines = [
        one for one in teller.admin.get("/v1/admin/audit").json["data"] if one["action"] != "key_created"
    ]
    assert [(one["actor"].partition(" ")[0], one["action"]) for one in lines] == [
        (teller.operator.id, "signed_out"),
        (teller.operator.id, "signed_in"),
        (teller.operator.id, "signed_in"),
    ]


def test_a_session_ends_with_a_key_that_expires_sooner(teller: Teller) -> None:
    """
    A session ends no later than its key.
    """
    change(
        teller,
        "UPDATE api_keys SET expires_at = now() + interval '1 hour' WHERE client_id = %s",
        teller.admin.id,
    )
    Visitor.signed_in(teller, teller.admin)
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        same = connection.execute(
            "SELECT s.expires_at = k.expires_at FROM console_sessions s JOIN api_keys k ON k.id = s.key_id"
        ).fetchall()
    assert same == [(True,)]


def test_expired_sessions_are_deleted(teller: Teller) -> None:
    """
    The next sign-in deletes expired sessions, so the table stays small.
    """
    for _ in range(3):
        Visitor.signed_in(teller, teller.admin)
    change(teller, "UPDATE console_sessions SET expires_at = now()")
    Visitor.signed_in(teller, teller.admin)
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        assert connection.execute("SELECT count(*) FROM console_sessions").fetchall() == [(1,)]


def test_another_site_cannot_sign_a_visitor_in(teller: Teller) -> None:
    """
    The sign-in form has no token, so the headers of the browser decide.
    """
    for headers in (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        answer = Visitor.new(teller).send("/admin/sign-in", {"key": teller.admin.key}, **headers)
        assert (answer.status, "Set-Cookie" in answer.headers) == (403, False)
    for headers in ({"Sec_Fetch_Site": "same-origin"}, {"Origin": "http://localhost"}, {}):
        assert Visitor.new(teller).send("/admin/sign-in", {"key": teller.admin.key}, **headers).status == 303


def test_a_second_sign_in_ends_the_first_session(teller: Teller) -> None:
    """
    One browser has one session. The older cookie no longer works.
    """
    visitor = Visitor.signed_in(teller, teller.operator)
    before = visitor.browser.get_cookie("teller_session", path="/admin")
    assert before is not None
    assert visitor.send("/admin/sign-in", {"key": teller.admin.key}).status == 303
    after = visitor.browser.get_cookie("teller_session", path="/admin")
    assert after is not None
    assert after.value != before.value
    visitor.browser.set_cookie("teller_session", before.value, path="/admin")
    assert has_to_sign_in(visitor)


@pytest.mark.parametrize(
    "next_page",
    [
        "https://evil.example/admin",
        "//evil.example/admin",
        "/\\evil.example",
        "\\\\evil.example",
        "/admin\\..\\evil",
        "javascript:alert(1)",
        "/administrator",
        "/v1/requests",
        "http:/admin",
        "/admin\r\nSet-Cookie: a=b",
        "//admin",
        "///admin",
        "///admin/failed",
        "//[/admin",
        "https:///admin",
    ],
)
def test_a_sign_in_does_not_redirect_to_other_sites(teller: Teller, next_page: str) -> None:
    """
    An address outside the console is replaced by the first page.
    """
    answer = Visitor.new(teller).send("/admin/sign-in", {"key": teller.admin.key, "next": next_page})
    assert (answer.status, answer.location) == (303, "/admin")


def test_a_sign_in_redirects_to_the_requested_page() -> None:
    """
    The address keeps its query. Without an address it is the first page.
    """
    assert local_path("/admin/failed?code=a&resource=b%26c") == "/admin/failed?code=a&resource=b%26c"
    assert local_path("/admin") == "/admin"
    assert local_path(None) == "/admin"


@pytest.mark.parametrize(
    "beside", ['theme={"dark": true}; ', 'name="; ', "a b=c; ", "näme=ü; ", "teller_session2=x; ", "; ;= ;"]
)
def test_cookies_of_other_servers_on_the_host_do_not_break_a_session(teller: Teller, beside: str) -> None:
    """
    Browsers send the cookies of all ports of a host, whatever their syntax.
    """
    visitor = Visitor.signed_in(teller, teller.operator)
    token = visitor.browser.get_cookie("teller_session", path="/admin")
    assert token is not None
    raw = Visitor(teller.application.test_client(use_cookies=False))
    sent = f"{beside}teller_session={token.value}; teller_session=another".encode().decode("latin-1")

    assert raw.get("/admin/resources", Cookie=sent).status == 200


def test_forged_forms_are_refused_without_an_error(teller: Teller) -> None:
    """
    Two tokens, an invalid origin, and a time that has no UTC are refused.
    """
    visitor = Visitor.signed_in(teller, teller.admin)
    pausing = "/admin/partitions/1/pause"
    assert visitor.send(pausing, {"reason": "x", "csrf": [visitor.token, visitor.token]}, None).status == 403
    assert visitor.send(pausing, {"reason": "x"}, Origin="http://[x").status == 403
    assert visitor.send(pausing, {"reason": "x"}, Origin="null").status == 403
    for page in ("failed", "audit"):
        answer = visitor.get(f"/admin/{page}?since=0001-01-01T00:00%2B14:00")
        assert (answer.status, "<li>since must be a time" in answer.text) == (422, True)
        assert "It is JSON" not in answer.text
    assert (visitor.get("/admin/").status, visitor.get("/admin/").location) == (303, "/admin")


def test_every_page_has_the_policy_and_no_inline_script(teller: Teller) -> None:
    """
    No page has an inline script, style or handler, is cached or framed, or sends its address to other sites.
    """
    teller.open("bank", "balance", 100)
    visitor = Visitor.signed_in(teller, teller.admin)
    for address in (*PAGES, "/admin/resources/bank", "/admin/sign-in"):
        browser = Visitor.new(teller) if address.endswith("sign-in") else visitor
        page = browser.get(address)
        assert page.headers.getlist("Content-Security-Policy") == [POLICY]
        assert page.headers.getlist("Referrer-Policy") == ["same-origin"]
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Cache-Control"] == "no-store"
        assert re.findall(r"<style|\sstyle=|\son\w+=|hx-on|javascript:|<script(?! src=)", page.text) == []


def test_static_files_are_cached_and_addressed_by_content(teller: Teller) -> None:
    """
    The address has a digest of the content. Another version's address returns the file without caching.
    """
    page = Visitor.new(teller).get("/admin/sign-in").text
    addresses = re.findall(r'(?:src|href)="(/admin/static/[^"]+)"', page)
    visitor = Visitor.new(teller)
    assert {address.rpartition("/")[2] for address in addresses} == {
        "console.css",
        "console.js",
        "htmx.min.js",
        "icon.svg",
    }
    for address in addresses:
        file = visitor.get(address)
        assert (file.status, file.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
    older = visitor.get("/admin/static/000000000000/console.css")
    assert (older.status, older.headers["Cache-Control"]) == (200, "no-store")
    for nothing in (
        "/admin/static/x/nothing.css",
        "/admin/static/x/htmx.LICENSE.txt",
        "/admin/static/x/..%2fapp.py",
    ):
        assert visitor.get(nothing).status in (303, 404)


def test_a_page_that_reloads_itself_is_sent_to_the_sign_in_page(teller: Teller) -> None:
    """
    Without a session, htmx gets a redirect of the page instead of a part of it.
    """
    answer = Visitor.new(teller).get("/admin", HX_Request="true")
    assert (answer.status, answer.headers["HX-Redirect"], answer.text) == (200, "/admin/sign-in", "")


def test_a_notice_is_shown_once_and_cannot_be_forged(teller: Teller) -> None:
    """
    A notice without a valid signature is ignored. Reloading a part of a page keeps the notice.
    """
    visitor = Visitor.signed_in(teller, teller.operator)
    visitor.send("/admin/partitions/3/pause", {"reason": "x"})
    assert "is paused. It accepts" not in visitor.get("/admin", HX_Request="true").text
    assert "is paused. It accepts" in visitor.get("/admin").text
    assert "is paused. It accepts" not in visitor.get("/admin").text
    for forged in ("WyJkb25lIiwgImhpIl0=.00", "x", "WyJkb25lIiwgImhpIl0=."):
        visitor.browser.set_cookie("teller_notice", forged, path="/admin")
        page = visitor.get("/admin")
        assert (page.status, 'class="notice' in page.text) == (200, False)


def test_an_unavailable_database_is_reported_on_a_page(teller: Teller) -> None:
    """
    Pages and the sign-in return 503 with Retry-After and an explanation.
    """
    application = create_app(replace(teller.settings, api_database_url="postgresql://127.0.0.1:1/nothing"))
    try:
        disconnected = Visitor.new(replace(teller, application=application))
        disconnected.browser.set_cookie("teller_session", "x" * 43, path="/admin")
        for answer in (
            disconnected.get("/admin"),
            disconnected.send("/admin/sign-in", {"key": teller.admin.key}),
        ):
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert "<h1>The database is not available</h1>" in answer.text
    finally:
        application.extensions["teller"].close()


def test_an_invalid_form_gets_an_error_page(teller: Teller) -> None:
    """
    A form is refused if it is too large, of another type, or has control characters or unknown fields.
    """
    visitor = Visitor.signed_in(teller, teller.operator)
    pause = "/admin/partitions/3/pause"
    assert visitor.send(pause, {"reason": "x" * 70_000}).status == 413
    assert visitor.send(pause, {"reason": "x" * 2_000}).status == 422
    assert visitor.send(pause, {"reason": "a\0b"}).status == 422
    assert visitor.send(pause, {"reason": "x", "force": "1"}).status == 422
    assert visitor.send(pause, {}).status == 422
    as_json = visitor.browser.post(pause, json={"reason": "x", "csrf": visitor.token})
    assert as_json.status_code == 415
    assert visitor.get("/admin/resources?kind=nonsense").status == 422
    assert visitor.get("/admin/resources?cursor=nonsense").status == 422
    assert visitor.get("/admin/search?q=%00").status == 422


def test_simultaneous_visitors_see_their_own_pages(teller: Teller) -> None:
    """
    The application keeps no state of a visitor between requests.
    """
    visitors = [Visitor.signed_in(teller, client) for client in (teller.admin, teller.operator)] * 4
    wrong: list[str] = []

    def look(visitor: Visitor, role: str) -> None:
        browser = Visitor(teller.application.test_client())
        cookie = visitor.browser.get_cookie("teller_session", path="/admin")
        assert cookie is not None
        browser.browser.set_cookie("teller_session", cookie.value, path="/admin")
        text = browser.get("/admin").text
        if f'<span class="soft">{role}</span>' not in text or visitor.token not in text:
            wrong.append(role)

    threads = [
        threading.Thread(target=look, args=(visitor, ("admin", "operator")[place % 2]))
        for place, visitor in enumerate(visitors)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_using_the_console_is_using_the_key(teller: Teller) -> None:
    """
    A key that is used through a session has a last use.
    """
    visitor = Visitor.signed_in(teller, teller.operator)
    application = create_app(teller.settings)
    try:
        fresh = Visitor.new(replace(teller, application=application))
        cookie = visitor.browser.get_cookie("teller_session", path="/admin")
        assert cookie is not None
        fresh.browser.set_cookie("teller_session", cookie.value, path="/admin")
        assert fresh.get("/admin").status == 200
    finally:
        application.extensions["teller"].close()  # writes the last use
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        used = connection.execute(
            "SELECT last_used_at IS NOT NULL FROM api_keys WHERE client_id = %s", (teller.operator.id,)
        ).fetchall()
    assert used == [(True,)]
