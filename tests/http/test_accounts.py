"""
Accounts: how to reach the person behind one.
"""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from processor.clients import accounts
from processor.clients.keys import Caller
from processor.storage import connections

if TYPE_CHECKING:
    from tests.http.teller import Teller


def test_an_account_has_the_address_that_was_set_last(teller: Teller) -> None:
    """
    Each client has its own accounts: another one's u_42 is somebody else.
    """
    set_first = teller.client.put("/v1/accounts/u_42", {"email": "ada@example.com"})
    teller.client.put("/v1/accounts/u_42", {"email": "ada@example.org"})
    teller.other.put("/v1/accounts/u_42", {"email": "bob@example.com"})
    seen = teller.client.get("/v1/accounts/u_42")

    assert (set_first.status_code, set_first.json["email"]) == (200, "ada@example.com")
    assert (seen.json["account"], seen.json["email"]) == ("u_42", "ada@example.org")
    assert seen.json["updated_at"] > set_first.json["updated_at"]
    assert teller.other.get("/v1/accounts/u_42").json["email"] == "bob@example.com"
    assert teller.admin.get("/v1/accounts/u_42").status_code == 404

    taken_away = teller.client.put("/v1/accounts/u_42", {"email": None})
    assert taken_away.json["email"] is None
    assert teller.client.get("/v1/accounts/u_42").json["email"] is None


def test_who_has_an_address_is_written_to(teller: Teller) -> None:
    """
    The mail is in the same transaction as the change: as soon as it is decided, it is waiting.
    """
    teller.open("a")
    teller.client.put("/v1/accounts/ada", {"email": "ada@example.com"})
    teller.client.post("/v1/redemptions", {"resource": "a", "account": "ada"})
    teller.client.post("/v1/redemptions", {"resource": "a", "account": "bob"})
    teller.other.post("/v1/redemptions", {"resource": "a", "account": "ada"})
    teller.drain()

    with teller.services.connection() as connection:
        rows = connection.execute("SELECT email, type FROM deliveries").fetchall()
    assert rows == [("ada@example.com", "request.completed")]


def waiting(teller: Teller) -> list[tuple[Any, ...]]:
    """Who is still to be told that his address is no longer one, oldest first."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        return connection.execute(
            "SELECT client_id, account, email, became FROM address_changes ORDER BY changed_at"
        ).fetchall()


def test_the_old_address_is_told_of_a_change_and_not_of_the_new_one(teller: Teller) -> None:
    """
    When it was changed or taken away, each time; enough of the new one to recognise it, too little to write to it.
    """
    for email in ("ada@example.com", "countess@lovelace.example.org", None, "a@b", "ada@example.com"):
        assert teller.client.put("/v1/accounts/u_42", {"email": email}).status_code == 200

    assert waiting(teller) == [
        (teller.client.id, "u_42", "ada@example.com", "c***@l***.org"),
        (teller.client.id, "u_42", "countess@lovelace.example.org", None),
        (teller.client.id, "u_42", "a@b", "a***@e***.com"),
    ]


def test_who_keeps_his_address_is_told_nothing(teller: Teller) -> None:
    """
    Set again, written otherwise, refused, new, another client's of the same name: nothing was changed.
    """
    teller.client.put("/v1/accounts/u", {"email": None})
    for email in ("ada@example.com", "ada@example.com", "Ada@Example.COM", "nonsense"):
        teller.client.put("/v1/accounts/u", {"email": email})
    teller.other.put("/v1/accounts/u", {"email": "bob@example.com"})
    teller.operator.put("/v1/accounts/u", {"email": "bob@example.com"})
    teller.client.get("/v1/accounts/u")

    assert waiting(teller) == []
    assert teller.client.get("/v1/accounts/u").json["email"] == "Ada@Example.COM"


def test_an_operators_change_is_in_the_audit_with_the_address_masked(teller: Teller) -> None:
    """
    A client's own change is not.
    """
    assert teller.client.put("/v1/accounts/ada", {"email": "ada@example.com"}).status_code == 200
    assert teller.admin.put("/v1/accounts/ada", {"email": "mallory@example.com"}).status_code == 200
    assert teller.admin.put("/v1/accounts/ada", {"email": None}).status_code == 200

    lines = [
        (one["actor"], one["detail"])
        for one in teller.admin.get("/v1/admin/audit").json["data"]
        if one["action"] == "account_email_set"
    ]
    admin = f"{teller.admin.id} (admin admin)"
    whose = {"client": teller.admin.id, "account": "ada"}
    assert lines == [(admin, whose | {"email": None}), (admin, whose | {"email": "m***@e***.com"})]


def test_of_changes_at_the_same_instant_no_address_is_forgotten(teller: Teller) -> None:
    """
    Twenty addresses at once for a new account: each but the last one is told, of the one that came after it.
    """
    addresses = [f"{letter}@example.com" for letter in "abcdefghijklmnopqrst"]
    barrier = threading.Barrier(len(addresses))
    caller = Caller(UUID(int=1), teller.client.id, "shop", "client")

    def change(address: str) -> None:
        with connections.connect(teller.settings.api_database_url, application_name="test api") as connection:
            barrier.wait()
            accounts.set_email(connection, "u", address, caller)

    threads = [threading.Thread(target=change, args=(address,)) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    told = waiting(teller)
    last = teller.client.get("/v1/accounts/u").json["email"]
    assert sorted([row[2] for row in told] + [last]) == addresses
    assert [row[3] for row in told] == [
        accounts.masked(after) for _, after in pairwise([*(r[2] for r in told), last])
    ]


def test_a_change_that_cannot_be_told_is_not_made(teller: Teller) -> None:
    """
    One transaction: when the word to the old address cannot be written, the address is as before.
    """
    teller.client.put("/v1/accounts/u", {"email": "ada@example.com"})
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        connection.execute("REVOKE INSERT ON address_changes FROM teller_api")

    assert teller.client.put("/v1/accounts/u", {"email": "eve@example.com"}).status_code == 500
    assert teller.client.get("/v1/accounts/u").json["email"] == "ada@example.com"


@pytest.mark.parametrize(
    "email",
    [
        "a@b",
        "ada.lovelace+teller@sub.example.com",
        "o'hara!#$%&*/=?^_`{|}~-@xn--bcher-kva.example",
        "a" * 64 + "@example.com",
        "a@" + ".".join(["b" * 63] * 3 + ["c" * 60]),
    ],
)
def test_what_mail_can_carry_is_an_address(teller: Teller, email: str) -> None:
    """
    Up to the longest ones.
    """
    assert teller.client.put("/v1/accounts/u", {"email": email}).json["email"] == email


@pytest.mark.parametrize(
    "email",
    [
        *("", "@", "ada", "ada@", "@example.com", "ada@@example.com", "ada@example@com", "ada @example.com"),
        *(
            "ada@example.com\r\nBcc: all@example.com",
            "ada@example.com\n",
            "<ada@example.com>",
            "ada@example..com",
        ),
        *(
            "ada@-example.com",
            "ada@example-.com",
            ".ada@example.com",
            "ada.@example.com",
            "a..da@example.com",
        ),
        *(
            "ada@example.com.",
            "ada,bob@example.com",
            "ádá@example.com",
            "ada@exämple.com",
            '"ada"@example.com',
        ),
        *("ada@[127.0.0.1]", "a" * 65 + "@example.com", "a@" + "b" * 64 + ".com", "a\x00@example.com"),
        "a@" + ".".join(["b" * 63] * 3 + ["c" * 61]),
        *(7, True, ["ada@example.com"], {}),
    ],
)
def test_what_is_no_address_is_refused(teller: Teller, email: Any) -> None:
    """
    422, and the address is as before.
    """
    teller.client.put("/v1/accounts/u", {"email": "ada@example.com"})

    answer = teller.client.put("/v1/accounts/u", {"email": email})

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert teller.client.get("/v1/accounts/u").json["email"] == "ada@example.com"


@pytest.mark.parametrize("body", [{}, [], {"email": "a@b", "name": "x"}, {"mail": "a@b"}])
def test_an_account_has_an_address_and_nothing_else(teller: Teller, body: Any) -> None:
    """
    422 for what is missing and for what is unknown.
    """
    assert teller.client.put("/v1/accounts/u", body).status_code == 422
    assert teller.client.get("/v1/accounts/u").status_code == 404


@pytest.mark.parametrize("name", ["a b", "ä", "a" * 129, "a%00b"])
def test_what_is_no_name_of_an_account_is_refused(teller: Teller, name: str) -> None:
    """
    It can neither be set nor found.
    """
    assert teller.client.put(f"/v1/accounts/{name}", {"email": "a@b"}).status_code == 422
    assert teller.client.get(f"/v1/accounts/{name}").status_code == 404
