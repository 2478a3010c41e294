"""
Accounts: the address of the person behind an account, and the notice to the old address of a change.
"""

from __future__ import annotations

import threading
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
    Each client has its own accounts. The same name at another client is another account.
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

    removed = teller.client.put("/v1/accounts/u_42", {"email": None})
    assert removed.json["email"] is None
    assert teller.client.get("/v1/accounts/u_42").json["email"] is None


def test_an_account_with_an_address_gets_a_mail(teller: Teller) -> None:
    """
    A decision and its mail are written in one transaction. Accounts without an address get no mail.
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


def notices(teller: Teller) -> list[tuple[Any, ...]]:
    """Return the notices to former addresses that are not sent yet, oldest first."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        return connection.execute(
            "SELECT client_id, account, email, became FROM address_changes ORDER BY changed_at"
        ).fetchall()


def test_each_change_of_an_address_is_a_notice_to_the_old_one(teller: Teller) -> None:
    """
    A changed or removed address gets a notice. The notice shows the new address masked.
    """
    for email in ("ada@example.com", "countess@lovelace.example.org", None, "a@b", "ada@example.com"):
        assert teller.client.put("/v1/accounts/u_42", {"email": email}).status_code == 200

    assert notices(teller) == [
        (teller.client.id, "u_42", "ada@example.com", "c***@l***.org"),
        (teller.client.id, "u_42", "countess@lovelace.example.org", None),
        (teller.client.id, "u_42", "a@b", "a***@e***.com"),
    ]


def test_an_unchanged_address_gets_no_notice(teller: Teller) -> None:
    """
    There is no notice for a first address, the same address, a refused one, or another client's account.
    """
    teller.client.put("/v1/accounts/u", {"email": None})
    for email in ("ada@example.com", "ada@example.com", "Ada@Example.COM", "nonsense"):
        teller.client.put("/v1/accounts/u", {"email": email})
    teller.other.put("/v1/accounts/u", {"email": "bob@example.com"})
    teller.operator.put("/v1/accounts/u", {"email": "bob@example.com"})
    teller.client.get("/v1/accounts/u")

    assert notices(teller) == []
    assert teller.client.get("/v1/accounts/u").json["email"] == "Ada@Example.COM"


def test_an_operators_change_is_in_the_audit_with_the_address_masked(teller: Teller) -> None:
    """
    The audit has an operator's change of an address, masked, but not the change of a client.
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


def test_changes_at_the_same_instant_are_notified_up_to_the_limit_of_the_hour(teller: Teller) -> None:
    """
    When twenty addresses are set at once, the first of them get a notice of their successors, and no other does.
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

    found = notices(teller)
    last = teller.client.get("/v1/accounts/u").json["email"]
    assert len(found) == accounts.QUICK_NOTICES_PER_HOUR
    assert last not in [row[2] for row in found]
    assert [row[3] for row in found[:-1]] == [accounts.masked(row[2]) for row in found[1:]]


def test_a_change_without_a_notice_is_not_made(teller: Teller) -> None:
    """
    Change and notice are one transaction. If the notice cannot be written, the address stays.
    """
    teller.client.put("/v1/accounts/u", {"email": "ada@example.com"})
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        connection.execute("REVOKE INSERT ON address_changes FROM teller_api")

    refused = teller.client.put("/v1/accounts/u", {"email": "eve@example.com"})

    assert (refused.status_code, refused.json["code"]) == (503, "database_unavailable")
    assert "address_changes" not in str(refused.json)  # the log alone names the table
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
def test_an_address_that_mail_can_carry_is_accepted(teller: Teller, email: str) -> None:
    """
    Addresses up to the greatest length are accepted.
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
def test_an_invalid_address_is_refused(teller: Teller, email: Any) -> None:
    """
    An invalid address returns 422, and the old address stays.
    """
    teller.client.put("/v1/accounts/u", {"email": "ada@example.com"})

    answer = teller.client.put("/v1/accounts/u", {"email": email})

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert teller.client.get("/v1/accounts/u").json["email"] == "ada@example.com"


@pytest.mark.parametrize("body", [{}, [], {"email": "a@b", "name": "x"}, {"mail": "a@b"}])
def test_an_account_has_an_address_and_nothing_else(teller: Teller, body: Any) -> None:
    """
    A missing or an unknown field returns 422.
    """
    assert teller.client.put("/v1/accounts/u", body).status_code == 422
    assert teller.client.get("/v1/accounts/u").status_code == 404


@pytest.mark.parametrize("name", ["a b", "ä", "a" * 129, "a%00b"])
def test_an_invalid_name_of_an_account_is_refused(teller: Teller, name: str) -> None:
    """
    An invalid name returns 422 when it is set, and 404 when it is read.
    """
    assert teller.client.put(f"/v1/accounts/{name}", {"email": "a@b"}).status_code == 422
    assert teller.client.get(f"/v1/accounts/{name}").status_code == 404
