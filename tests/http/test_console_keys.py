"""
Keys at the console: for admins alone, shown once, revoked with a reason.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from processor.clients import keys
from processor.storage import connections
from tests.http.visitor import Visitor, fields

if TYPE_CHECKING:
    from tests.http.teller import Teller

KEY = re.compile(r"teller_[A-Za-z0-9_-]{43}")
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def admin(teller: Teller) -> Visitor:
    """
    An admin with a session.
    """
    return Visitor.signed_in(teller, teller.admin)


def key_id_of(teller: Teller, client: str) -> str:
    """Return the id of a client's only key."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        [(key_id,)] = connection.execute("SELECT id FROM api_keys WHERE client_id = %s", (client,)).fetchall()
    return str(key_id)


def audit_of(teller: Teller) -> list[tuple[str, str | None, dict[str, str]]]:
    """Return action, reason and detail of each line of the audit, newest first."""
    return [
        (line["action"], line["reason"], line["detail"])
        for line in teller.admin.get("/v1/admin/audit").json["data"]
    ]


def test_a_form_that_is_sent_again_makes_one_key(teller: Teller, admin: Visitor) -> None:
    """
    A reload of the page with the new key leads to the page of that key.
    """
    form = fields(admin.get("/admin/keys/new").text, "/admin/keys") | {"name": "the till", "role": "operator"}
    made = admin.send("/admin/keys", form)
    again = admin.send("/admin/keys", form)

    assert (made.status, again.status) == (200, 303)
    assert again.location == f"/admin/keys/{form['number']}"
    assert "Nothing was done again." in admin.get(str(again.location)).text
    assert len([line for line in audit_of(teller) if line[2].get("name") == "the till"]) == 1


def test_a_new_key_is_shown_once_and_nowhere_else(
    teller: Teller, admin: Visitor, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The key is only in the answer to the form, which is not cached. No header, page, audit line or log has it.
    """
    made = admin.send("/admin/keys", {"name": "the shop", "role": "operator", "lifetime": "90d"})

    assert made.status == 200
    found = KEY.findall(made.text)
    assert len(set(found)) == 1
    key = found[0]
    assert made.headers["Cache-Control"] == "no-store"
    assert key not in str(made.headers)
    [listed] = [line for line in audit_of(teller) if line[2].get("name") == "the shop"]
    assert listed[0] == "key_created"
    pages = ["/admin/keys", f"/admin/keys/{listed[2]['key']}", "/admin/audit", "/admin/keys/new", "/admin"]
    for address in pages:
        seen = admin.get(address)
        assert seen.status == 200
        assert KEY.search(seen.text) is None
    assert key not in capsys.readouterr().out
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        caller = keys.authenticate(connection, keys.digest_of(key))
    assert caller is not None
    assert (caller.name, caller.role) == ("the shop", "operator")


def test_a_second_key_is_of_the_same_client(teller: Teller, admin: Visitor) -> None:
    """
    The new key belongs to the given client. An unknown client is reported in the form.
    """
    made = admin.send("/admin/keys", {"name": "second", "role": "client", "client": teller.client.id})
    wrong = admin.send("/admin/keys", {"name": "third", "role": "client", "client": "unknown"})

    assert made.status == 200
    assert teller.client.id in admin.get(f"/admin/keys?client={teller.client.id}").text
    assert wrong.status == 422
    assert "There is no such client" in wrong.text
    assert 'value="third"' in wrong.text
    assert audit_of(teller)[0][2]["name"] == "second"


@pytest.mark.parametrize(
    "form",
    [
        {"role": "client"},
        {"name": "x"},
        {"name": "x", "role": "king"},
        {"name": "x" * 129, "role": "client"},
        {"name": "a\nb", "role": "client"},
        {"name": "x", "role": "client", "lifetime": "1000000d"},
        {"name": "x", "role": "client", "client": "a b"},
        {"name": "x", "role": "client", "extra": "1"},
    ],
)
def test_an_invalid_form_creates_no_key(teller: Teller, admin: Visitor, form: dict[str, str]) -> None:
    """
    The form is shown again, and no key is created.
    """
    before = audit_of(teller)

    answer = admin.send("/admin/keys", form)

    assert answer.status == 422
    assert KEY.search(answer.text) is None
    assert audit_of(teller) == before


def test_a_revoked_key_ends_its_sessions_and_its_reason_is_in_the_audit(
    teller: Teller, admin: Visitor
) -> None:
    """
    Sessions of a revoked key end at once. A second revocation is reported as such.
    """
    operator = Visitor.signed_in(teller, teller.operator)
    key_id = key_id_of(teller, teller.operator.id)
    assert "Console sessions that end at once: 1." in admin.get(f"/admin/keys/{key_id}").text

    revoked = admin.send(f"/admin/keys/{key_id}/revoke", {"reason": "left the company"})

    assert (revoked.status, revoked.location) == (303, f"/admin/keys/{key_id}")
    assert operator.get("/admin").status == 303
    assert audit_of(teller)[0] == ("key_revoked", "left the company", {"key": key_id})
    assert "was already revoked" in revoke_again(admin, key_id)


def revoke_again(admin: Visitor, key_id: str) -> str:
    """Revoke a key that is already revoked. Returns the page after it."""
    again = admin.send(f"/admin/keys/{key_id}/revoke", {"reason": "again"})
    assert again.location is not None
    return admin.get(again.location).text


def test_revoking_ones_own_key_ends_the_session(teller: Teller, admin: Visitor) -> None:
    """
    The page warns of the end of the session, and of revoking the last key of an admin.
    """
    key_id = key_id_of(teller, teller.admin.id)
    page = admin.get(f"/admin/keys/{key_id}").text
    assert "Revoking it signs you out at once" in page
    assert "This is the last valid key of an admin" in page

    revoked = admin.send(f"/admin/keys/{key_id}/revoke", {"reason": "done here"})

    assert (revoked.status, revoked.location) == (303, "/admin/sign-in")
    assert "Your key is revoked, and you are signed out." in admin.get("/admin/sign-in").text
    assert admin.get("/admin").status == 303


def test_keys_are_not_shown_to_operators(teller: Teller) -> None:
    """
    Operators get neither the link to the keys nor the pages.
    """
    operator = Visitor.signed_in(teller, teller.operator)

    assert "/admin/keys" not in operator.get("/admin").text
    assert operator.get("/admin/keys").status == 403
    assert operator.send("/admin/keys", {"name": "x", "role": "admin"}).status == 403


def test_markup_in_a_name_is_escaped(teller: Teller, admin: Visitor) -> None:
    """
    A script as a name is shown as text.
    """
    assert admin.send("/admin/keys", {"name": SCRIPT, "role": "client"}).status == 200
    key_id = audit_of(teller)[0][2]["key"]
    for address in ("/admin/keys", f"/admin/keys/{key_id}", "/admin/audit"):
        text = admin.get(address).text
        assert SCRIPT not in text
        assert "&lt;script&gt;alert(1)" in text
    assert SCRIPT not in admin.get(f"/admin/keys/new?client={SCRIPT}").text


def test_keys_are_filtered_by_client_role_and_state(teller: Teller, admin: Visitor) -> None:
    """
    Each filter selects the keys that it names, in pages.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        for number in range(60):
            keys.create_key(connection, f"many-{number}", "client", teller.other.id)
        old = keys.create_key(connection, "too old", "client")
        connection.execute("UPDATE api_keys SET expires_at = '2020-01-01' WHERE id = %s", (old.id,))
        keys.revoke_key(connection, keys.create_key(connection, "gone", "operator").id)

    def names(query: str) -> list[str]:
        text = admin.get(f"/admin/keys?{query}").text
        return re.findall(r'<td data-label="Name"><a href="/admin/keys/[0-9a-f-]{36}">([^<]*)</a>', text)

    assert names("state=expired") == ["too old"]
    assert names("state=revoked") == ["gone"]
    assert names("role=operator") == ["gone", "operator"]
    assert names("role=operator&state=valid") == ["operator"]
    first = admin.get(f"/admin/keys?client={teller.other.id}").text
    cursor = re.search(r'name="cursor" value="([^"]+)"', first)
    assert cursor is not None
    rest = names(f"client={teller.other.id}&cursor={cursor[1]}")
    assert len(names(f"client={teller.other.id}")) == 50
    assert rest == [f"many-{number}" for number in reversed(range(10))] + ["other"]
    assert admin.get("/admin/keys?role=king").status == 422
