"""
Keys in the console: shown once and nowhere else, revoked with a reason, for admins alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from processor.clients import keys
from processor.storage import connections
from tests.http.visitor import Visitor

if TYPE_CHECKING:
    from tests.http.teller import Teller

KEY = re.compile(r"teller_[A-Za-z0-9_-]{43}")
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def admin(teller: Teller) -> Visitor:
    """
    An admin who is signed in.
    """
    return Visitor.signed_in(teller, teller.admin)


def key_id_of(teller: Teller, client: str) -> str:
    """The one key of a client."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        [(key_id,)] = connection.execute("SELECT id FROM api_keys WHERE client_id = %s", (client,)).fetchall()
    return str(key_id)


def audit_of(teller: Teller) -> list[tuple[str, str | None, dict[str, str]]]:
    """Action, reason and detail of each line, newest first."""
    return [
        (line["action"], line["reason"], line["detail"])
        for line in teller.admin.get("/v1/admin/audit").json["data"]
    ]


def test_a_new_key_is_shown_once_and_nowhere_else(
    teller: Teller, admin: Visitor, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The answer to the form has it, and is not to be kept; no header, no other page, no audit, no log. It works.
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
    With a client named, the key belongs to it; a client that is not there is a mistake told in the form.
    """
    made = admin.send("/admin/keys", {"name": "second", "role": "client", "client": teller.client.id})
    wrong = admin.send("/admin/keys", {"name": "third", "role": "client", "client": "nobody"})

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
def test_what_is_wrong_makes_no_key(teller: Teller, admin: Visitor, form: dict[str, str]) -> None:
    """
    The form comes again, and nothing was made.
    """
    before = audit_of(teller)

    answer = admin.send("/admin/keys", form)

    assert answer.status == 422
    assert KEY.search(answer.text) is None
    assert audit_of(teller) == before


def test_a_revoked_key_ends_its_sessions_and_the_reason_stays(teller: Teller, admin: Visitor) -> None:
    """
    Who was signed in with it is not any more; the audit knows why.
    """
    operator = Visitor.signed_in(teller, teller.operator)
    key_id = key_id_of(teller, teller.operator.id)
    assert "1 session of this console ends at once" in admin.get(f"/admin/keys/{key_id}").text

    revoked = admin.send(f"/admin/keys/{key_id}/revoke", {"reason": "he left"})

    assert (revoked.status, revoked.location) == (303, f"/admin/keys/{key_id}")
    assert operator.get("/admin").status == 303
    assert audit_of(teller)[0] == ("key_revoked", "he left", {"key": key_id})
    assert "was revoked already" in _told(admin, key_id)


def _told(admin: Visitor, key_id: str) -> str:
    again = admin.send(f"/admin/keys/{key_id}/revoke", {"reason": "again"})
    assert again.location is not None
    return admin.get(again.location).text


def test_revoking_ones_own_key_is_announced_and_signs_out(teller: Teller, admin: Visitor) -> None:
    """
    The page says so before, and that no other admin is left; afterwards the session is over.
    """
    key_id = key_id_of(teller, teller.admin.id)
    page = admin.get(f"/admin/keys/{key_id}").text
    assert "revoking it signs you out at once" in page
    assert "It is the last valid key of an admin" in page

    revoked = admin.send(f"/admin/keys/{key_id}/revoke", {"reason": "done here"})

    assert (revoked.status, revoked.location) == (303, "/admin/sign-in")
    assert "Your key is revoked, and you are signed out." in admin.get("/admin/sign-in").text
    assert admin.get("/admin").status == 303


def test_keys_are_not_shown_to_operators(teller: Teller) -> None:
    """
    Neither in the navigation nor at their address.
    """
    operator = Visitor.signed_in(teller, teller.operator)

    assert "/admin/keys" not in operator.get("/admin").text
    assert operator.get("/admin/keys").status == 403
    assert operator.send("/admin/keys", {"name": "x", "role": "admin"}).status == 403


def test_names_are_text(teller: Teller, admin: Visitor) -> None:
    """
    A script as a name runs nowhere, and is shown as it is.
    """
    assert admin.send("/admin/keys", {"name": SCRIPT, "role": "client"}).status == 200
    key_id = audit_of(teller)[0][2]["key"]
    for address in ("/admin/keys", f"/admin/keys/{key_id}", "/admin/audit"):
        text = admin.get(address).text
        assert SCRIPT not in text
        assert "&lt;script&gt;alert(1)" in text
    assert SCRIPT not in admin.get(f"/admin/keys/new?client={SCRIPT}").text


def test_keys_are_found_by_client_role_and_state(teller: Teller, admin: Visitor) -> None:
    """
    Each filter leaves what it names, page by page.
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
